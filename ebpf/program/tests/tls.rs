//! Reading server names out of ClientHellos, on the host: the code that the kernel runs, on any bytes.

use interdict_dns_wire::HEADER_BYTES;
use interdict_ebpf_program::tls::{self, Hello, Kind};
use interdict_policy::Name;
use proptest::{collection::vec, prelude::*};

/// A ClientHello with these extensions.
fn hello(session: usize, extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body =
        [&[3, 3][..], &[9; 32], &[session as u8], &vec![8; session], &[0, 2, 0x13, 1, 1, 0]].concat();
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat())
        .collect();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

/// The extension that names a server.
fn server_name(name: &str) -> (u16, Vec<u8>) {
    let entry = [&[0][..], &(name.len() as u16).to_be_bytes(), name.as_bytes()].concat();
    (0, [&(entry.len() as u16).to_be_bytes()[..], &entry].concat())
}

fn wire_of(data: &[u8], hello: &Hello) -> Option<Vec<u8>> {
    let mut message = [0; 640];
    let question = tls::write_name(data, hello, &mut message[..])?;
    Some(message[HEADER_BYTES..HEADER_BYTES + question.name_bytes].to_vec())
}

/// Extensions of other kinds, as they come.
fn others() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    vec((1_u16..0xfe00, vec(any::<u8>(), 0..40)), 0..12)
}

proptest! {
    /// A name is found wherever it stands, and is what DNS would ask for.
    #[test]
    fn a_name_is_found_wherever_it_stands(
        labels in vec("[a-zA-Z0-9_-]{1,63}", 1..8),
        before in others(),
        after in others(),
        session in 0_usize..=32,
        dot in any::<bool>(),
    ) {
        let name = labels.join(".");
        let extensions = [before, vec![server_name(&format!("{name}{}", if dot { "." } else { "" }))], after].concat();
        let data = hello(session, &extensions);
        let read = tls::read(&data[..], data.len());
        prop_assert_eq!(read.kind, Kind::Named);
        prop_assert!(!read.encrypted);
        let expect: Vec<u8> = labels.iter().flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat()).chain([0]).collect();
        let wire = wire_of(&data, &read);
        match Name::from_wire(&expect.to_ascii_lowercase()) {
            Some(_) => prop_assert_eq!(wire, Some(expect)),
            None => prop_assert_eq!(wire, None),
        }
    }

    /// So it is at the limits of a name, with a dot at its end or without one.
    #[test]
    fn the_longest_names_are_read(last in 57_usize..=63, dot in any::<bool>()) {
        let labels = [63, 63, 63, last].map(|bytes| "a".repeat(bytes));
        let name = labels.join(".");
        let data = hello(32, &[server_name(&format!("{name}{}", if dot { "." } else { "" }))]);
        let wire: Vec<u8> = labels.iter().flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat()).chain([0]).collect();
        let expect = (wire.len() <= 255).then_some(wire);
        prop_assert_eq!(wire_of(&data, &tls::read(&data[..], data.len())), expect);
    }

    /// Cut off anywhere, it is known for one, and never names another server.
    #[test]
    fn cut_off_anywhere_it_names_that_server_or_none(before in others(), after in others(), cut in 0_usize..2000) {
        let whole = hello(32, &[before, vec![server_name("s07.upd.vendor.example")], after].concat());
        let data = &whole[..cut.min(whole.len())];
        let read = tls::read(data, data.len());
        match read.kind {
            Kind::Named => prop_assert_eq!(&data[read.name_at..read.name_at + read.name_bytes], b"s07.upd.vendor.example"),
            Kind::Split => prop_assert!(data.len() < whole.len()),
            other => prop_assert!(false, "{other:?} of {} bytes", data.len()),
        }
    }

    /// Of any bytes, what is taken for a name lies inside them.
    #[test]
    fn any_bytes_are_read(start in prop_oneof![Just(vec![]), Just(hello(0, &[])), Just(hello(3, &[server_name("a")]))],
                          at in any::<prop::sample::Index>(), byte in any::<u8>(), rest in vec(any::<u8>(), 0..300)) {
        let mut data = [start, rest].concat();
        if !data.is_empty() {
            let at = at.index(data.len());
            data[at] = byte;
        }
        let read = tls::read(&data[..], data.len());
        if read.kind == Kind::Named {
            prop_assert!(read.name_at + read.name_bytes <= data.len());
            if let Some(wire) = wire_of(&data, &read) {
                let lower = wire.to_ascii_lowercase();
                prop_assert!(Name::from_wire(&lower).is_some_and(|name| name.as_wire() == lower), "{:02x?}", wire);
            }
        }
    }
}
