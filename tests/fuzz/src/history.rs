//! What `interdict-audit` reads of others: their logs and captures, and what a witness is shown.

use interdict_audit::Offer;
use interdict_audit::history::{Origin, read_bytes};

/// Whatever stands in a file, whoever is said to have written it: it is read to an end, and every entry of it is handed on once.
pub fn history(bytes: &[u8]) {
    for origin in Origin::ALL {
        let (mut seen, mut rest) = (0, bytes);
        let written = (jiff::Timestamp::UNIX_EPOCH, jiff::tz::TimeZone::UTC);
        let counts = read_bytes(origin, &mut rest, written, &mut |_| seen += 1);
        // A flow of packets that only came in is no entry in the end.
        if let Ok(counts) = counts {
            assert!(seen == counts.entries || origin == Origin::Pcap && seen < counts.entries, "{origin:?}");
        }
    }
}

/// What is read as an offer is written as it was read.
pub fn offer(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(offer) = Offer::read(text) {
        let shown = offer.to_string();
        assert_eq!(Offer::read(&shown).expect("it reads its own").to_string(), shown);
    }
}
