//! The filter inside another server, as `examples/embed.rs` shows it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::case;
use crate::support::{Case, dig};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(another_server_keeps_its_names_and_loses_the_banned_ones, Dig)]
}

fn another_server_keeps_its_names_and_loses_the_banned_ones() {
    let program = Path::new(env!("CARGO_BIN_EXE_interdict")).with_file_name("examples").join("embed");
    let mut server = Command::new(program).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = said.next().unwrap().strip_prefix("listening on ").unwrap().parse().unwrap();
    dig(address, &["intranet.example", "A"]).has("192.0.2.10").has("flags: qr aa rd;");
    dig(address, &["s07.upd.kaspersky.com", "A"]).has("status: NXDOMAIN").has("(kaspersky-update");
    let seen = said.next().unwrap();
    assert!(seen.starts_with("127.0.0.1 asked for s07.upd.kaspersky.com: block (kaspersky-update"), "{seen}");
    server.kill().unwrap();
    server.wait().unwrap();
}
