//! The `cni-chain` command.

#![forbid(unsafe_code)]

mod chain;
mod cli;
mod plugins;
mod publish;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cni-chain: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One arm for each subcommand: a call of the module that does the work. A further subcommand is
/// an arm here and a variant of [`Command`].
fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add(options) => print(&chain::add(&options)?),
        Command::Del(options) => chain::del(&options),
        Command::Check(options) => chain::check(&options),
        Command::Gc(options) => chain::gc(&options),
        Command::Status(options) => chain::status(&options),
        Command::Version(options) => print(&plugins::versions(&options)),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}
