//! The maps. Their names are those in [`interdict_ebpf_shared::maps`].
//!
//! A map of policies has two slots, one for each parity of the generation: the programs read one while the loader
//! fills the other. Their inner maps are declared for one entry; the loader makes each as large as its policy.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockMap},
    macros::btf_map,
};
use interdict_ebpf_shared::{
    Address,
    contact::{AccountKey, BeyondKey, ContactCounts, ContactKey, Event, ProcessEvent, Reported},
    control,
    count::{Count, Exit, GenerationDigest, Loss, RuleCounts, RuleName, Unjudged},
    flow::{Flow, FlowKey, Service},
    limits::{
        MAX_ACCOUNTS, MAX_BEYOND, MAX_CLIENT_OPENINGS, MAX_CLIENTS, MAX_CONTACTS, MAX_FLOWS, MAX_GENERATIONS,
        MAX_INTERFACES, MAX_LEARNED, MAX_LET_OUT, MAX_OPENED, MAX_OURS, MAX_RULES, MAX_SAFE,
        PROCESS_RING_BYTES, QUERY_RING_BYTES, RING_BYTES, SEATS,
    },
    policy::{ClientOpening, Decision, ExemptionKey, Opening, ServiceKey, State},
    query::{Answer, DivertSocket, Interface, QueryEvent, Settings},
    seat::Seat,
    table::Bucket,
};

use crate::{rates::Rates, scratch::Scratch};

const SLOTS: usize = 2;

/// A struct as the value of an inner map.
///
/// A slot takes only a map that is like the declared one. For Linux 6.1 (`bpf_map_meta_equal`: `timer_off`) a value that
/// type information shows to be a struct is unlike one without type information, and the loader makes its maps without.
/// Into arrays it does not look.
pub(crate) type Plain<V> = [V; 1];

pub(crate) type Services = HashMap<ServiceKey, Plain<Decision>, 1>;
// The flag lets each inner array have a size of its own.
pub(crate) type Rules = Array<Plain<State>, 1, { BPF_F_INNER_MAP as usize }>;
pub(crate) type Units = LpmTrie<[u32; 4], u64, 1>;
pub(crate) type Exemptions = LpmTrie<ExemptionKey, u64, 1>;
// Memory that can be shared begins at a page: so each bucket is in one cache line.
pub(crate) type Buckets = Array<Plain<Bucket>, 1, { (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize }>;
pub(crate) type AllSettings = Array<Plain<Settings>, 1>;
pub(crate) type Resolvers = HashMap<Address, u32, 1>;

#[btf_map]
pub(crate) static CONTROL: Array<[u64; control::WORDS as usize], 1, { BPF_F_MMAPABLE as usize }> =
    Array::new();

#[btf_map]
pub(crate) static NETWORKS: ArrayOfMaps<Buckets, SLOTS> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static SERVICES: ArrayOfMaps<Services, SLOTS> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static RULES: ArrayOfMaps<Rules, SLOTS> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static EXEMPTIONS: ArrayOfMaps<Exemptions, SLOTS> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static SAFE4: LpmTrie<u32, u32, { MAX_SAFE as usize }> = LpmTrie::new();

#[btf_map]
pub(crate) static SAFE6: LpmTrie<[u32; 4], u32, { MAX_SAFE as usize }> = LpmTrie::new();

#[btf_map]
pub(crate) static OPENED: HashMap<Address, Opening, { MAX_OPENED as usize }> = HashMap::new();

#[btf_map]
pub(crate) static OPENED_TO: HashMap<ClientOpening, Opening, { MAX_CLIENT_OPENINGS as usize }> =
    HashMap::new();

#[btf_map]
pub(crate) static LEARNED: HashMap<Address, Opening, { MAX_LEARNED as usize }> = HashMap::new();

#[btf_map]
pub(crate) static EXITS: PerCpuArray<u64, { Exit::ALL.len() }> = PerCpuArray::new();

#[btf_map]
pub(crate) static UNJUDGED: PerCpuArray<u64, { Unjudged::ALL.len() }> = PerCpuArray::new();

#[btf_map]
pub(crate) static LOSSES: PerCpuArray<u64, { Loss::ALL.len() }> = PerCpuArray::new();

// An array, though most of its places are empty: a hash would take a quarter of the time of an answered question.
#[btf_map]
pub(crate) static RULE_COUNTS: PerCpuArray<RuleCounts, { MAX_RULES as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static CONTACT_SEATS: Array<Seat, { SEATS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
pub(crate) static CONTACTS: HashMap<ContactKey, ContactCounts, { MAX_CONTACTS as usize }> = HashMap::new();

#[btf_map]
pub(crate) static ACCOUNTS: HashMap<
    AccountKey,
    Count,
    { MAX_ACCOUNTS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

#[btf_map]
pub(crate) static REPORTED: HashMap<
    ContactKey,
    Reported,
    { MAX_CONTACTS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

#[btf_map]
pub(crate) static UNITS: ArrayOfMaps<Units, SLOTS> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static BEYOND: HashMap<BeyondKey, Count, { MAX_BEYOND as usize }> = HashMap::new();

#[btf_map]
pub(crate) static RULE_NAMES: Array<RuleName, { MAX_RULES as usize }> = Array::new();

#[btf_map]
pub(crate) static DIGESTS: Array<GenerationDigest, { MAX_GENERATIONS as usize }> = Array::new();

#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { RING_BYTES as usize }> = RingBuf::new();

#[btf_map]
pub(crate) static NAMES: ArrayOfMaps<Buckets, SLOTS> = ArrayOfMaps::new();

// One array for both slots, of 14 MB: a look into an inner array, which could be as large as its policy, is a call, and with it
// an answer takes a tenth longer.
#[btf_map]
pub(crate) static ANSWERS: Array<Answer, { SLOTS * MAX_RULES as usize }> = Array::new();

#[btf_map]
pub(crate) static SETTINGS: ArrayOfMaps<AllSettings, SLOTS> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static RESOLVERS: ArrayOfMaps<Resolvers, SLOTS> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static CLIENTS: LpmTrie<[u32; 4], u32, { MAX_CLIENTS as usize }> = LpmTrie::new();

#[btf_map]
pub(crate) static OURS: HashMap<Address, u32, { MAX_OURS as usize }> = HashMap::new();

#[btf_map]
pub(crate) static INTERFACES: Array<Interface, { MAX_INTERFACES as usize }> = Array::new();

#[btf_map]
pub(crate) static RATES: Rates = Rates::new();

#[btf_map]
pub(crate) static REJECTS: Rates = Rates::new();

#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = HashMap::new();

#[btf_map]
pub(crate) static LET_OUT: LruHashMap<Service, u64, { MAX_LET_OUT as usize }> = LruHashMap::new();

#[btf_map]
pub(crate) static BARE: Array<u32, { MAX_INTERFACES as usize }> = Array::new();

#[btf_map]
pub(crate) static PROCESSES: RingBuf<ProcessEvent, { PROCESS_RING_BYTES as usize }> = RingBuf::new();

#[btf_map]
pub(crate) static QUERIES: RingBuf<QueryEvent, { QUERY_RING_BYTES as usize }> = RingBuf::new();

#[btf_map]
pub(crate) static DIVERT: SockMap<{ DivertSocket::COUNT }> = SockMap::new();

#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
