//! What the cni-chain plugins share, in two storeys.
//!
//! [`cni`] is what a runtime and a plugin say to each other: the protocol, attachments and their
//! owner tags, the log, small files. [`kernel`] is what the plugins drive: netlink, links, traffic
//! control, `nf_tables`, iptables, connection tracking, namespaces, kernel parameters. Nothing
//! in this crate knows a plugin, and nothing in `kernel` knows `cni`.

// Denied, not forbidden, for the sake of three modules: kernel::nstype, cni::entry and, for musl, allocator.
#![deny(unsafe_code)]

pub mod cni;
pub mod kernel;

#[cfg(target_env = "musl")]
#[expect(unsafe_code, reason = "what an allocator is, std cannot say without it")]
mod allocator;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: allocator::BySize = allocator::BySize::new();
