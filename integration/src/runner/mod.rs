//! The chain runner: what a container runtime does around CNI plugins.
//!
//! A faithful libcni. It loads a network's configuration list ([`conflist`]), builds what each
//! plugin reads on stdin ([`request`]), executes the plugins ([`exec`]), remembers the result
//! where libcni remembers it ([`cache`]), and runs whole lists ([`Runner`]). Either side can
//! delete what the other added. [`plugins`] are the four of this collection.

pub(crate) mod asking;
pub(crate) mod cache;
mod chain;
pub(crate) mod conflist;
pub(crate) mod container_id;
mod error;
pub mod exec;
pub(crate) mod faults;
pub(crate) mod plugins;
pub(crate) mod request;

pub use cache::{Cache, CacheError, CachedAttachment};
pub use chain::{Runner, Turn};
pub use cni_common::cni::protocol::ValidAttachment;
pub use conflist::{ConfError, NetworkList, PluginConf};
pub use error::RunError;
pub use exec::ExecError;
pub use request::RuntimeConf;
