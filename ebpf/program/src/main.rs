//! The kernel programs: one entry point for each way in which a packet is met.
//!
//! An entry point asks for a decision ([`interdict_ebpf_program`]), counts it, records it, and turns it into what XDP
//! does with the packet. The verdict is final before anything is recorded: nothing that fails below changes it.
//!
//! The object is built by `ebpf/build-object`. On the host, Clippy reads all of this; a host program is only a notice.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Only for the few instructions in `atomic` and `unaligned`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(any(target_arch = "bpf", clippy))]
mod answer;
#[cfg(any(target_arch = "bpf", clippy))]
mod atomic;
#[cfg(any(target_arch = "bpf", clippy))]
mod calls;
#[cfg(any(target_arch = "bpf", clippy))]
mod clock;
#[cfg(any(target_arch = "bpf", clippy))]
mod control;
#[cfg(any(target_arch = "bpf", clippy))]
mod divert;
#[cfg(any(target_arch = "bpf", clippy))]
mod fate;
#[cfg(any(target_arch = "bpf", clippy))]
mod flows;
#[cfg(any(target_arch = "bpf", clippy))]
mod generation;
#[cfg(any(target_arch = "bpf", clippy))]
mod hello;
#[cfg(any(target_arch = "bpf", clippy))]
mod maps;
#[cfg(any(target_arch = "bpf", clippy))]
mod notice;
#[cfg(any(target_arch = "bpf", clippy))]
mod packet;
#[cfg(any(target_arch = "bpf", clippy))]
mod programs;
#[cfg(any(target_arch = "bpf", clippy))]
mod rates;
#[cfg(any(target_arch = "bpf", clippy))]
mod record;
#[cfg(any(target_arch = "bpf", clippy))]
mod reply;
#[cfg(any(target_arch = "bpf", clippy))]
mod resolver;
#[cfg(any(target_arch = "bpf", clippy))]
mod scratch;
#[cfg(any(target_arch = "bpf", clippy))]
mod seats;
#[cfg(any(target_arch = "bpf", clippy))]
mod skb;
#[cfg(any(target_arch = "bpf", clippy))]
mod unaligned;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("this is a kernel program: build it with ebpf/build-object");
    std::process::exit(2);
}

// The programs never panic: no index is unchecked, no arithmetic can overflow into one. Rust asks for a handler
// nevertheless; the linker drops it, and the verifier would refuse an object in which it were reached.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// Helpers such as `bpf_ktime_get_boot_ns` are only for programs that state a licence compatible with the GPL.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
