//! Lists of networks: one network or address a line.

use std::net::IpAddr;

use ipnet::IpNet;

use super::draft::Draft;
use super::lines;
use crate::values::read_network;

pub(super) fn read(text: &str, draft: &mut Draft) {
    for (line, word) in lines(text, &['#', ';'], draft) {
        let read = match word.parse::<IpAddr>() {
            Ok(address) => read_network(&IpNet::from(address).to_string()),
            Err(_) => read_network(word),
        };
        match read {
            Ok(network) => draft.network(network),
            Err((message, help)) => draft.leave_out(line, message, &help),
        }
    }
}
