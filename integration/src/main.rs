//! The `cni-chain` command.

#![forbid(unsafe_code)]

mod chain;
mod cli;
mod plugins;
mod publish;

use std::io::Write as _;
use std::process::ExitCode;

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

/// One arm for each subcommand; what it does is in a module of its own.
fn run(command: Command) -> anyhow::Result<()> {
    let text = match command {
        Command::Add(options) => chain::add(&options)?,
        Command::Del(options) => chain::del(&options)?,
        Command::Check(options) => chain::check(&options)?,
        Command::Gc(options) => chain::gc(&options)?,
        Command::Status(options) => chain::status(&options)?,
        Command::Version(options) => plugins::versions(&options),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
