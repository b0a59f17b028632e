//! What the cni-chain plugins share.
//!
//! Nothing in this crate knows a plugin: it holds the CNI protocol, attachments and their owner
//! tags, namespaces, and the kernel interfaces that the plugins drive.

// Denied, not forbidden, for the sake of one module: nstype.
#![deny(unsafe_code)]

pub mod attachment;
pub mod conntrack;
pub mod entry;
#[doc(hidden)]
pub mod fuzzing;
pub mod iptables;
pub mod link;
pub mod log;
pub mod netlink;
pub mod netns;
pub mod nft;
mod nstype;
pub mod protocol;
pub mod route;
pub mod rtnetlink;
pub mod state;
pub mod sysctl;
pub mod tc;

pub use attachment::{Attachment, OwnerTag};
pub use protocol::run;
