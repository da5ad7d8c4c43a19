//! The server name in a TLS ClientHello (RFC 8446, §4.1.2; RFC 6066, §3), read where it is and turned into the wire form of
//! DNS, in which names are judged.

use interdict_dns_wire::{
    Bytes, HEADER_BYTES, LABEL_LIMIT_BYTES, LABELS_LIMIT, Memory, NAME_LIMIT_BYTES, Question, Round,
};

/// The port on which a ClientHello is looked for.
pub const PORT: u16 = 443;

/// Extensions that are walked through. Browsers send about eighteen.
pub const MAX_EXTENSIONS: usize = 32;

const HANDSHAKE: u8 = 22;
const MAJOR_VERSION: u8 = 3;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER_BYTES: usize = 5;
const HANDSHAKE_HEADER_BYTES: usize = 4;
/// The version and the random number, which stand in front of the session's id.
const BEFORE_SESSION_BYTES: usize = 2 + 32;
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// In a list of server names, in front of the name: the list's length, the kind of name, and its length.
const BEFORE_NAME_BYTES: usize = 5;

/// What the data of a TCP segment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// No ClientHello.
    Other,
    /// The beginning of a ClientHello that names no server, as far as it goes: the rest is in another segment or record, or
    /// behind more extensions than are read; or one that names several.
    Split,
    /// A ClientHello that names no server.
    Unnamed,
    /// A ClientHello with a server's name.
    Named,
}

/// What was read of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the data are.
    pub kind: Kind,
    /// Whether another ClientHello is encrypted in it, whose server's name nobody sees (RFC 9849); the name that is seen is
    /// that of the server in front.
    pub encrypted: bool,
    /// Where the name begins.
    pub name_at: usize,
    /// How long it is.
    pub name_bytes: usize,
}

impl Hello {
    /// Nothing was read.
    pub const NONE: Self = Self::of(Kind::Other);

    const fn of(kind: Kind) -> Self {
        Self { kind, encrypted: false, name_at: 0, name_bytes: 0 }
    }
}

/// Whether data that begin like this may be a ClientHello.
#[inline(always)]
pub const fn may_begin([kind, major]: [u8; 2]) -> bool {
    kind == HANDSHAKE && major == MAJOR_VERSION
}

/// Reads the data of a segment, of which `len` bytes are there.
#[inline(always)]
pub fn read<B: Bytes + ?Sized>(data: &B, len: usize) -> Hello {
    if len < 2 {
        // A byte alone begins whatever it likes.
        return Hello::of(Kind::Split);
    }
    if !may_begin(data.get(0)) {
        return Hello::of(Kind::Other);
    }
    let hello_at = RECORD_HEADER_BYTES + HANDSHAKE_HEADER_BYTES;
    if len < hello_at + BEFORE_SESSION_BYTES + 2 {
        return Hello::of(Kind::Split);
    }
    let [_, record_high, record_low, kind]: [u8; 4] = data.get(2);
    // A record may end before it has begun: what it is stands in the next.
    if u16::from_be_bytes([record_high, record_low]) < HANDSHAKE_HEADER_BYTES as u16 {
        return Hello::of(Kind::Split);
    }
    if kind != CLIENT_HELLO {
        return Hello::of(Kind::Other);
    }
    let [_, high, middle, low]: [u8; 4] = data.get(RECORD_HEADER_BYTES);
    let record_bytes = usize::from(u16::from_be_bytes([record_high, record_low]));
    let hello_bytes = u32::from_be_bytes([0, high, middle, low]) as usize;
    // In several records, or in several segments: what is here may still name the server.
    let said = if hello_bytes + HANDSHAKE_HEADER_BYTES < record_bytes {
        hello_bytes + HANDSHAKE_HEADER_BYTES
    } else {
        record_bytes
    };
    let end = if said + RECORD_HEADER_BYTES < len { said + RECORD_HEADER_BYTES } else { len };
    let is_whole = end >= hello_bytes + hello_at;

    let mut at = hello_at + BEFORE_SESSION_BYTES;
    let [session_bytes, _]: [u8; 2] = data.get(at);
    at = B::forget(at + 1 + usize::from(session_bytes));
    let suites: [u8; 2] = data.get(at);
    let mut is_there = at + 2 <= end;
    at = B::forget(at + 2 + usize::from(u16::from_be_bytes(suites)));
    let [methods, _]: [u8; 2] = data.get(at);
    is_there &= at < end;
    at = B::forget(at + 1 + usize::from(methods));
    is_there &= at + 2 <= end;
    if !is_there {
        return Hello::of(if is_whole { Kind::Unnamed } else { Kind::Split });
    }
    let nothing = B::forget(0);
    let mut walk = Walk {
        data,
        at: at + 2,
        end,
        encrypted: nothing,
        doubtful: nothing,
        name_at: nothing,
        name_bytes: nothing,
    };
    let finished = B::repeat(MAX_EXTENSIONS + 1, &mut walk).is_some();
    let Walk { encrypted, doubtful, name_at, name_bytes, .. } = walk;
    let kind = match (name_at, finished && is_whole) {
        _ if doubtful != 0 => Kind::Split,
        (0, true) => Kind::Unnamed,
        (0, false) => Kind::Split,
        _ => Kind::Named,
    };
    Hello { kind, encrypted: encrypted != 0, name_at, name_bytes }
}

/// Walks through the extensions.
struct Walk<'d, B: ?Sized> {
    data: &'d B,
    at: usize,
    end: usize,
    /// Not 0 if one is encrypted.
    encrypted: usize,
    /// Not 0 if names stand there that nobody may send.
    doubtful: usize,
    name_at: usize,
    name_bytes: usize,
}

impl<B: Bytes + ?Sized> Round for Walk<'_, B> {
    #[inline(always)]
    fn round(&mut self) -> bool {
        let at = self.at;
        if at + 4 > self.end {
            return false;
        }
        let [kind_high, kind_low, high, low]: [u8; 4] = self.data.get(at);
        let bytes = usize::from(u16::from_be_bytes([high, low]));
        match u16::from_be_bytes([kind_high, kind_low]) {
            SERVER_NAME => {
                let [_, _, kind, high, low]: [u8; BEFORE_NAME_BYTES] = self.data.get(at + 4);
                let name_bytes = usize::from(u16::from_be_bytes([high, low]));
                let name_at = at + 4 + BEFORE_NAME_BYTES;
                // Two names, in one list or in two, are none (RFC 6066, §3): who reads the other one is not to be known.
                let is_one = self.name_at == 0 && name_bytes + 5 == bytes;
                if is_one && kind == 0 && name_at + name_bytes <= self.end && name_bytes != 0 {
                    (self.name_at, self.name_bytes) = (name_at, name_bytes);
                } else {
                    self.doubtful = B::forget(1);
                }
            }
            ENCRYPTED_CLIENT_HELLO => self.encrypted = B::forget(1),
            _ => {}
        }
        self.at = B::forget(at + 4 + bytes);
        true
    }
}

/// Writes a server's name into a message, where the name of a question stands, in the wire form of DNS. `None` where it is
/// no name that DNS could have.
#[inline(always)]
pub fn write_name<B: Bytes + ?Sized, M: Memory + ?Sized>(
    data: &B,
    hello: &Hello,
    message: &mut M,
) -> Option<Question> {
    let bytes = hello.name_bytes;
    // As long as the longest name, and a dot at its end.
    if bytes == 0 || bytes > NAME_LIMIT_BYTES - 1 {
        return None;
    }
    // The last word first, from where it ends: behind it the packet may end. In front of it there is room.
    let last: [u8; 8] = data.get(hello.name_at + bytes - 8);
    message.set(HEADER_BYTES + 1 + bytes - 8, last);
    let mut copy = Copy { data, from: hello.name_at, message, done: B::forget(0), bytes };
    B::repeat(NAME_LIMIT_BYTES / 8 + 2, &mut copy);
    message.set(HEADER_BYTES + 1 + bytes, [0, 0]);
    // A dot at the end stands for the root.
    let [last, _]: [u8; 2] = message.get(HEADER_BYTES + bytes);
    let bytes = if last == b'.' { bytes - 1 } else { bytes };
    if bytes > NAME_LIMIT_BYTES - 2 {
        return None;
    }
    message.set(HEADER_BYTES + 1 + bytes, [0, 0]);
    let mut labels =
        Labels { message, at: bytes, run: M::forget(0), labels: M::forget(0), wrong: bytes == 0 };
    M::repeat(NAME_LIMIT_BYTES + 1, &mut labels);
    let Labels { labels, wrong, .. } = labels;
    if wrong || labels > LABELS_LIMIT {
        return None;
    }
    Some(Question { name_bytes: bytes + 2, labels, ..Question::default() })
}

struct Copy<'d, B: ?Sized, M: ?Sized> {
    data: &'d B,
    from: usize,
    message: &'d mut M,
    done: usize,
    bytes: usize,
}

impl<B: Bytes + ?Sized, M: Memory + ?Sized> Round for Copy<'_, B, M> {
    #[inline(always)]
    fn round(&mut self) -> bool {
        if self.done + 8 > self.bytes {
            return false;
        }
        let word: [u8; 8] = self.data.get(self.from + self.done);
        self.message.set(HEADER_BYTES + 1 + self.done, word);
        self.done = B::forget(self.done + 8);
        true
    }
}

/// Turns the dots of a name into the lengths of the labels behind them, from its end.
struct Labels<'m, M: ?Sized> {
    message: &'m mut M,
    /// The byte of the name that is looked at, counted from 1; 0 stands for the length of the first label.
    at: usize,
    /// Bytes of the label behind it.
    run: usize,
    labels: usize,
    wrong: bool,
}

impl<M: Memory + ?Sized> Round for Labels<'_, M> {
    #[inline(always)]
    fn round(&mut self) -> bool {
        let place = HEADER_BYTES + self.at;
        let [byte, next]: [u8; 2] = self.message.get(place);
        if self.at != 0 && byte != b'.' {
            self.run = M::forget(self.run + 1);
            self.at = M::forget(self.at - 1);
            return true;
        }
        self.wrong |= self.run == 0 || self.run > usize::from(LABEL_LIMIT_BYTES);
        self.message.set(place, [self.run as u8, next]);
        self.labels = M::forget(self.labels + 1);
        self.run = M::forget(0);
        if self.at == 0 {
            return false;
        }
        self.at = M::forget(self.at - 1);
        true
    }
}
