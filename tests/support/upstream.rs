//! An upstream that answers as told, and remembers what it was asked.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, SVCB, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::{bind_both, loopback};

/// A server on loopback. `*.silent.test` gets no answer, `*.none.test` NXDOMAIN, `alias-TO.test` a CNAME to TO with its
/// `_` read as dots and an address behind it, `service-TO.test` an HTTPS record that leads to TO, `at-ADDRESS.test`
/// that address with its `-` read as dots, everything else 192.0.2.7, 2001:db8::7 or the text "upstream". HTTPS records
/// carry the IPv4 address as a hint.
pub(crate) struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let (udp, tcp) = bind_both(loopback());
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = udp.recv_from(&mut buffer) {
                if let Some(answer) = answer(&buffer[..len], &noted) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let noted = asked.clone();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut len = [0; 2];
                while stream.read_exact(&mut len).is_ok() {
                    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
                    if stream.read_exact(&mut message).is_err() {
                        break;
                    }
                    let Some(answer) = answer(&message, &noted) else { break };
                    let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
                    if stream.write_all(&framed).is_err() {
                        break;
                    }
                }
            }
        });
        Self { address, asked }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every name it was asked for, lower-case with the final dot.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(query: &[u8], asked: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let name = question.name().to_string().to_lowercase();
    asked.lock().unwrap().push(name.clone());
    if name.ends_with("silent.test.") {
        return None;
    }
    let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.add_query(question.clone());
    if name.ends_with("none.test.") {
        answer.metadata.response_code = ResponseCode::NXDomain;
        return answer.to_vec().ok();
    }
    let mut owner = question.name().clone();
    if let Some(target) = name.strip_prefix("alias-").and_then(|rest| rest.strip_suffix(".test.")) {
        let target = Name::from_ascii(format!("{}.", target.replace('_', "."))).ok()?;
        answer.answers.push(Record::from_rdata(owner, 300, RData::CNAME(CNAME(target.clone()))));
        owner = target;
    }
    let inner = |prefix| name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".test."));
    let address = inner("at-").and_then(|text| text.replace('-', ".").parse().ok());
    let address = address.unwrap_or(Ipv4Addr::new(192, 0, 2, 7));
    match question.query_type() {
        RecordType::HTTPS => {
            let target = inner("service-").map_or(".".to_owned(), |target| target.replace('_', "."));
            let hint = (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A(address)])));
            let service = SVCB::new(1, Name::from_ascii(target).ok()?, vec![hint]);
            answer.answers.push(Record::from_rdata(owner, 300, RData::HTTPS(HTTPS(service))));
        }
        RecordType::A => {
            answer.answers.push(Record::from_rdata(owner, 300, RData::A(A(address))));
        }
        RecordType::AAAA => {
            let address = "2001:db8::7".parse().unwrap();
            answer.answers.push(Record::from_rdata(owner, 300, RData::AAAA(AAAA(address))));
        }
        RecordType::TXT => {
            let text = TXT::new(vec!["upstream".into()]);
            answer.answers.push(Record::from_rdata(owner, 300, RData::TXT(text)));
        }
        _ => {}
    }
    answer.to_vec().ok()
}
