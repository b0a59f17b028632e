//! The kernel's interfaces that the plugins drive, with errors of their own.
//!
//! Nothing here knows CNI.

pub mod address;
pub mod attributes;
pub mod bus;
pub mod conntrack;
pub mod file;
pub mod flock;
#[doc(hidden)]
pub mod fuzzing;
pub mod ip;
pub mod iproute;
pub mod iptables;
pub mod layout;
pub mod link;
pub mod listeners;
pub mod mac;
pub mod netlink;
pub mod netns;
pub mod nft;
mod nstype;
pub mod program;
mod request;
pub mod retry;
pub mod route;
pub mod rtnetlink;
pub mod shell;
pub mod sysctl;
pub mod tc;
pub mod veth;

pub use ip::IpVersion;
