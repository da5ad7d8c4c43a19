//! What `interdict-dns-wire` reads: DNS messages, as the sinkhole reads them and as the kernel programs do.

use interdict_dns_wire::{
    Blocked, Edns, HEADER_BYTES, Kept, LONGEST_ANSWER_BYTES, Malformed, Query, Question, Rcode, Reply, Tail,
    Template, Ttl, add_options, last_error, set_error_text, write_answer,
};
use interdict_ebpf_program::query::{Asked, Wish, judge};
use interdict_ebpf_shared::{
    name::NameEntry,
    policy::{Decision, State, Verdict},
};

/// Both planes see the same question in a message, or none, and answer it with the same bytes.
pub fn wire(bytes: &[u8]) {
    let blocked = Decision { rule: 1, state: State::new(Verdict::Block) };
    let entry = NameEntry::new(blocked, 0);
    let mut asked = Asked::default();
    let wish = judge(bytes, bytes.len(), &mut asked, &entry, |_| false);
    if let Ok(query) = Query::read(bytes) {
        kept(bytes, &query);
    }
    match (wish, Query::read(bytes)) {
        (Wish::Nothing, read) => assert_eq!(read.unwrap_err(), Malformed::NotAQuery),
        (Wish::Opcode, read) => assert!(matches!(read, Err(Malformed::Opcode(4 | 5))), "{read:?}"),
        (Wish::Answer, read) => answer(bytes, &read.unwrap(), &asked.question, asked.edns),
        (Wish::Unread | Wish::Agent | Wish::AgentOrDrop, read) => {
            assert!(
                !matches!(read, Err(Malformed::NotAQuery | Malformed::Opcode(4 | 5))),
                "{wish:?}, {read:?}"
            )
        }
        (Wish::Unlisted, _) => panic!("every name is listed"),
    }
}

/// Whatever was kept as an answer, what is written is no longer than it may be, repeats the question, and takes options; and
/// options are added to nothing but a message that ends in OPT.
fn kept(bytes: &[u8], query: &Query<'_>) {
    let head = HEADER_BYTES + query.question().len();
    let records = &bytes[head..];
    let counts = [0, 1, 2].map(|at| u16::from(*bytes.get(head + at).unwrap_or(&0)) % 4);
    for (counts, records) in [(counts, records), ([0; 3], &[][..])] {
        let kept =
            Kept { rcode: bytes[3] & 0x0f, counts, records, secure: bytes[3] & 0x40 != 0, error: None };
        for (ttl, limit) in [(Ttl::Less(7), usize::MAX), (Ttl::Stale(30), usize::MAX), (Ttl::Less(0), 512)] {
            let mut out = vec![0xa5; bytes.len() + 64];
            let Some(len) = kept.write(query, ttl, limit, &mut out) else { continue };
            let is_cut_off = out[2] & 2 != 0;
            assert!(len <= limit || is_cut_off, "{len} bytes");
            assert_eq!(out[HEADER_BYTES..head], *query.question());
            let longer = add_options(&mut out, len, &[0, 3, 0, 1, 7]);
            assert_eq!(longer, query.edns.map(|_| len + 5), "{query:?}");
        }
    }
    let mut other = bytes.to_vec();
    other.extend([0; 8]);
    if let Some((code, text)) = last_error(bytes) {
        let mut reworded = other.clone();
        let len = set_error_text(&mut reworded, bytes.len(), b"other").unwrap();
        assert_eq!(len, text.start + 5);
        assert_eq!(last_error(&reworded[..len]), Some((code, text.start..len)));
        assert_eq!(reworded[len - 5..len], *b"other");
    }
    if let Some(longer) = add_options(&mut other, bytes.len(), &[0, 3, 0, 1, 7]) {
        assert_eq!((longer, &other[bytes.len()..longer]), (bytes.len() + 5, &[0, 3, 0, 1, 7][..]));
    }
}

/// The two readings of one question are the same, and so are the two answers of each kind.
fn answer(message: &[u8], query: &Query<'_>, question: &Question, edns: Option<Edns>) {
    let read = (question.name_bytes, question.qtype, question.qclass, edns);
    assert_eq!(read, (query.name().len(), query.qtype, query.qclass, query.edns));
    assert_eq!(edns.map_or(0, |edns| usize::from(edns.options_bytes)), query.options().len());
    let (a, aaaa) = (Some([192, 0, 2, 1]), Some([0x20; 16]));
    for reply in [
        Reply::Silence,
        Reply::Code(Rcode::NxDomain),
        Reply::Code(Rcode::Refused),
        Reply::Addresses { a, aaaa },
        Reply::Addresses { a: None, aaaa },
        Reply::Addresses { a, aaaa: None },
    ] {
        let blocked = Blocked { reply, ttl_secs: 60, ede_code: 15, ede_text: "rule" };
        let tail = Tail::new(&blocked, question.qtype);
        assert_eq!(Template::new(&blocked).tail(Template::place(question.qtype)), Some(&tail));
        for labels_left in 0..4 {
            let mut out = [0; LONGEST_ANSWER_BYTES];
            let Some(copied) = write_answer(query, &blocked, labels_left, &mut out) else {
                assert!(tail.is_silent());
                continue;
            };
            let owner = owner(query.name(), labels_left);
            assert_eq!(copied, in_place(message, &tail, question, edns, owner));
            assert_eq!(copied[HEADER_BYTES..question.end()], *query.question());
        }
    }
}

/// The answer as the kernel makes it: of the message, up to its question's end.
fn in_place(message: &[u8], tail: &Tail, question: &Question, edns: Option<Edns>, owner: usize) -> Vec<u8> {
    let mut answer = message[..question.end()].to_vec();
    let (start, counts) = tail.header([message[0], message[1], message[2], message[3]], edns);
    answer[..HEADER_BYTES].copy_from_slice(&[&start[..], &counts].concat());
    let mut room = vec![0xa5; tail.bytes(edns)];
    tail.write(&mut room[..], edns, owner);
    answer.extend(room);
    assert!(answer.len() <= LONGEST_ANSWER_BYTES, "{} bytes", answer.len());
    answer
}

/// Where the name that is left without its first labels begins in the message; without all of them it is the root.
fn owner(name: &[u8], labels_left: usize) -> usize {
    let mut left = name;
    for _ in 0..labels_left {
        left = match left {
            [len @ 1..=63, rest @ ..] => &rest[usize::from(*len)..],
            _ => left,
        };
    }
    HEADER_BYTES + name.len() - left.len()
}
