//! How far contacts got that were let through, as the kernel follows them.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use aya::maps::{HashMap as BpfHashMap, MapData};
use interdict_ebpf_shared::{
    Address,
    contact::Hook,
    count::Count,
    flow::{Depth, Flow, FlowKey},
    maps,
    policy::Verdict,
};
use interdict_policy::{Digest, RuleId};

use crate::{
    Error, Moment,
    clock::Clock,
    events::ip,
    registry::{Registry, word_of},
    staging,
};

/// A contact without a packet for this long is over.
const IDLE: Duration = Duration::from_secs(300);

/// A client and a service that it was let through to: what became of it so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// When the first packet came.
    pub first: Moment,
    /// When the last packet came.
    pub last: Moment,
    /// The policy by which the first was judged.
    pub digest: Digest,
    /// The rule.
    pub rule: RuleId,
    /// What was done.
    pub verdict: interdict_policy::Verdict,
    /// Where it was met.
    pub hook: Hook,
    /// Our side.
    pub client: IpAddr,
    /// The other side.
    pub remote: IpAddr,
    /// The port there, if there is one and it is known.
    pub port: Option<u16>,
    /// The IP protocol number.
    pub protocol: u8,
    /// How far it got.
    pub depth: Depth,
    /// What the client sent.
    pub sent: Count,
    /// What came back.
    pub received: Count,
    /// Whether it is over.
    pub is_over: bool,
}

/// Follows the kernel's table of flows.
pub(crate) struct Flows {
    map: BpfHashMap<MapData, FlowKey, Flow>,
    /// How far it was reported that they got.
    reported: HashMap<FlowKey, u64>,
}

impl Flows {
    pub(crate) fn new(map: BpfHashMap<MapData, FlowKey, Flow>) -> Self {
        Self { map, reported: HashMap::new() }
    }

    /// Hands over each contact that got further than was reported, and each that is over: if times say what is idle. Returns
    /// where those are that are followed by a server's name, as far as they go on.
    pub(crate) fn sweep(
        &mut self,
        registry: &Registry,
        clock: &Clock,
        is_awake: bool,
        mut each: impl FnMut(Reached),
    ) -> Result<Vec<Address>, Error> {
        let mut named = Vec::new();
        let keys: Vec<FlowKey> =
            self.map.keys().collect::<Result<_, _>>().map_err(staging::named(maps::FLOWS))?;
        self.reported.retain(|key, _| self.map.get(key, 0).is_ok());
        for key in keys {
            let Ok(flow) = self.map.get(&key, 0) else { continue };
            let idle = Duration::from_nanos(clock.boot_ns().saturating_sub(flow.last_ns));
            let is_over = is_awake && idle > IDLE;
            let reported = self.reported.entry(key).or_default();
            let got_further = flow.depth > *reported && flow.depth > Depth::Attempted as u64;
            *reported = flow.depth.max(*reported);
            if is_over {
                // Only a reader removes entries, and there is one.
                let _ = self.map.remove(&key);
                self.reported.remove(&key);
            } else if key.client_port != [0; 2] {
                named.push(key.remote);
            }
            if got_further || is_over {
                reached(&key, &flow, is_over, registry, clock).into_iter().for_each(&mut each);
            }
        }
        Ok(named)
    }
}

fn reached(key: &FlowKey, flow: &Flow, is_over: bool, registry: &Registry, clock: &Clock) -> Option<Reached> {
    Some(Reached {
        first: clock.moment(flow.first_ns),
        last: clock.moment(flow.last_ns.max(flow.first_ns)),
        digest: registry.digest(flow.generation)?,
        rule: registry.rule(flow.rule)?.clone(),
        verdict: word_of(Verdict::from_code(flow.verdict.into())?),
        hook: Hook::from_code(flow.hook)?,
        client: ip(key.client),
        remote: ip(key.remote),
        port: Some(u16::from_be_bytes(key.port)).filter(|&port| port != 0),
        protocol: key.protocol,
        depth: Depth::from_code(flow.depth)?,
        sent: Count { packets: flow.packets_out, bytes: flow.bytes_out },
        received: Count { packets: flow.packets_in, bytes: flow.bytes_in },
        is_over,
    })
}
