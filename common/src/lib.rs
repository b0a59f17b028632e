//! What the cni-chain plugins share, in two storeys.
//!
//! [`cni`] is what a runtime and a plugin say to each other: the protocol, attachments and their
//! owner tags, the log, small files. [`kernel`] is what the plugins drive: netlink, links, traffic
//! control, `nf_tables`, iptables, connection tracking, namespaces, kernel parameters. Nothing
//! in this crate knows a plugin, and nothing in `kernel` knows `cni`.

// Denied, not forbidden, for the sake of one module: kernel::nstype.
#![deny(unsafe_code)]

pub mod cni;
pub mod kernel;

/// Releases are built against musl, whose own allocator is slow.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
