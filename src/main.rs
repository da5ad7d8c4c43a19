//! The program: reads the command line and hands over to the verb.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    interdict::cli::Cli::parse().run()
}
