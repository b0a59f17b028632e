//! The chain runner: what a container runtime does around CNI plugins.
//!
//! A faithful libcni. It loads a network's configuration list ([`conflist`]), builds what each
//! plugin reads on stdin ([`request`]), executes the plugins ([`exec`]), remembers the result
//! where libcni remembers it ([`cache`]), and runs whole lists ([`Runner`]). Either side can
//! delete what the other added. [`restore`] repairs what a flushed table took from running
//! containers, and [`demo`] shows a chain at work on a host made for the occasion.

#![forbid(unsafe_code)]

pub mod cache;
pub mod conflist;
pub mod demo;
pub mod exec;
pub mod request;
pub mod restore;
pub mod runner;

pub use cache::{Cache, CacheEntry, CacheError, CachedAttachment, Remembered};
pub use cni_common::cni::protocol::ValidAttachment;
pub use conflist::{ConfError, NetworkList, PluginConf};
pub use exec::ExecError;
pub use request::RuntimeConf;
pub use runner::{RunError, Runner, Turn};
