//! Names as logs write them (RFC 1035 §5.1): labels between dots, and any byte as `\DDD` or behind a backslash.

use interdict_policy::{DomainName, Name};

/// Reads one, the root too, which some write as nothing; `None` for what is no name.
pub(super) fn read(text: &str) -> Option<DomainName> {
    let text = if text == "." { "" } else { text };
    let (mut wire, mut label) = (Vec::with_capacity(text.len() + 2), Vec::new());
    let mut letters = text.bytes();
    while let Some(letter) = letters.next() {
        match letter {
            b'.' => close(&mut label, &mut wire)?,
            b'\\' => label.push(escaped(&mut letters)?),
            letter => label.push(letter),
        }
    }
    if !label.is_empty() {
        close(&mut label, &mut wire)?;
    }
    wire.push(0);
    Name::from_wire(&wire).map(Name::to_owned)
}

fn close(label: &mut Vec<u8>, wire: &mut Vec<u8>) -> Option<()> {
    // An empty one would end the name.
    wire.push(u8::try_from(label.len()).ok().filter(|len| *len > 0)?);
    wire.extend(label.drain(..).map(|byte| byte.to_ascii_lowercase()));
    Some(())
}

fn escaped(letters: &mut std::str::Bytes<'_>) -> Option<u8> {
    let first = letters.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digits = [first, letters.next()?, letters.next()?];
    std::str::from_utf8(&digits).ok()?.parse().ok()
}
