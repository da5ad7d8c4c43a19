//! The whole path of a question, as one ordered list.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use interdict_dns_wire::{Malformed, Query};
use interdict_policy::{DomainName, Name, Policy, Verdict};

use crate::answer::{edns, edns_in_return, send_blocked, send_code, send_own, send_synthesized};
use crate::channel::Channel;
use crate::clients::Clients;
use crate::counters::{Counters, count, count_verdict};
use crate::designated::designations;
use crate::filter::{Filter, Judgement, Seen, Taps};
use crate::options::{Identity, Wanted};
use crate::own::{Why, about_us, before_why, canary, explanation, nothing, texts, why};
use crate::proxy::Proxies;
use crate::rates::Rates;
use crate::serve::TlsService;

/// The Internet's class.
pub(crate) const CLASS_IN: u16 = 1;
/// Any class.
pub(crate) const CLASS_ANY: u16 = 255;

/// What answers the questions that no rule blocks.
#[async_trait]
pub trait Next: Send + Sync + Unpin + 'static {
    /// Answers a question of class IN for a name on no list of `policy`, which came at this moment, if that takes nothing but
    /// memory: writes an answer of at most `limit` bytes into `out`, and returns its length.
    fn answer_at_once(
        &self,
        _query: &Query<'_>,
        _policy: &Policy,
        _at: Instant,
        _limit: usize,
        _out: &mut [u8],
    ) -> Option<usize> {
        None
    }

    /// Answers a question; `judged` is what the filter decided, with the policy that the question keeps.
    async fn answer<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        query: &Query<'_>,
        judged: &Judgement,
        to: R,
    ) -> ResponseInfo;
}

/// Another server's handler behind the filter.
pub struct Behind<H>(H);

#[async_trait]
impl<H: RequestHandler> Next for Behind<H> {
    async fn answer<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        _: &Query<'_>,
        _: &Judgement,
        to: R,
    ) -> ResponseInfo {
        self.0.handle_request::<R, T>(request, to).await
    }
}

/// The filter as a hickory `RequestHandler`.
pub struct FilterHandler<N> {
    filter: Arc<Filter>,
    clients: Clients,
    counters: Arc<Counters>,
    identity: Identity,
    rates: Rates,
    start: Instant,
    conduct: Conduct,
    next: N,
}

/// What a server does beside what the policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conduct {
    /// Its name, for who asks for it (NSID, RFC 5001; `id.server`, RFC 4892); empty for none. At most
    /// [`NSID_LIMIT_BYTES`](crate::NSID_LIMIT_BYTES).
    pub nsid: String,
    /// Whether it says "no" to programs that ask whether they may go around it.
    pub canaries: bool,
    /// Questions over UDP that it answers in a second for clients of one IPv4 /24 or IPv6 /56; 0 for any number.
    pub prefix_qps: u32,
    /// Of which questions and answers the observer is told.
    pub taps: Taps,
    /// Who speaks for others, over UDP and TCP.
    pub proxies: Proxies,
    /// Whom users of a blocked name are told to turn to.
    pub contact: Contact,
    /// Where the same server is reached over encrypted channels, for who asks (RFC 9462).
    pub designated: Option<Designated>,
}

/// Whom users turn to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// URIs such as `mailto:help@corp.example`, the best first; without any, nobody is told anything. Together with
    /// the organization at most [`CONTACT_LIMIT_BYTES`].
    pub uris: Vec<String>,
    /// Who filters; empty for nobody that is named.
    pub organization: String,
}

/// What a contact may take: answers over UDP have no room for more.
pub const CONTACT_LIMIT_BYTES: usize = 384;

/// Encrypted channels to this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Designated {
    /// The name in its certificate.
    pub name: DomainName,
    /// What is spoken at which port, the best first.
    pub services: Vec<(TlsService, u16)>,
    /// Its addresses, as far as they are known.
    pub addresses: Vec<IpAddr>,
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            nsid: String::new(),
            canaries: true,
            prefix_qps: 0,
            taps: Taps::default(),
            proxies: Proxies::default(),
            contact: Contact::default(),
            designated: None,
        }
    }
}

impl<N: Next> FilterHandler<N> {
    /// The decision.
    pub(crate) fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// What is counted.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether a client is served.
    pub(crate) fn serves(&self, client: IpAddr) -> bool {
        self.clients.serves(client)
    }

    /// Counts a question that came over UDP at this moment, and says whether its network may have asked it.
    pub(crate) fn admits(&self, client: IpAddr, at: Instant) -> bool {
        let second = at.saturating_duration_since(self.start).as_secs() as u32 + 1;
        let admitted = self.rates.admit(client, second);
        if !admitted {
            count(&self.counters.too_fast);
        }
        admitted
    }

    /// What answers the questions that the filter lets through.
    pub fn next(&self) -> &N {
        &self.next
    }

    /// What it does beside what the policy says.
    pub(crate) fn conduct(&self) -> &Conduct {
        &self.conduct
    }

    /// What the server puts into options.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Serves `clients`, answers what the filter blocks, and hands everything else to `next`.
    ///
    /// # Errors
    /// When the system has no random numbers, or the server's name is too long.
    pub fn new(
        filter: Arc<Filter>,
        clients: Clients,
        counters: Arc<Counters>,
        conduct: Conduct,
        next: N,
    ) -> Result<Self, String> {
        let identity = Identity::new(&conduct.nsid)?;
        let (rates, start) = (Rates::new(conduct.prefix_qps), Instant::now());
        Ok(Self { filter, clients, counters, identity, rates, start, conduct, next })
    }
}

impl<H: RequestHandler> FilterHandler<Behind<H>> {
    /// Puts the filter in front of another server's handler. Names that it lets through are answered by that
    /// handler alone: CNAME targets in its answers are not checked.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn in_front_of(handler: H, filter: Arc<Filter>, clients: Clients) -> Result<Self, String> {
        Self::new(filter, clients, Arc::default(), Conduct::default(), Behind(handler))
    }
}

#[async_trait]
impl<N: Next> RequestHandler for FilterHandler<N> {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, to: R) -> ResponseInfo {
        let came = Came { channel: request.protocol().into(), asked: None };
        self.handle::<R, T>(request, came, to).await
    }
}

/// How a request came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    pub(crate) channel: Channel,
    /// The other resolver that it was on its way to, if it was.
    pub(crate) asked: Option<IpAddr>,
}

impl<N: Next> FilterHandler<N> {
    /// Answers a request.
    pub(crate) async fn handle<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        Came { channel, asked }: Came,
        mut to: R,
    ) -> ResponseInfo {
        let count = |counter| count(counter);
        let (c, silence) = (&self.counters, || silence(request));
        count(&c.queries);

        // 1. Strangers get no answer at all: it could only serve to flood someone.
        let client: IpAddr = request.src().ip().to_canonical();
        if !self.clients.serves(client) {
            count(&c.strangers);
            return silence();
        }

        // 2. Only a well-formed question of opcode QUERY has an answer here.
        let query = match Query::read(request.as_slice()) {
            Ok(query) => query,
            Err(why) => {
                count(&c.malformed);
                let code = match why {
                    Malformed::NotAQuery => return silence(),
                    Malformed::Opcode(_) => ResponseCode::NotImp,
                    _ => ResponseCode::FormErr,
                };
                return send_code(code, edns_in_return(request), request, &mut to)
                    .await
                    .unwrap_or_else(silence);
            }
        };

        // 3. EDNS versions to come (RFC 6891 §6.1.3), options that break their rules, and classes other than the
        //    Internet's; what is asked of the server itself.
        let code = match (query.edns, query.qclass) {
            (Some(opt), _) if opt.version > 0 => Some(ResponseCode::BADVERS),
            _ if asked.is_none() && Wanted::of(&query).is_err() => Some(ResponseCode::FormErr),
            (_, CLASS_IN | CLASS_ANY) => None,
            _ => match about_us(&query, self.identity.nsid(), &self.filter.in_force()) {
                Some(said) => {
                    count(&c.own);
                    let Some(answer) = texts(&query, said, 0) else { return silence() };
                    return send_own(answer, &query, request, &mut to).await.unwrap_or_else(silence);
                }
                None => Some(ResponseCode::Refused),
            },
        };
        if let Some(code) = code {
            count(&c.malformed);
            return send_code(code, edns(&query), request, &mut to).await.unwrap_or_else(silence);
        }

        // 4. The decision, before anything is asked of anyone.
        let Some(name) = Name::from_wire(query.name()) else { return silence() };
        let judged = self.filter.judge(name, client).on_its_way_to(asked).over(channel);
        if let Some(why) = why(&query, name, judged.policy()) {
            count(&c.own);
            return self.explain(why, name, &query, &judged, request, to).await.unwrap_or_else(silence);
        }
        let Some((rule, verdict)) = judged.decided() else {
            count_verdict(c, channel, Verdict::None);
            let designated = self.conduct.designated.as_ref().filter(|_| asked.is_none());
            if let Some(answer) = designated.and_then(|ours| designations(ours, &query, name)) {
                count(&c.own);
                return send_own(answer, &query, request, &mut to).await.unwrap_or_else(silence);
            }
            if let Some(synthesized) = canary(name).filter(|_| self.conduct.canaries) {
                count(&c.own);
                return send_synthesized(&synthesized, 0, &query, request, to).await.unwrap_or_else(silence);
            }
            return self.next.answer::<R, T>(request, &query, &judged, to).await;
        };
        self.filter.observer().seen(&Seen {
            client,
            channel,
            asked,
            name,
            qtype: query.qtype,
            via: None,
            rule,
            verdict,
            policy: judged.policy(),
        });

        // 5. Blocked: the rule's answer. Let through: what stands behind.
        count_verdict(c, channel, verdict);
        match verdict {
            Verdict::Block => send_blocked(rule, judged.soa_labels_left(), &query, request, to)
                .await
                .unwrap_or_else(silence),
            _ => self.next.answer::<R, T>(request, &query, &judged, to).await,
        }
    }
}

impl<N: Next> FilterHandler<N> {
    /// Tells what the policy says of a name, and by which rule.
    async fn explain<R: ResponseHandler>(
        &self,
        why: Why<'_>,
        name: Name<'_>,
        query: &Query<'_>,
        judged: &Judgement,
        request: &Request,
        mut to: R,
    ) -> Option<ResponseInfo> {
        let before = before_why(name);
        let about = match (why, before.as_deref().and_then(Name::from_wire)) {
            (Why::Of(about), _) => about,
            (Why::Nothing, Some(about)) if query.qtype == u16::from(RecordType::TXT) => about,
            (Why::Nothing, _) => return send_synthesized(&nothing(), 0, query, request, to).await,
        };
        let decided = self.filter.judge(about, judged.client());
        let said = explanation(about, decided.decided(), decided.policy());
        send_own(texts(query, said, 0)?, query, request, &mut to).await
    }
}

/// What hickory is told when nothing was sent.
pub(crate) fn silence(request: &Request) -> ResponseInfo {
    let metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
    Header { metadata, counts: HeaderCounts::default() }.into()
}
