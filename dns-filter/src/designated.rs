//! Discovery of designated resolvers (RFC 9462): where this server is reached over encrypted channels.

use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::svcb::{Alpn, IpHint, SvcParamKey, SvcParamValue, Unknown};
use hickory_proto::rr::rdata::{A, AAAA, SVCB};
use hickory_proto::rr::{Name as HickoryName, RData, Record, RecordType};
use interdict_dns_wire::Query;
use interdict_policy::Name;

use crate::handler::Designated;
use crate::https;
use crate::serve::TlsService;

/// In wire form: the name under which any resolver is asked (§4), and the label in front of one's own name (§5).
const ANY: &[u8] = b"\x04_dns\x08resolver\x04arpa\0";
const OF_NAME: &[u8] = b"\x04_dns";
/// How long such an answer holds.
const TTL_SECS: u32 = 300;
/// `dohpath` (RFC 9461, §5).
const DOHPATH: u16 = 7;

/// The answer to a question for this server's encrypted channels; `None` if it is another question.
pub(crate) fn designations(designated: &Designated, query: &Query<'_>, name: Name<'_>) -> Option<Message> {
    let of_name = || name.as_wire().strip_prefix(OF_NAME) == Some(designated.name.as_name().as_wire());
    if query.qtype != u16::from(RecordType::SVCB) || (name.as_wire() != ANY && !of_name()) {
        return None;
    }
    let owner = HickoryName::from_labels(name.labels()).ok()?;
    let target = HickoryName::from_labels(designated.name.as_name().labels()).ok()?;
    let mut message = Message::query();
    let hints: Vec<(SvcParamKey, SvcParamValue)> = hints(&designated.addresses).collect();
    for (at, (service, port)) in designated.services.iter().enumerate() {
        let mut parameters = vec![
            (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(protocols(*service)))),
            (SvcParamKey::Port, SvcParamValue::Port(*port)),
        ];
        parameters.extend(hints.iter().cloned());
        if *service == TlsService::Doh {
            let path = SvcParamValue::Unknown(Unknown(format!("{}{{?dns}}", https::PATH).into_bytes()));
            parameters.push((SvcParamKey::Unknown(DOHPATH), path));
        }
        parameters.sort_by_key(|(key, _)| u16::from(*key));
        let data = SVCB::new(at as u16 + 1, target.clone(), parameters);
        message.answers.push(Record::from_rdata(owner.clone(), TTL_SECS, RData::SVCB(data)));
    }
    let addresses = designated.addresses.iter().map(|address| match address {
        IpAddr::V4(v4) => RData::A(A(*v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
    });
    message.additionals.extend(addresses.map(|data| Record::from_rdata(target.clone(), TTL_SECS, data)));
    Some(message)
}

/// By the names of ALPN, the best first.
fn protocols(service: TlsService) -> Vec<String> {
    let names: &[&str] = match service {
        TlsService::Dot => &["dot"],
        TlsService::Doh => &["h3", "h2"],
        TlsService::Doq => &["doq"],
    };
    names.iter().map(|&name| name.to_owned()).collect()
}

fn hints(addresses: &[IpAddr]) -> impl Iterator<Item = (SvcParamKey, SvcParamValue)> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => v4.push(A(*address)),
            IpAddr::V6(address) => v6.push(AAAA(*address)),
        }
    }
    let v4 = (!v4.is_empty()).then_some((SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(v4))));
    let v6 = (!v6.is_empty()).then_some((SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(v6))));
    v4.into_iter().chain(v6)
}
