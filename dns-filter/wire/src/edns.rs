//! What is done to the options of an answer that is written already.

use core::ops::Range;

use crate::memory::{Bytes, Memory as _};
use crate::query::skip_name;
use crate::question::{HEADER_BYTES, OPT_BYTES, TYPE_OPT};

/// Extended errors (RFC 8914).
pub(crate) const EDE_OPTION: u16 = 15;

/// Adds EDNS options to a message of `len` bytes, and returns its new length; `None`, and nothing is changed, if the message
/// does not end in an OPT record, or there is no room for more.
pub fn add_options(message: &mut [u8], len: usize, options: &[u8]) -> Option<usize> {
    let opt = last_opt(message.get(..len)?)?;
    let more = u16::try_from(options.len()).ok()?;
    let longer = message.get_mut(..len + options.len())?;
    let has = u16::from_be_bytes(Bytes::get(longer, opt + 9)).checked_add(more)?;
    longer[len..].copy_from_slice(options);
    longer.set(opt + 9, has.to_be_bytes());
    Some(longer.len())
}

/// The extended error that a message ends in: INFO-CODE, and where its EXTRA-TEXT is.
pub fn last_error(message: &[u8]) -> Option<(u16, Range<usize>)> {
    let mut at = last_opt(message)? + OPT_BYTES;
    loop {
        let (code, bytes): (u16, u16) = (number(message, at)?, number(message, at + 2)?);
        let end = at + 4 + usize::from(bytes);
        match code {
            EDE_OPTION if end == message.len() && bytes >= 2 => {
                return Some((number(message, at + 4)?, at + 6..end));
            }
            _ if end >= message.len() => return None,
            _ => at = end,
        }
    }
}

/// Writes another EXTRA-TEXT into the extended error that a message of `len` bytes ends in, and returns the message's new
/// length; `None`, and nothing is changed, if it ends in none, or there is no room.
pub fn set_error_text(message: &mut [u8], len: usize, text: &[u8]) -> Option<usize> {
    let (_, old) = last_error(message.get(..len)?)?;
    let opt = last_opt(message.get(..len)?)?;
    let options = usize::from(number(message, opt + 9)?) - old.len() + text.len();
    let options = u16::try_from(options).ok()?;
    let end = old.start + text.len();
    message.get_mut(old.start..end)?.copy_from_slice(text);
    message.set(opt + 9, options.to_be_bytes());
    message.set(old.start - 4, (2 + text.len() as u16).to_be_bytes());
    Some(end)
}

/// Where the OPT record begins that a message ends in.
fn last_opt(message: &[u8]) -> Option<usize> {
    let count = |at: usize| number(message, at).map(u32::from);
    let mut at = HEADER_BYTES;
    for _ in 0..count(4)? {
        at = skip_name(message, at).ok()? + 4;
    }
    let mut last = at;
    for _ in 0..count(6)? + count(8)? + count(10)? {
        last = at;
        at = skip_name(message, at).ok()? + 10;
        at += usize::from(number(message, at - 2)?);
    }
    // Its owner is the root.
    let is_opt = message.get(last) == Some(&0) && number(message, last + 1)? == TYPE_OPT;
    (is_opt && at == message.len()).then_some(last)
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
