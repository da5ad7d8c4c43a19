//! Domain names in the one form in which they are compared: lower-case, uncompressed wire form.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;

use crate::values::shortened;

/// Longest name on the wire in bytes, length bytes and root included (RFC 1035 §3.1).
const NAME_LIMIT_BYTES: usize = 255;
/// Longest label in bytes (RFC 1035 §3.1).
const LABEL_LIMIT_BYTES: usize = 63;

/// A borrowed domain name: lower-case, uncompressed wire form, right by construction.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Takes a name in wire form, as a DNS message holds it once lower-cased.
    ///
    /// `None` unless `wire` is one complete name of at most 255 bytes: labels of 1 to 63 bytes without
    /// ASCII capitals, then the root, and nothing behind it.
    pub fn from_wire(wire: &'a [u8]) -> Option<Self> {
        if wire.len() > NAME_LIMIT_BYTES {
            return None;
        }
        let mut rest = wire;
        loop {
            let (&len, tail) = rest.split_first()?;
            if len == 0 {
                return tail.is_empty().then_some(Self(wire));
            }
            let len = usize::from(len);
            if len > LABEL_LIMIT_BYTES || tail.len() < len || tail[..len].iter().any(u8::is_ascii_uppercase) {
                return None;
            }
            rest = &tail[len..];
        }
    }

    /// The name as bytes: length-prefixed labels and the root's zero.
    pub fn as_wire(self) -> &'a [u8] {
        self.0
    }

    /// The name and each of its parents, longest first, without the root.
    pub fn suffixes(self) -> impl Iterator<Item = Name<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let here = rest;
            let len = usize::from(*here.first()?);
            if len == 0 {
                return None;
            }
            rest = &here[1 + len..];
            Some(Name(here))
        })
    }

    /// The labels from left to right, without the root.
    pub fn labels(self) -> impl Iterator<Item = &'a [u8]> {
        self.suffixes().map(|suffix| &suffix.0[1..1 + usize::from(suffix.0[0])])
    }

    /// Whether this is `parent` or a name below it, label by label.
    pub fn is_at_or_below(self, parent: Name<'_>) -> bool {
        self.suffixes().any(|suffix| suffix.0 == parent.0) || parent.0 == [0]
    }

    /// An owned copy.
    pub fn to_owned(self) -> DomainName {
        DomainName(self.0.into())
    }
}

impl fmt::Display for Name<'_> {
    /// Presentation form (RFC 1035 §5.1, RFC 4343 §2.1) without the final dot; the root is `.`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == [0] {
            return f.write_str(".");
        }
        for (i, label) in self.labels().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            if let Ok(plain) = std::str::from_utf8(label)
                && label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            {
                f.write_str(plain)?;
                continue;
            }
            for &byte in label {
                presented(byte).iter().try_for_each(|c| f.write_char(char::from(*c)))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One byte of a label in presentation form (RFC 1035 §5.1): itself, escaped, or as `\DDD`. Always ASCII.
fn presented(byte: u8) -> Presented {
    let digit = |n: u8| b'0' + n;
    match byte {
        b'.' | b'\\' => Presented { bytes: [b'\\', byte, 0, 0], len: 2 },
        0x21..=0x7e => Presented { bytes: [byte, 0, 0, 0], len: 1 },
        _ => {
            let bytes = [b'\\', digit(byte / 100), digit(byte / 10 % 10), digit(byte % 10)];
            Presented { bytes, len: 4 }
        }
    }
}

struct Presented {
    bytes: [u8; 4],
    len: u8,
}

impl std::ops::Deref for Presented {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Labels in presentation form, joined by dots, without allocating: every byte of a name takes at most four.
pub(crate) struct PresentationBuffer {
    bytes: [u8; NAME_LIMIT_BYTES * 4],
    len: usize,
}

impl PresentationBuffer {
    /// Writes labels of one name.
    pub(crate) fn of<'l>(labels: impl Iterator<Item = &'l [u8]>) -> Self {
        let mut buffer = Self { bytes: [0; NAME_LIMIT_BYTES * 4], len: 0 };
        for (i, label) in labels.enumerate() {
            if i > 0 {
                buffer.push(b".");
            }
            label.iter().for_each(|byte| buffer.push(&presented(*byte)));
        }
        buffer
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// An owned domain name; see [`Name`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(Arc<[u8]>);

impl DomainName {
    /// Borrows the name.
    pub fn as_name(&self) -> Name<'_> {
        Name(&self.0)
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_name().fmt(f)
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a text is not a domain name; the message names the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or only dots.
    #[error("a name needs at least one label")]
    Empty,
    /// Two dots in a row, or one at the start.
    #[error("a label is empty")]
    EmptyLabel,
    /// A label of more than 63 bytes.
    #[error("label \"{}\" is longer than 63 bytes", shortened(.0))]
    LongLabel(String),
    /// More than 253 characters, which is 255 bytes on the wire.
    #[error("it is {0} characters long; a name has at most 253")]
    TooLong(usize),
    /// A character that host names do not have.
    #[error("it holds {0:?}; names hold letters, digits, hyphens and underscores")]
    BadCharacter(char),
    /// A name in Unicode that IDNA (UTS 46) does not accept.
    #[error("it is not a valid internationalised name")]
    NotIdna,
}

impl FromStr for DomainName {
    type Err = NameError;

    /// Reads a name as people write it: any case, Unicode or A-labels or both, with or without the final dot.
    ///
    /// A name in ASCII is taken letter by letter, even where a label that starts with `xn--` stands for no Unicode
    /// label: DNS carries and compares such names too, and a ban must be able to name them.
    fn from_str(text: &str) -> Result<Self, NameError> {
        labels_to_wire(&to_ascii(text)?, |_| false).map(|wire| Self(wire.into()))
    }
}

/// Lower-case ASCII spelling of a name, Unicode labels turned into A-labels (RFC 5891, UTS 46).
pub(crate) fn to_ascii(text: &str) -> Result<Cow<'_, str>, NameError> {
    if text.is_ascii() {
        return Ok(if text.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        });
    }
    idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY).map_err(|_| NameError::NotIdna)
}

/// Wire form of a dotted ASCII text. `extra` admits characters beyond those of names.
pub(crate) fn labels_to_wire(text: &str, extra: fn(char) -> bool) -> Result<Vec<u8>, NameError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_LIMIT_BYTES - 2 {
        return Err(NameError::TooLong(text.len()));
    }
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.split('.') {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        if label.len() > LABEL_LIMIT_BYTES {
            return Err(NameError::LongLabel(label.to_owned()));
        }
        if let Some(bad) =
            label.chars().find(|&c| !(c.is_ascii_alphanumeric() || c == '-' || c == '_' || extra(c)))
        {
            return Err(NameError::BadCharacter(bad));
        }
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    Ok(wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        for (text, shown) in [
            ("Kaspersky.COM", "kaspersky.com"),
            ("kaspersky.com.", "kaspersky.com"),
            ("_dns.resolver.arpa", "_dns.resolver.arpa"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(text.parse::<DomainName>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn international_names_compare_in_a_label_form() {
        for (text, shown) in [
            ("BÜCHER.Example", "xn--bcher-kva.example"),
            // Composed and decomposed spellings, full-width letters and dots are one name (UTS 46 §4).
            ("bu\u{308}cher.example", "xn--bcher-kva.example"),
            ("ｂücher。example", "xn--bcher-kva.example"),
            ("bücher.example.", "xn--bcher-kva.example"),
            // IDNA2008 keeps the sharp s and the final sigma.
            ("straße.example", "xn--strae-oqa.example"),
            ("касперский.рф", "xn--80akjebc7ajgd.xn--p1ai"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            // Unicode beside A-labels and beside labels that only DNS knows.
            ("bücher.xn--bcher-kva.example", "xn--bcher-kva.xn--bcher-kva.example"),
            ("_tcp.bücher.example", "_tcp.xn--bcher-kva.example"),
            ("r3---sn-a.bücher.example", "r3---sn-a.xn--bcher-kva.example"),
            // ASCII is taken as it stands.
            ("xn--zzzzzzzz.example", "xn--zzzzzzzz.example"),
            ("xn--.example", "xn--.example"),
        ] {
            assert_eq!(
                text.parse::<DomainName>().map(|name| name.to_string()).as_deref(),
                Ok(shown),
                "{text}"
            );
        }
        let long_label = "ü".repeat(60);
        for text in [
            "\u{fdfa}.example",           // becomes several words with spaces
            "a\u{200b}\u{2028}b.example", // a line separator
            "\u{202e}moc.example",        // a right-to-left override
            "אa.example",                 // two directions in one label
            "bücher.xn--zzzzzzzz.example",
            "xn--bcher-kva\u{308}.example",
            "\u{301}a.example", // starts with a combining mark
            "bücher..example",
            "ü/ü.example",
            "ü*.example",
            "⒈example.ü",
            "\u{fffd}.example",
            &long_label,
        ] {
            let read = text.parse::<DomainName>();
            assert!(read.is_err(), "{text:?} is read as {read:?}");
        }
    }

    #[test]
    fn what_is_no_name_says_why() {
        let long = format!("{}.example", ["a"; 124].join("."));
        for (text, why) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a b.example", NameError::BadCharacter(' ')),
            ("*.example", NameError::BadCharacter('*')),
            (&"a".repeat(64), NameError::LongLabel("a".repeat(64))),
            (&long, NameError::TooLong(long.len())),
        ] {
            assert_eq!(text.parse::<DomainName>(), Err(why), "{text}");
        }
    }

    #[test]
    fn wire_names_are_complete_lower_case_and_bounded() {
        let long = {
            let mut wire = [1, b'a'].repeat(128);
            wire.push(0);
            wire
        };
        for (wire, fine) in [
            (&b"\x03www\x07example\x00"[..], true),
            (b"\0", true),
            (b"\x03wWw\0", false),
            (b"\x03www", false),
            (b"\x03ww", false),
            (b"", false),
            (b"\x01a\0\0", false),
            (b"\xc0\x0c", false),
            (&long, false),
        ] {
            assert_eq!(Name::from_wire(wire).is_some(), fine, "{wire:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_printable_are_shown_as_numbers() {
        let shown = |wire: &'static [u8]| Name::from_wire(wire).unwrap().to_string();
        assert_eq!(shown(b"\x04a.b\\\x01\x1b\0"), "a\\.b\\\\.\\027");
        assert_eq!(shown(b"\0"), ".");
    }
}
