//! End-to-end tests: real plugins, real kernel, real packets.
//!
//! Every test runs in a throw-away "box" (`testbox`): its own network, mount and process
//! namespaces with an outside client beside it. Nothing of it touches the machine. A case is a
//! function; `cases!` turns it into one test for our plugin and, where Debian's Go plugin has the
//! feature, one for that.
//!
//! Needs root (or `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`), `cargo build --workspace` beforehand, and
//! the Debian packages `containernetworking-plugins`, `iproute2`, `nftables`, `iptables`,
//! `conntrack`, `strace`, `dbus`, `firewalld`. A missing one fails the test by its name.

mod command;
mod firewall_firewalld;
mod firewall_forward_chains;
mod firewall_hosts;
mod firewall_matrix;
mod firewall_ownership;
mod firewall_takeover;
mod four_plugins;
mod nft_kernel;
mod portmap_addresses;
mod portmap_check;
mod portmap_conditions;
mod portmap_conntrack;
mod portmap_failure;
mod portmap_hostile;
mod portmap_ownership;
mod portmap_security;
mod portmap_takeover;
mod portmap_takeover_check;
mod portmap_traffic;
mod restore;
mod upgrade;
