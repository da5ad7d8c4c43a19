//! dnstap (dnstap.info): its Protocol Buffers, and the words of Frame Streams, as they are read from the history of others
//! and as the agent writes them. Of dnstap.proto there is what is looked at or said.

use prost::Message as _;

/// What is in the frames.
pub const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";

/// Control frames of Frame Streams: of a stream of two directions ACCEPT, READY and FINISH too.
pub const ACCEPT: u32 = 1;
/// A stream of frames begins.
pub const START: u32 = 2;
/// It ends.
pub const STOP: u32 = 3;
/// Who writes asks whether he may.
pub const READY: u32 = 4;
/// Who reads has all of it.
pub const FINISH: u32 = 5;
/// A field of a control frame: the type of what is in the others.
const FIELD_CONTENT_TYPE: u32 = 1;

/// `Dnstap`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dnstap {
    /// Who says it.
    #[prost(bytes = "vec", tag = "1")]
    pub identity: Vec<u8>,
    /// The program.
    #[prost(bytes = "vec", tag = "2")]
    pub version: Vec<u8>,
    /// Whatever else: of interdict the digest of the policy.
    #[prost(bytes = "vec", tag = "3")]
    pub extra: Vec<u8>,
    /// A message.
    #[prost(message, optional, tag = "14")]
    pub message: Option<Message>,
    /// 1: it is a message.
    #[prost(int32, tag = "15")]
    pub kind: i32,
}

/// `Message`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// [`kind`]
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// 1 for IPv4, 2 for IPv6.
    #[prost(int32, tag = "2")]
    pub family: i32,
    /// [`protocol`]
    #[prost(int32, tag = "3")]
    pub protocol: i32,
    /// Who asked: 4 or 16 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub client: Vec<u8>,
    /// Whom, where it is said.
    #[prost(bytes = "vec", tag = "5")]
    pub server: Vec<u8>,
    /// The client's port.
    #[prost(uint32, tag = "6")]
    pub client_port: u32,
    /// When it was asked.
    #[prost(uint64, tag = "8")]
    pub query_secs: u64,
    /// And a part of a second.
    #[prost(fixed32, tag = "9")]
    pub query_nanos: u32,
    /// The question, as it came.
    #[prost(bytes = "vec", tag = "10")]
    pub query: Vec<u8>,
    /// When it was answered.
    #[prost(uint64, tag = "12")]
    pub response_secs: u64,
    /// And a part of a second.
    #[prost(fixed32, tag = "13")]
    pub response_nanos: u32,
    /// The answer, as it went.
    #[prost(bytes = "vec", tag = "14")]
    pub response: Vec<u8>,
    /// What decided.
    #[prost(message, optional, tag = "15")]
    pub policy: Option<Policy>,
}

/// `Policy`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Policy {
    /// The kind of policy: `RPZ`, `interdict`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The rule.
    #[prost(bytes = "vec", tag = "2")]
    pub rule: Vec<u8>,
    /// [`action`]
    #[prost(int32, tag = "3")]
    pub action: i32,
    /// [`matched`]
    #[prost(int32, tag = "4")]
    pub matched: i32,
    /// What of it matched: a name in wire form, or an address.
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

/// `Message.Type`
pub mod kind {
    /// A question of a client.
    pub const CLIENT_QUERY: i32 = 5;
    /// The answer to it.
    pub const CLIENT_RESPONSE: i32 = 6;
}

/// `SocketProtocol`
pub mod protocol {
    /// The numbers, by the record's words for channels.
    pub const CHANNELS: [(i32, &str); 5] = [(1, "udp"), (2, "tcp"), (3, "dot"), (4, "doh"), (7, "doq")];
}

/// `PolicyAction`
pub mod action {
    /// "No such name".
    pub const NXDOMAIN: i32 = 1;
    /// "No such record".
    pub const NODATA: i32 = 2;
    /// It is answered as if there were no policy.
    pub const PASS: i32 = 3;
    /// It is not answered.
    pub const DROP: i32 = 4;
    /// It is to be asked again over a stream.
    pub const TRUNCATE: i32 = 5;
    /// The policy says what is answered.
    pub const LOCAL_DATA: i32 = 6;
}

/// `PolicyMatch`
pub mod matched {
    /// The name that was asked for.
    pub const QNAME: i32 = 1;
    /// An address in the answer.
    pub const RESPONSE_IP: i32 = 3;
}

impl Dnstap {
    /// A frame with it.
    pub fn frame(&self) -> Vec<u8> {
        let bytes = self.encode_to_vec();
        [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
    }
}

/// A control frame; with the content type where it says one.
pub fn control(kind: u32, says_type: bool) -> Vec<u8> {
    let mut frame = kind.to_be_bytes().to_vec();
    if says_type {
        frame.extend(FIELD_CONTENT_TYPE.to_be_bytes());
        frame.extend((CONTENT_TYPE.len() as u32).to_be_bytes());
        frame.extend(CONTENT_TYPE);
    }
    [&[0; 4][..], &(frame.len() as u32).to_be_bytes(), &frame].concat()
}
