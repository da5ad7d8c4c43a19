//! What the packet plane does in a real kernel.
//!
//! These tests need root. Where they cannot run, each is reported by name as ignored, with the reason in brackets.
//!
//! - [`load`]: the object itself
//! - [`frames`]: every form of frame, decided as written here, line by line
//! - [`truncation`]: every form of frame, cut off at every byte
//! - [`swap`]: staging, flipping, refusing; and no packet between two policies
//! - [`opened`]: addresses that a name opened
//! - [`queries`]: DNS questions, answered in the place of the resolver that was asked
//! - [`register`]: exemptions, and addresses that are open to one client
//! - [`records`]: counters, events, sampling, and what happens when there is no more room
//! - [`host`]: this machine's own traffic, and the calls of its processes
//! - [`tls`]: server names in ClientHellos
//! - [`rejects`]: what the sender of a blocked packet is told
//! - [`unjudged`]: what could not be judged, counted or refused
//! - [`attach`]: real interfaces in namespaces of their own
//! - [`agreement`]: random policies and packets, decided alike by the kernel, by the policy, and by nftables

mod agreement;
mod attach;
mod frames;
mod host;
mod load;
mod namespace;
mod opened;
mod queries;
mod records;
mod register;
mod rejects;
mod support;
mod swap;
mod tls;
mod truncation;
mod unjudged;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if let Some(outcome) = attach::helper() {
        std::process::exit(outcome);
    }
    let arguments = Arguments::from_args();
    let obstacle = support::obstacle();
    let tests = [
        load::tests(),
        frames::tests(),
        host::tests(),
        tls::tests(),
        truncation::tests(),
        unjudged::tests(),
        swap::tests(),
        opened::tests(),
        queries::tests(),
        records::tests(),
        register::tests(),
        rejects::tests(),
        attach::tests(),
        agreement::tests(),
    ];
    let trials = tests.into_iter().flatten().map(|(name, test)| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        match &obstacle {
            Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
            None => trial,
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
