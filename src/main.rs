//! The program: reads the command line and hands over to the verb.

use std::panic::PanicHookInfo;
use std::process::ExitCode;

use clap::Parser;
use interdict::cli::{Cli, ENDED_BY_SIGPIPE};

fn main() -> ExitCode {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // `println!` panics where others would print and be ended by SIGPIPE.
        if is_a_closed_pipe(panic) {
            std::process::exit(ENDED_BY_SIGPIPE.into());
        }
        report(panic);
    }));
    Cli::parse().run()
}

fn is_a_closed_pipe(panic: &PanicHookInfo<'_>) -> bool {
    let said = panic.payload().downcast_ref::<String>();
    said.is_some_and(|said| said.starts_with("failed printing to std") && said.contains("Broken pipe"))
}
