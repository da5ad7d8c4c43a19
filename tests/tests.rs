//! End to end, against the program as users run it: real sockets, real `dig`.
//!
//! What cannot run here (a tool is missing, no root) is reported by name as ignored, never as passed.

mod audit;
mod clients;
mod commands;
mod contacts;
mod diagnostics;
mod differential;
mod dns;
mod dnstap;
mod embed;
mod encrypted;
mod export;
mod history;
mod learned;
mod metrics;
mod packets;
mod proxies;
mod reload;
mod resolvers;
mod scenarios;
mod streams;
mod support;
mod swap;
mod validation;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    let cases = [
        differential::cases(),
        audit::cases(),
        history::cases(),
        clients::cases(),
        contacts::cases(),
        dns::cases(),
        dnstap::cases(),
        embed::cases(),
        encrypted::cases(),
        export::cases(),
        learned::cases(),
        metrics::cases(),
        packets::cases(),
        proxies::cases(),
        reload::cases(),
        resolvers::cases(),
        scenarios::cases(),
        streams::cases(),
        swap::cases(),
        validation::cases(),
        commands::cases(),
        diagnostics::cases(),
    ];
    let cases = cases.concat();
    let trials = cases.into_iter().flat_map(support::Case::into_trials).chain(scenarios::trials());
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
