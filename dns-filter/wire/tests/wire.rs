//! Questions are read as hickory reads them, answers are what hickory understands, and no bytes do harm.

use std::str::FromStr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use interdict_dns_wire::{Blocked, LONGEST_ANSWER_BYTES, Malformed, Query, Rcode, Reply, write_answer};
use proptest::prelude::*;

const BLOCKED: Blocked<'_> =
    Blocked { reply: Reply::Code(Rcode::NxDomain), ttl_secs: 60, ede_code: 15, ede_text: "kaspersky-update" };

fn question(name: &str, rtype: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = true;
    message.add_query(Question::query(Name::from_str(name).unwrap(), rtype));
    if edns {
        let mut opt = Edns::new();
        opt.set_max_payload(4096).set_version(0).set_dnssec_ok(true);
        message.edns = Some(opt);
    }
    message.to_vec().unwrap()
}

fn answer(query: &[u8], blocked: &Blocked<'_>) -> Message {
    let query = Query::read(query).unwrap();
    let mut out = [0; LONGEST_ANSWER_BYTES];
    Message::from_vec(write_answer(&query, blocked, 1, &mut out).unwrap()).unwrap()
}

#[test]
fn a_negative_answer_has_soa_opt_and_the_rules_id() {
    let query = question("S07.Upd.Kaspersky.com.", RecordType::HTTPS, true);
    let message = answer(&query, &BLOCKED);
    let flags = &message.metadata;
    assert_eq!((flags.id, flags.response_code), (0x1234, ResponseCode::NXDomain));
    assert_eq!(
        (flags.authoritative, flags.truncation, flags.recursion_desired, flags.recursion_available),
        (false, false, true, true)
    );
    assert_eq!((flags.authentic_data, flags.checking_disabled), (false, true));
    let soa = &message.authorities[0];
    assert_eq!((soa.name.to_string().to_lowercase().as_str(), soa.ttl), ("upd.kaspersky.com.", 60));
    assert!(matches!(&soa.data, RData::SOA(soa) if soa.minimum == 60));
    let opt = message.edns.as_ref().unwrap();
    assert_eq!((opt.max_payload(), opt.flags().dnssec_ok), (1232, true));
    let ede = opt.options().as_ref().iter().map(|(code, _)| u16::from(*code)).collect::<Vec<_>>();
    assert_eq!(ede, [15]);
}

#[test]
fn without_opt_in_the_question_there_is_none_in_the_answer() {
    let message = answer(&question("a.example.", RecordType::A, false), &BLOCKED);
    assert!(message.edns.is_none());
}

#[test]
fn addresses_and_refusals_carry_no_soa() {
    let query = question("a.example.", RecordType::A, true);
    let addresses = Reply::Addresses { a: Some([192, 0, 2, 1]), aaaa: None };
    let message = answer(&query, &Blocked { reply: addresses, ..BLOCKED });
    assert_eq!(message.answers[0].data.to_string(), "192.0.2.1");
    assert!(message.authorities.is_empty());
    let message = answer(&query, &Blocked { reply: Reply::Code(Rcode::Refused), ..BLOCKED });
    assert_eq!(message.metadata.response_code, ResponseCode::Refused);
    assert!(message.authorities.is_empty());
}

#[test]
fn what_is_not_one_question_is_named() {
    let good = question("a.example.", RecordType::A, true);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Query::read(&bytes).map(|_| ())
    };
    for (at, byte, why) in [
        (2, 0x80, Malformed::NotAQuery),
        (2, 0x28, Malformed::Opcode(5)),
        (5, 0, Malformed::QuestionCount),
        (5, 2, Malformed::QuestionCount),
        (7, 1, Malformed::Records),
        (9, 1, Malformed::Records),
        (11, 2, Malformed::Records),
        (11, 200, Malformed::Records),
        (12, 0xc0, Malformed::Name),
        (12, 64, Malformed::Name),
    ] {
        assert_eq!(with(at, byte), Err(why), "byte {at} is {byte}");
    }
    for len in 0..good.len() {
        assert!(Query::read(&good[..len]).is_err(), "cut at {len}");
    }
}

#[test]
fn the_longest_name_is_read_and_a_longer_one_is_not() {
    let name = |last: usize| {
        let labels = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(last)];
        let mut bytes = b"\0\0\0\0\0\x01\0\0\0\0\0\0".to_vec();
        for label in labels {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.extend(b"\0\0\x01\0\x01");
        bytes
    };
    assert_eq!(Query::read(&name(61)).unwrap().name().len(), 255);
    assert_eq!(Query::read(&name(62)).unwrap_err(), Malformed::Name);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(query) = Query::read(&bytes) {
            let mut out = [0; LONGEST_ANSWER_BYTES];
            let answer = write_answer(&query, &BLOCKED, 2, &mut out).unwrap();
            prop_assert!(Message::from_vec(answer).is_ok());
        }
    }

    #[test]
    fn a_mutated_question_is_read_or_refused(at in 0usize..40, byte: u8) {
        let mut bytes = question("s07.upd.kaspersky.com.", RecordType::A, true);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(query) = Query::read(&bytes) {
            let mut out = [0; LONGEST_ANSWER_BYTES];
            let answer = write_answer(&query, &BLOCKED, 0, &mut out).unwrap();
            prop_assert_eq!(&answer[12..12 + query.question().len()], query.question());
        }
    }
}
