//! What a verb says on standard output and standard error, whose reader may leave before the end: `check | head`.
//!
//! `println!` panics then. Here it is an error that goes up, and [`reader_left`] tells it from all others.

use std::fmt::Display;
use std::io::{self, Write};

/// One text and a line's end on standard output.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// One text and a line's end on standard error.
pub(crate) fn say(text: impl Display) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{text}")
}

/// Whether the error only says that nobody reads any more.
pub(crate) fn reader_left(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}
