//! What local processes ask the kernel for: to connect, or to send without connecting.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid},
};
use interdict_ebpf_program::{
    frame::Frame,
    ip::Version,
    transport::Transport,
    verdict::{self, Judgement, Packet},
};
use interdict_ebpf_shared::{
    Address,
    contact::{Hook, ProcessEvent},
    count::Exit,
    policy::Verdict,
    query::OWN_MARK,
};

use crate::{
    generation::{Generation, host_address},
    record,
};

/// What the kernel lets a process do.
const GRANTED: i32 = 1;
/// It gets `EPERM`, at once.
const REFUSED: i32 = 0;

/// Judges the address that a process wants to talk to.
#[inline(always)]
pub(crate) fn judge(call: *mut bpf_sock_addr, version: Version, hook: Hook) -> i32 {
    let Some(generation) = Generation::live() else {
        return grant(Exit::NoPolicy);
    };
    if is_own(call) {
        return grant(Exit::HostOwn);
    }
    let remote = remote(call, version);
    if !generation.may_concern(version, remote) {
        return grant(Exit::NoMatch);
    }
    match judge_address(call, &generation, version, remote, hook) {
        Ok((Judgement { verdict, exit, rule, .. }, packet)) => {
            record_call(verdict::event(&Nothing, &generation, &packet, rule, verdict));
            record::count_exit_atomically(exit);
            if verdict == Verdict::Block { REFUSED } else { GRANTED }
        }
        Err(exit) => grant(exit),
    }
}

#[inline(always)]
fn grant(exit: Exit) -> i32 {
    record::count_exit_atomically(exit);
    GRANTED
}

/// Whether the socket is the agent's.
#[inline(always)]
fn is_own(call: *mut bpf_sock_addr) -> bool {
    // SAFETY: the pointer is the one the kernel started the program with, and the socket is there as long as it runs.
    unsafe {
        let socket = (*call).__bindgen_anon_1.sk;
        !socket.is_null() && (*socket).mark == OWN_MARK
    }
}

#[inline(always)]
fn remote(call: *mut bpf_sock_addr, version: Version) -> Address {
    // SAFETY: as in `is_own`. Each field is read by itself, as the kernel demands, and is in network byte order.
    unsafe {
        match version {
            Version::V4 => Address::from_v4((&raw const (*call).user_ip4).read_volatile().to_ne_bytes()),
            Version::V6 => {
                let word = |i: usize| (&raw const (*call).user_ip6[i]).read_volatile();
                Address::from_words([word(0), word(1), word(2), word(3)])
            }
        }
    }
}

#[inline(always)]
fn judge_address(
    call: *mut bpf_sock_addr,
    generation: &Generation,
    version: Version,
    remote: Address,
    hook: Hook,
) -> Result<(Judgement, Packet), Exit> {
    let client = Some(host_address(version)).filter(|address| *address != Address::NONE);
    let found = verdict::look_up(generation, version, client, remote)?;
    // SAFETY: as in `is_own`.
    let (port, protocol) = unsafe { ((*call).user_port, (*call).protocol as u8) };
    let [high, low, ..] = port.to_ne_bytes();
    let port = [high, low];
    let transport =
        Transport { protocol, at: 0, fragment: false, source: [0; 2], destination: port, unread: None };
    let packet = Packet { hook, client, remote, port, transport };
    verdict::decide(generation, found, &packet).map(|judgement| (judgement, packet))
}

/// The packet that is not there yet.
struct Nothing;

impl Frame for Nothing {
    #[inline(always)]
    fn read<const N: usize>(&self, _offset: usize) -> Option<[u8; N]> {
        None
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        0
    }
}

/// Records a call, with who made it.
#[inline(always)]
fn record_call(event: interdict_ebpf_shared::contact::Event) {
    // SAFETY: the helper has no precondition.
    let (pid, cgroup) = unsafe { ((bpf_get_current_pid_tgid() >> 32) as u32, bpf_get_current_cgroup_id()) };
    let name = bpf_get_current_comm().unwrap_or([0; 16]);
    record::record_call(&mut ProcessEvent { event, pid, zero: 0, cgroup, name });
}
