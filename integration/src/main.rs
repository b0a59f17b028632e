//! The `cni-chain` command.

#![forbid(unsafe_code)]

mod chain;
mod cli;
mod plugins;
mod publish;
mod restoring;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use cni_chain::demo::{self, bridge::DemoBridge};
use cni_common::cni::protocol::Plugin as _;

use cli::{Cli, Command, DemoOptions};

fn main() -> ExitCode {
    if called_as(DemoBridge::NAME) {
        return cni_common::cni::run(&DemoBridge);
    }
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
        Command::Restore(options) => restoring::run(&options),
        Command::Version(options) => print(&plugins::versions(&options)),
        Command::Demo(options) => run_demo(&options),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

/// Whether this program was started under the given name.
fn called_as(name: &str) -> bool {
    let program = std::env::args_os().next().unwrap_or_default();
    Path::new(&program).file_name().is_some_and(|file| file == name)
}

fn run_demo(options: &DemoOptions) -> anyhow::Result<()> {
    let plugin_dirs = plugins::search_path(&options.plugin_dirs);
    demo::run(&demo::Options { plugin_dirs, keep: options.keep })
}
