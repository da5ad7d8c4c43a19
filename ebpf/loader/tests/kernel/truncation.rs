//! Every form of frame, cut off at every byte: decided by what is there, and counted by what is not.

use interdict_ebpf_loader::Entry;

use crate::support::{ends, exit_of, frame, plane, policy, tests, to};

tests![a_lan_frame_is_judged_by_what_is_there, a_wan_frame_is_judged_by_what_is_there];

/// The shortest frame that the kernel runs a program on.
const ETHERNET_BYTES: usize = 14;

const RULES: &str = "
    all block 192.0.2.0/24 2001:db8:1::/48
    web block 192.0.3.0/24 2001:db8:2::/48 tcp/443 udp/443
";

/// The words of a frame, and the length of what stands in front of its transport header.
const FORMS: [(&str, usize); 10] = [
    ("v4", 20),
    ("v4opt", 60),
    ("v4 first", 20),
    ("v6", 40),
    ("v6 hop", 48),
    ("v6 route", 64),
    ("v6 dest", 56),
    ("v6 ah", 64),
    ("v6 frag1", 48),
    ("v6 hop dest route frag1 ah", 40 + 8 + 16 + 24 + 8 + 24),
];

const TAGS: [(&str, usize); 3] = [("", 0), ("vlan", 4), ("qinq oldqinq vlan vlan", 16)];

fn for_each_form(mut check: impl FnMut(&str, &str, usize, usize)) {
    for (tags, tag_bytes) in TAGS {
        for (headers, header_bytes) in FORMS {
            let address_bytes = if headers.starts_with("v4") { 20 } else { 40 };
            let start = ETHERNET_BYTES + tag_bytes;
            check(headers, &format!("{tags} {headers}"), start + address_bytes, start + header_bytes);
        }
    }
}

/// The exit of a packet whose ports are not there: those of a first fragment are in another.
fn cut_off(headers: &str, length: usize, transport: usize) -> &'static str {
    // IPv6 says so in the first four bytes of a header of eight.
    let behind = if headers.ends_with("frag1 ah") { 24 } else { 0 };
    let is_first =
        headers.ends_with("first") || headers.contains("frag1") && length >= transport - behind - 4;
    if is_first { "header_chain_unjudged" } else { "truncated_unjudged" }
}

fn a_lan_frame_is_judged_by_what_is_there() {
    let plane = plane(&policy(RULES));
    for_each_form(|headers, words, addresses_end, transport| {
        let places = if headers.starts_with("v4") {
            ["192.0.2.1", "192.0.3.1"]
        } else {
            ["2001:db8:1::1", "2001:db8:2::1"]
        };
        for word in ["tcp", "udp"] {
            for (place, needs_port) in places.into_iter().zip([false, true]) {
                let whole = frame(&format!("{words} {word}"), &to(place, 443));
                for length in ETHERNET_BYTES..=whole.len() {
                    let expect = match length {
                        _ if length < addresses_end => "truncated",
                        _ if needs_port && length < transport + 4 => cut_off(headers, length, transport),
                        _ => "blocked",
                    };
                    let exit = exit_of(&plane, Entry::Lan, &whole[..length]);
                    assert_eq!(exit, expect, "{words} {word} to {place}, {length} of {} bytes", whole.len());
                }
            }
        }
    });
}

fn a_wan_frame_is_judged_by_what_is_there() {
    let plane = plane(&policy(RULES));
    for_each_form(|headers, words, addresses_end, transport| {
        let (place, us) = if headers.starts_with("v4") {
            ("192.0.3.1", "10.0.0.1")
        } else {
            ("2001:db8:2::1", "2001:db8::1")
        };
        let whole = frame(&format!("{words} tcp:syn"), &ends(place, 443, us, 22));
        for length in ETHERNET_BYTES..=whole.len() {
            let expect = match length {
                _ if length < addresses_end => "truncated",
                // Without its flags it may be anything, and nothing was let out that it could answer.
                _ if length < transport + 4 => cut_off(headers, length, transport),
                _ => "blocked",
            };
            let exit = exit_of(&plane, Entry::Wan, &whole[..length]);
            assert_eq!(exit, expect, "{words} from {place}, {length} of {} bytes", whole.len());
        }
    });
}
