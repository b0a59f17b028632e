//! The subcommands: a module for each, from its options to what is printed.

mod attachment;
mod demo;
mod explain;
mod gc;
mod install;
mod lint;
mod network;
mod privilege;
mod purge;
mod restore;
mod show;
mod status;
mod trace;
mod uninstall;
mod version;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use cni_common::cni::Plugin as _;

use crate::cli::{Cli, Command, NetworkOptions};
use crate::demo::bridge::DemoBridge;
use crate::runner::{Runner, plugins};

/// The command, or, under its name, the demo's main plugin.
#[must_use]
pub fn main() -> ExitCode {
    if called_as(DemoBridge::NAME) {
        return cni_common::cni::run(&DemoBridge, None);
    }
    match run(Cli::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("cni-chain: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A further subcommand is an arm here, a variant of [`Command`] and a module.
fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Add(options) => print(&attachment::add(&options)?)?,
        Command::Del(options) => attachment::del(&options)?,
        Command::Check(options) => attachment::check(&options)?,
        Command::Show(options) => show::show(&options)?,
        Command::Trace(options) => return trace::trace(&options),
        Command::Gc(options) => gc::gc(&options)?,
        Command::Purge(options) => purge::purge(&options)?,
        Command::Lint(options) => return lint::lint(&options),
        Command::Explain(options) => return explain::run(&options),
        Command::Status(options) => status::status(&options)?,
        Command::Restore(options) => return restore::run(&options),
        Command::Install(options) => install::install(&options)?,
        Command::Uninstall(options) => uninstall::uninstall(&options)?,
        Command::Version(options) => print(&version::report(&options))?,
        Command::Demo(options) => demo::demo(&options)?,
        Command::Completions { shell } => std::io::stdout()
            .write_all(&Cli::completions(shell))
            .context("cannot write to stdout")?,
        Command::Man { dir } => Cli::man_pages(&dir)
            .with_context(|| format!("cannot write man pages to {}", dir.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

fn say(line: &str) -> anyhow::Result<()> {
    print(&format!("{line}\n"))
}

/// Whether this program was started under the given name.
fn called_as(name: &str) -> bool {
    let program = std::env::args_os().next().unwrap_or_default();
    Path::new(&program).file_name().is_some_and(|file| file == name)
}

fn runner(options: &NetworkOptions) -> Runner {
    Runner::new(plugins::search_path(&options.plugin_dirs.dirs), options.cache.dir.clone())
}

/// An empty variable counts as unset, as it does for every CNI program.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}
