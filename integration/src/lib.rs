//! The `cni-chain` command, as a library for its tests.
//!
//! `runner` is a libcni, [`restore`] repairs what a flushed table took from running containers,
//! `show` tells whose everything is, `trace` why a port does not answer, `explain` what a list would
//! do, and the demo shows a chain at work on a host made for the occasion. [`main`] is the command.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod demo;
mod explain;
mod hand_over;
mod install;
mod lint;
mod notification;
mod places;
mod progress;
mod purge;
pub mod restore;
mod rules;
mod runner;
mod show;
mod terminal;
mod trace;

pub use commands::main;
pub use runner::plugins::MetaPlugin;
pub use runner::{
    Cache, CacheError, CachedAttachment, ConfError, ExecError, NetworkList, PluginConf, RunError,
    Runner, RuntimeConf, Turn, ValidAttachment, exec,
};
