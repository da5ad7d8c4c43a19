//! The DNS step of the kernel programs, run on the host: on any bytes at all, on names that look like others, and on
//! tables of policies.
//!
//! The memory that the step is given here has the kernel's size and ends where that ends: what the kernel would mask
//! to another place is a panic.

use std::cell::Cell;
mod kept;

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RData;
use interdict_dns_wire::{
    Blocked, Bytes, Edns, HEADER_BYTES, LABELS_LIMIT, LONGEST_ANSWER_BYTES, LONGEST_QUESTION_END, Memory,
    NAME_LIMIT_BYTES, OPT_BYTES, Question, Rcode, Reply, Room, Round, TAIL_WORDS, Template,
};
use interdict_ebpf_program::query::{Asked, Names, Wish, judge};
use interdict_ebpf_shared::{
    name::{self, NameEntry, NameSlot, SEARCH_BYTES, find, hash},
    policy::{Decision, State, Verdict},
};
use interdict_policy::{Action, Name, NameForm, Policy, Source, compile};
use kept::SECRET;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// As much of a message as the kernel reads.
const READ_BYTES: usize = LONGEST_QUESTION_END + OPT_BYTES;
/// What stood in the memory before.
const STALE: u8 = 0xa5;

const OPT: [u8; OPT_BYTES] = [0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0];
/// Labels and words of a name that the kernel reads in the packet, without a copy of it.
const BRIEF_ROUNDS: usize = 8;

fn entry(verdict: Verdict) -> NameEntry {
    NameEntry::new(by(1, verdict), 0)
}

fn blocked() -> NameEntry {
    entry(Verdict::Block)
}

fn by(rule: u32, verdict: Verdict) -> Decision {
    Decision { rule, state: State::new(verdict) }
}

/// Memory that may not be left.
struct Fenced<'m>(&'m [Cell<u8>]);

impl<'m> Fenced<'m> {
    fn new(bytes: &'m mut [u8]) -> Self {
        Self(Cell::from_mut(bytes).as_slice_of_cells())
    }
}

impl Bytes for Fenced<'_> {
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let place = &self.0[at..at + N];
        std::array::from_fn(|i| place[i].get())
    }
}

impl Memory for Fenced<'_> {
    fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].iter().zip(bytes).for_each(|(place, byte)| place.set(byte));
    }
}

impl Room for Fenced<'_> {
    fn copy(&mut self, words: &[u64; TAIL_WORDS], bytes: usize) {
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.0[..bytes].iter().zip(words).for_each(|(place, byte)| place.set(byte));
    }

    fn set(&mut self, at: usize, bytes: [u8; 2]) {
        Memory::set(self, at, bytes);
    }
}

/// A message of which only names of usual length are read, as the kernel reads it in the packet.
struct Brief<'m>(Fenced<'m>);

impl Bytes for Brief<'_> {
    const LONGEST_NAME_BYTES: usize = 8 * BRIEF_ROUNDS;

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at % 0x80)
    }

    fn repeat<R: Round>(_limit: usize, work: &mut R) -> Option<usize> {
        (1..=BRIEF_ROUNDS).find(|_| !work.round())
    }
}

/// The names of a policy as the kernel has them.
struct Kept {
    names: name::Names,
    table: kept::Kept,
}

impl Kept {
    /// The table of these names, each with how many labels it has.
    fn of(slots: &[(usize, NameSlot)]) -> Self {
        let entries: Vec<_> = slots.iter().map(|(_, slot)| (slot.hash, slot.word())).collect();
        let table = kept::Kept::of(&entries);
        let depths = slots.iter().fold(0, |depths, (labels, _)| depths | name::Names::depth(*labels));
        Self { names: name::Names { layout: table.layout, depths }, table }
    }
}

impl Names for Kept {
    fn find<M: Bytes + ?Sized>(&self, message: &M, question: &Question) -> Option<NameEntry> {
        find(&self.names, message, question, &mut Fenced::new(&mut [STALE; SEARCH_BYTES]), &self.table)
    }
}

fn slot(labels: &[Vec<u8>], itself: NameEntry, below: NameEntry) -> (usize, NameSlot) {
    let message = message(labels, 1, &[]);
    let hash = hash(&SECRET, &message[..], wire(labels).len(), &mut [0; SEARCH_BYTES][..]);
    (labels.len(), NameSlot { hash, itself, below })
}

/// Judges a message of which the kernel has read the beginning, over what stood in the memory before.
fn judged(message: &[u8], stale: u8, names: &impl Names) -> (Wish, Asked) {
    let read = message.len().min(READ_BYTES);
    let mut room = [stale; READ_BYTES];
    room[..read].copy_from_slice(&message[..read]);
    let memory = Fenced::new(&mut room);
    let mut asked = Asked::default();
    let wish = judge(&memory, message.len(), &mut asked, names, |_| false);

    // In the packet it is judged likewise, or handed on to be copied.
    let memory = Brief(memory);
    let mut briefly_asked = Asked::default();
    let briefly = judge(&memory, message.len(), &mut briefly_asked, names, |_| false);
    if briefly != Wish::Unread {
        assert_eq!((briefly, briefly_asked), (wish, asked), "{message:?}");
    }
    (wish, asked)
}

/// Judges the first bytes of a message of which the rest stands behind them.
fn judged_of(message: &[u8], len: usize) -> Wish {
    judge(message, len, &mut Asked::default(), &blocked(), |_| false)
}

/// Makes an answer of a question as the kernel does.
fn answered(
    template: &Template,
    message: &[u8],
    question: &Question,
    edns: Option<Edns>,
    owner: usize,
) -> Vec<u8> {
    let tail = template.tail(Template::place(question.qtype)).unwrap();
    let mut answer = message[..question.end()].to_vec();
    let (start, counts) = tail.header([message[0], message[1], message[2], message[3]], edns);
    answer[..HEADER_BYTES].copy_from_slice(&[&start[..], &counts].concat());
    let mut room = vec![STALE; tail.bytes(edns)];
    let sum = tail.write(&mut Fenced::new(&mut room), edns, owner);
    assert!(room.is_empty() || room.len() >= 16, "{} bytes", room.len());
    // Whether it stands at an even place or at an odd one.
    for place in 0..2 {
        let summed = [&vec![0; place], &room[..], &[0]].concat();
        let expect =
            summed.as_chunks().0.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum::<u64>();
        assert_eq!((sum << (8 * place)) % 0xffff, expect % 0xffff, "{room:?}");
    }
    answer.extend(room);
    assert!(answer.len() <= LONGEST_ANSWER_BYTES, "{} bytes", answer.len());
    answer
}

type Labels = Vec<Vec<u8>>;

fn wire(labels: &[Vec<u8>]) -> Vec<u8> {
    let mut wire: Vec<u8> =
        labels.iter().flat_map(|label| [&[label.len() as u8], &label[..]].concat()).collect();
    wire.push(0);
    wire
}

/// The labels on the right that fit into a name.
fn fitting(mut labels: Labels) -> Labels {
    while wire(&labels).len() > NAME_LIMIT_BYTES {
        labels.remove(0);
    }
    labels
}

fn message(labels: &[Vec<u8>], qtype: u16, behind: &[u8]) -> Vec<u8> {
    let mut message = vec![0xbe, 0xef, 0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, u8::from(!behind.is_empty())];
    message.extend(wire(labels));
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    message.extend(behind);
    message
}

fn is_at_or_below(name: &[Vec<u8>], parent: &[Vec<u8>]) -> bool {
    let lower =
        |labels: &[Vec<u8>]| labels.iter().map(|label| label.to_ascii_lowercase()).collect::<Labels>();
    lower(name).ends_with(&lower(parent))
}

/// Labels that a policy can name, of few letters, so that names often meet. The length bytes of the long ones are a
/// hyphen or a digit.
fn plain_label() -> impl Strategy<Value = Vec<u8>> {
    let long = (select(vec![45, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57]), select(b"a-0".to_vec()));
    prop_oneof![
        4 => select(vec!["a", "b", "ab", "a-", "b0"]).prop_map(|label| label.into()),
        1 => long.prop_map(|(len, letter)| vec![letter; len]),
    ]
}

fn plain_name() -> impl Strategy<Value = Labels> {
    prop_oneof![
        6 => vec(plain_label(), 1..5).prop_map(fitting),
        1 => vec(plain_label(), 1..=LABELS_LIMIT).prop_map(fitting),
    ]
}

/// How a name is made into one that is near it.
#[derive(Clone, Debug)]
enum Twist {
    Prepend(Vec<u8>),
    DropFirst,
    /// Makes one label of the first ones: the length bytes between them become contents.
    Merge(usize),
    Capitals(u64),
    Replace(Index, u8),
}

fn twist() -> impl Strategy<Value = Twist> {
    prop_oneof![
        plain_label().prop_map(Twist::Prepend),
        vec(0..0x80_u8, 1..=63).prop_map(Twist::Prepend),
        Just(Twist::DropFirst),
        (2..4_usize).prop_map(Twist::Merge),
        any::<u64>().prop_map(Twist::Capitals),
        (any::<Index>(), 0..0x88_u8).prop_map(|(at, byte)| Twist::Replace(at, byte)),
    ]
}

fn twisted(mut labels: Labels, twists: Vec<Twist>) -> Labels {
    for twist in twists {
        match twist {
            Twist::Prepend(label) => labels.insert(0, label),
            Twist::DropFirst => drop(labels.drain(..1.min(labels.len()))),
            Twist::Merge(count) => {
                let count = count.min(labels.len());
                let merged = wire(&labels[..count]);
                if let [_, label @ .., _] = &merged[..]
                    && label.len() <= 63
                {
                    labels.splice(..count, [label.to_vec()]);
                }
            }
            Twist::Capitals(which) => {
                let letters = labels.iter_mut().flatten().enumerate();
                letters
                    .filter(|(i, _)| which >> (i % 64) & 1 == 1)
                    .for_each(|(_, byte)| byte.make_ascii_uppercase());
            }
            Twist::Replace(at, byte) => {
                if let bytes @ 1.. = labels.concat().len() {
                    *labels.iter_mut().flatten().nth(at.index(bytes)).unwrap() = byte;
                }
            }
        }
    }
    fitting(labels)
}

/// A rule: its action, the list that it has, and the names there.
type Draft = (&'static str, &'static str, Vec<Labels>);

fn policy(drafts: &[Draft]) -> Policy {
    let mut text = "format = 1\n".to_owned();
    for (i, (action, list, names)) in drafts.iter().enumerate() {
        let name = |labels: &Labels| String::from_utf8(labels.join(&b'.')).unwrap();
        let names: Vec<String> = names.iter().map(name).collect();
        text +=
            &format!("[[rule]]\nid = \"r{i}\"\nrole = \"x\"\naction = \"{action}\"\n{list} = {names:?}\n");
    }
    let source = Source { name: "p.toml".into(), text };
    compile(&[source]).unwrap_or_else(|problems| panic!("{problems}")).policy
}

/// The table of a policy.
fn table(policy: &Policy) -> Kept {
    let entry = |rule: Option<_>, owner_bytes| {
        rule.map_or(NameEntry::NONE, |rule| {
            let verdict = match policy.rule(rule).action {
                Action::Block => Verdict::Block,
                Action::Log => Verdict::Log,
                Action::Allow => Verdict::Allow,
            };
            NameEntry::new(by(rule.as_usize() as u32, verdict), owner_bytes)
        })
    };
    let slots = policy.suffixes().map(|suffix| {
        let labels: Labels = suffix.name.labels().map(<[u8]>::to_vec).collect();
        let below = entry(suffix.domain, suffix.name.as_wire().len() as u8 - 1);
        let host = entry(suffix.host, 0);
        slot(&labels, if host.is_none() { below } else { host }, below)
    });
    Kept::of(&slots.collect::<Vec<_>>())
}

/// What the policy says is to be done about a question for the name, and which name owns the SOA of its answer.
fn wished(policy: &Policy, labels: &[Vec<u8>]) -> (&'static str, u32, usize) {
    let name = wire(labels).to_ascii_lowercase();
    let name = Name::from_wire(&name).unwrap();
    match policy.decide_name(name) {
        None => ("unlisted", 0, 0),
        Some(found) if policy.rule(found.rule).action != Action::Block => ("agent", 0, 0),
        Some(found) => {
            let owner_bytes = match found.form {
                NameForm::Host => 0,
                _ => found.fixed(name).as_wire().len() - 1,
            };
            ("answer", found.rule.as_usize() as u32, owner_bytes)
        }
    }
}

#[test]
fn the_wish_follows_from_the_entry_then_the_records_then_the_class() {
    const ODD: [u8; 11] = [0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0];
    const NEXT_VERSION: [u8; 11] = [0, 0, 41, 0x10, 0, 0, 1, 0, 0, 0, 0];
    for (entry, behind, class, expect) in [
        (NameEntry::NONE, &[][..], 1, "Unlisted"),
        (NameEntry::NONE, &ODD, 3, "Unlisted"),
        (NameEntry::NONE.undecidable(), &[], 1, "Agent"),
        (entry(Verdict::Allow).undecidable(), &[], 1, "Agent"),
        (blocked().undecidable(), &[], 1, "AgentOrDrop"),
        (NameEntry::new(Decision::NONE, 0), &[], 1, "Unlisted"),
        (entry(Verdict::Log), &[], 1, "Agent"),
        (entry(Verdict::Allow), &ODD, 3, "Agent"),
        (blocked(), &[], 1, "Answer"),
        (blocked(), &OPT, 255, "Answer"),
        (blocked(), &NEXT_VERSION, 1, "AgentOrDrop"),
        (blocked(), &ODD, 1, "AgentOrDrop"),
        (blocked(), &OPT[..10], 1, "AgentOrDrop"),
        (blocked(), &[], 3, "AgentOrDrop"),
    ] {
        let mut message = message(&[b"a".to_vec()], 1, behind);
        message[17..19].copy_from_slice(&u16::to_be_bytes(class));
        let (wish, _) = judged(&message, STALE, &entry);
        assert_eq!(format!("{wish:?}"), expect, "{entry:?}, {behind:?}, class {class}");
    }
}

#[test]
fn names_of_every_number_of_labels_and_of_every_length_are_found() {
    for (count, first) in (0..=LABELS_LIMIT).flat_map(|count| (0..=63).map(move |first| (count, first))) {
        let first = (first > 0).then(|| vec![b'Q'; first]);
        let labels: Labels = first.into_iter().chain(vec![b"Z".to_vec(); count]).collect();
        if wire(&labels).len() > NAME_LIMIT_BYTES {
            let (wish, _) = judged(&message(&labels, 1, &[]), STALE, &blocked());
            assert_eq!(wish, Wish::Unread, "{labels:?}");
            continue;
        }
        let small: Labels = labels.iter().map(|label| label.to_ascii_lowercase()).collect();
        let expect = if labels.is_empty() { Wish::Unlisted } else { Wish::Answer };
        let itself = Kept::of(&[slot(&small, blocked(), NameEntry::NONE)]);
        assert_eq!(judged(&message(&labels, 1, &[]), STALE, &itself).0, expect, "{labels:?}");
        if labels.len() > 1 {
            let parent = Kept::of(&[slot(&small[1..], NameEntry::NONE, blocked())]);
            assert_eq!(judged(&message(&labels, 1, &[]), STALE, &parent).0, expect, "below {labels:?}");
        }
    }
}

/// A full bucket is followed by the next ones, and every name of a crowded table is found.
#[test]
fn every_name_of_a_large_table_is_found_and_no_other() {
    let name =
        |i: usize, domain: &str| -> Labels { vec![format!("n{i}").into(), domain.into(), b"zz".to_vec()] };
    let slots: Vec<_> = (0..20_000)
        .map(|i| {
            slot(&name(i, "listed"), NameEntry::new(by(i as u32 % 9999, Verdict::Block), 0), NameEntry::NONE)
        })
        .collect();
    let table = Kept::of(&slots);
    for i in 0..20_000 {
        let (wish, asked) = judged(&message(&name(i, "listed"), 1, &[]), STALE, &table);
        assert_eq!((wish, asked.entry.rule()), (Wish::Answer, i as u32 % 9999), "{i}");
        assert_eq!(judged(&message(&name(i, "other"), 1, &[]), STALE, &table).0, Wish::Unlisted, "{i}");
    }
}

#[test]
fn a_question_cut_off_anywhere_is_judged_by_what_is_there() {
    let longest = vec![vec![b'a'; 63], vec![b'b'; 63], vec![b'c'; 63], vec![b'd'; 61]];
    let mut opt = OPT.to_vec();
    opt[10] = 4;
    opt.extend([0, 10, 0, 0]);
    for (labels, behind) in [(vec![], &[][..]), (vec![b"a".to_vec()], &OPT), (longest, &opt)] {
        let message = message(&labels, 1, behind);
        let question = message.len() - behind.len();
        for len in 0..=message.len() {
            let expect = match len {
                _ if len < HEADER_BYTES => Wish::Nothing,
                _ if len < question => Wish::Unread,
                _ if len < message.len() => Wish::AgentOrDrop,
                _ => Wish::Answer,
            };
            assert_eq!(judged(&message[..len], STALE, &blocked()).0, expect, "cut at {len}");
            assert_eq!(judged_of(&message, len), expect, "cut at {len}, with the rest still there");
        }
    }
}

/// A message in which some bytes are replaced by others.
fn near_a_question() -> impl Strategy<Value = Vec<u8>> {
    let behind = select(vec![&[][..], &OPT, &[0, 0, 41, 2, 0, 0, 0, 0, 0, 0, 4, 0, 10, 0, 0]]);
    let patches = vec((any::<Index>(), 0..4_usize, vec(any::<u8>(), 0..4)), 0..4);
    (plain_name(), vec(twist(), 0..3), behind, patches).prop_map(|(labels, twists, behind, patches)| {
        let mut message = message(&twisted(labels, twists), 1, behind);
        for (at, gone, fresh) in patches {
            let at = at.index(message.len() + 1);
            message.splice(at..message.len().min(at + gone), fresh);
        }
        message
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        select(vec![Rcode::NoError, Rcode::NxDomain, Rcode::Refused]).prop_map(Reply::Code),
        any::<(Option<[u8; 4]>, Option<[u8; 16]>)>().prop_map(|(a, aaaa)| Reply::Addresses { a, aaaa }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// A search finds an entry where it should: what is said of a name for that name, what is said of those below it for
    /// them, and for no other.
    #[test]
    fn a_name_is_found_by_its_parents_and_by_nothing_else(
        parent in plain_name(),
        before in vec(twist(), 0..3),
        twists in vec(twist(), 0..5),
    ) {
        let parent = twisted(parent, before);
        let name = twisted(parent.clone(), twists);
        if parent.is_empty() {
            return Ok(());
        }
        let small: Labels = parent.iter().map(|label| label.to_ascii_lowercase()).collect();
        let (itself, below) = (NameEntry::new(by(1, Verdict::Block), 0), NameEntry::new(by(2, Verdict::Block), 9));
        let table = Kept::of(&[slot(&small, itself, below)]);
        let expect = match is_at_or_below(&name, &parent) {
            false => (Wish::Unlisted, NameEntry::NONE),
            true if name.len() == parent.len() => (Wish::Answer, itself),
            true => (Wish::Answer, below),
        };
        let (wish, asked) = judged(&message(&name, 1, &[]), STALE, &table);
        prop_assert_eq!((wish, asked.entry), expect);
    }

    /// What is found is the policy's decision, and owns the SOA that the policy's does.
    #[test]
    fn names_are_decided_as_the_policy_decides(
        drafts in vec((
            select(vec!["block", "allow", "log"]),
            select(vec!["hosts", "domains"]),
            vec(plain_name(), 1..5),
        ), 1..6),
        asked in vec((any::<Index>(), vec(twist(), 0..4)), 1..12),
    ) {
        let policy = policy(&drafts);
        let table = table(&policy);
        let names: Vec<&Labels> = drafts.iter().flat_map(|(_, _, names)| names).collect();
        for (near, twists) in asked {
            let labels = twisted(near.get(&names).to_vec(), twists);
            let wish = match judged(&message(&labels, 1, &[]), STALE, &table) {
                (Wish::Unlisted, _) => ("unlisted", 0, 0),
                (Wish::Agent, _) => ("agent", 0, 0),
                (Wish::Answer, Asked { edns: None, entry, .. }) => ("answer", entry.rule(), entry.owner_bytes()),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(wish, wished(&policy, &labels), "{:?}", labels);
        }
    }

    /// No bytes do harm, and what stood in the memory before changes nothing.
    #[test]
    fn any_bytes_are_judged_by_themselves(bytes in prop_oneof![
        1 => vec(any::<u8>(), 0..600),
        6 => near_a_question(),
    ]) {
        let (wish, asked) = judged(&bytes, STALE, &blocked());
        prop_assert_eq!((wish, asked), judged(&bytes, 0, &blocked()));
        prop_assert_eq!((wish, asked), judged(&bytes, 0xff, &blocked()));
        prop_assert_eq!(wish, judged_of(&bytes, bytes.len()));
        if wish == Wish::Answer {
            let Asked { question, edns, .. } = asked;
            let reply = Reply::Code(Rcode::NxDomain);
            let blocked = Blocked { reply, ttl_secs: 60, ede_code: 15, ede_text: "rule" };
            let answer = answered(&Template::new(&blocked), &bytes, &question, edns, HEADER_BYTES);
            prop_assert!(Message::from_vec(&answer).is_ok(), "{:?}", answer);
        }
    }

    /// What is answered is what the rule says, in hickory's reading.
    #[test]
    fn an_answer_says_what_its_rule_does(
        labels in (plain_name(), vec(twist(), 0..3)).prop_map(|(labels, twists)| twisted(labels, twists)),
        above in any::<Index>(),
        qtype in prop_oneof![Just(1), Just(28), any::<u16>()],
        flags in any::<[u8; 2]>(),
        edns in proptest::option::of(any::<(u16, bool)>()),
        reply in reply(),
        ttl_secs in 0..0x8000_0000_u32,
        ede_code in any::<u16>(),
        ede_text in "[a-z0-9-]{0,70}",
    ) {
        let opt = edns.map(|(payload_bytes, dnssec_ok)| opt(payload_bytes, dnssec_ok));
        let mut message = message(&labels, qtype, opt.as_ref().map_or(&[], |opt| opt));
        message[2..4].copy_from_slice(&[flags[0] & 0x07, flags[1]]);
        let (wish, Asked { question, edns: read, .. }) = judged(&message, STALE, &blocked());
        assert_eq!(wish, Wish::Answer);
        let left = above.index(labels.len() + 1).min(labels.len().saturating_sub(1));
        let owner = HEADER_BYTES + wire(&labels[..left]).len() - 1;
        let blocked = Blocked { reply, ttl_secs, ede_code, ede_text: &ede_text };
        let answer = answered(&Template::new(&blocked), &message, &question, read, owner);
        let [asked, answer] = [message, answer].map(|bytes| Message::from_vec(&bytes).unwrap());
        let (code, address) = described_reply(reply, qtype);
        check_head(&asked, &answer, code);
        check_address(&answer, &asked.queries[0].name, address.map(|data| (ttl_secs, data)).as_ref());
        let is_negative = address.is_none() && code != ResponseCode::Refused;
        check_soa(&answer, is_negative.then_some((ttl_secs, &labels[left..])));
        check_opt(&answer, edns, &blocked);
    }
}

fn opt(payload_bytes: u16, dnssec_ok: bool) -> [u8; OPT_BYTES] {
    let [high, low] = payload_bytes.to_be_bytes();
    [0, 0, 41, high, low, 0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]
}

/// The code and the address that a rule's answer has for a question of this type.
fn described_reply(reply: Reply, qtype: u16) -> (ResponseCode, Option<IpAddr>) {
    let address = match (reply, qtype) {
        (Reply::Code(Rcode::NxDomain), _) => return (ResponseCode::NXDomain, None),
        (Reply::Code(Rcode::Refused), _) => return (ResponseCode::Refused, None),
        (Reply::Addresses { a, .. }, 1) => a.map(IpAddr::from),
        (Reply::Addresses { aaaa, .. }, 28) => aaaa.map(IpAddr::from),
        _ => None,
    };
    (ResponseCode::NoError, address)
}

fn check_head(asked: &Message, answer: &Message, code: ResponseCode) {
    let (wanted, said) = (&asked.metadata, &answer.metadata);
    assert_eq!((said.id, said.message_type, said.response_code), (wanted.id, MessageType::Response, code));
    assert_eq!(said.recursion_desired, wanted.recursion_desired);
    assert_eq!(said.checking_disabled, wanted.checking_disabled);
    assert!(said.recursion_available && !said.authoritative && !said.truncation && !said.authentic_data);
    assert_eq!(answer.queries, asked.queries);
}

fn check_address(answer: &Message, name: &hickory_proto::rr::Name, expect: Option<&(u32, IpAddr)>) {
    let addresses = answer.answers.iter().map(|record| (&record.name, (record.ttl, record.data.ip_addr())));
    let expect = expect.map(|(ttl_secs, address)| (name, (*ttl_secs, Some(*address))));
    assert!(addresses.eq(expect), "{answer}");
}

fn check_soa(answer: &Message, expect: Option<(u32, &[Vec<u8>])>) {
    let soa = answer.authorities.iter().map(|record| match &record.data {
        RData::SOA(soa) => ((record.ttl, soa.minimum), record.name.iter().map(<[u8]>::to_vec).collect()),
        other => panic!("{other}"),
    });
    assert!(soa.eq(expect.map(|(ttl_secs, owner)| ((ttl_secs, ttl_secs), owner.to_vec()))), "{answer}");
}

fn check_opt(answer: &Message, asked: Option<(u16, bool)>, blocked: &Blocked<'_>) {
    assert_eq!(answer.edns.is_some(), asked.is_some());
    let (Some(opt), Some((payload_bytes, dnssec_ok))) = (&answer.edns, asked) else { return };
    assert_eq!(opt.max_payload(), payload_bytes.clamp(512, 1232));
    assert_eq!((opt.version(), opt.rcode_high(), opt.flags().dnssec_ok), (0, 0, dnssec_ok));
    let text = &blocked.ede_text.as_bytes()[..blocked.ede_text.len().min(64)];
    let error = [&blocked.ede_code.to_be_bytes(), text].concat();
    let options = opt.options().as_ref().iter().map(|(code, option)| {
        let data: Vec<u8> = option.try_into().unwrap();
        (u16::from(*code), data)
    });
    assert!(options.eq([(15, error)]), "{answer}");
}
