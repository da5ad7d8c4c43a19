//! The program: reads the command line and hands over to the verb.

use std::panic::PanicHookInfo;
use std::process::ExitCode;

use clap::Parser;
use interdict::cli::Cli;

fn main() -> ExitCode {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // `println!` panics where nobody reads any more, as in `interdict demo | head`: that is no fault.
        if is_a_closed_pipe(panic) {
            std::process::exit(0);
        }
        report(panic);
    }));
    Cli::parse().run()
}

fn is_a_closed_pipe(panic: &PanicHookInfo<'_>) -> bool {
    let said = panic.payload().downcast_ref::<String>();
    said.is_some_and(|said| said.starts_with("failed printing to std") && said.contains("Broken pipe"))
}
