//! A throw-away host for tests: real plugins, real kernel, real packets.
//!
//! Every test runs in a box of its own: network, mount, process, IPC and UTS namespaces, with an
//! outside client beside it. Nothing of it touches the machine, whose files are read-only in the box
//! or copies. The test executes its own binary again inside, and does nothing there before it has
//! seen that the namespaces are fresh.
//!
//! ```text
//!   out 198.51.100.2 ── ext0 198.51.100.1 [ host ] br1 10.88.1.1 ── web 10.88.1.2
//!       2001:db8:100::2      2001:db8:100::1      fd88:1::1         fd88:1::2
//!                        far0 203.0.113.1 ── far 203.0.113.2   (only where a case asks for it)
//! ```
//!
//! # A case
//!
//! A case is a function, and a line in the list of its file. [`cases!`] makes its tests: which
//! implementations it runs for, its kind says.
//!
//! ```no_run
//! # fn main() {}
//! use cni_testbox::{HOST_V4, Network, TestBox, Transport, cases, tcp};
//!
//! cases! {
//!     a_port_leads_to_the_container;
//! }
//!
//! fn a_port_leads_to_the_container(b: &TestBox) {
//!     let web = b.web(&Network::dual(1), "web");
//!     b.map(&web, &[tcp(8080, 80)]);
//!     b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
//!     b.unmap(&web, &[tcp(8080, 80)]);
//!     b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
//! }
//! ```
//!
//! - **A container.** [`TestBox::web`] is one behind Debian's `bridge` that serves on port 80;
//!   [`TestBox::pair`] is one on a pair of veths, which is all that bandwidth and tuning need.
//! - **A call.** [`portmap`], [`firewall`], [`bandwidth`], [`tuning`] begin one; [`Call::run`] runs
//!   the implementation under test, [`Call::run_as`] another. The [`Outcome`] has kept the protocol
//!   already; `expect_result`, `expect_silence`, `expect_error_with` say what else it must be.
//! - **Packets.** [`Namespace::reach`] and [`Namespace::cannot_reach`] ask over TCP and UDP from
//!   outside (`b.out`), the host (`b.host`), a container, or with a source of choice.
//! - **Readers**, none of them ours: [`nft`] and [`iptables`] by the crates of those names, [`tc`] and
//!   [`link`](fn@link) by the JSON of `tc` and `ip`, [`TestBox::ruleset`] for all of netfilter as text, and
//!   [`TestBox::state`] for everything that any plugin could leave.
//! - **A runtime.** [`TestBox::with_cgroups`] gives the box what containers of a real runtime need.
//! - [`protocol_suite!`] and [`hostile_suite!`] are the cases that every plugin has to stand.
//!
//! Needs root (or `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`), `cargo build --workspace` beforehand, and
//! the Debian packages `containernetworking-plugins`, `iproute2`, `nftables`, `iptables`,
//! `conntrack`, `strace`, `dbus`, `firewalld`. A missing one fails the test by its name.

#![forbid(unsafe_code)]
#![expect(
    clippy::missing_panics_doc,
    reason = "whatever is not as a case wants it panics: that is how a test fails"
)]
#![expect(
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    reason = "that it did not panic is often all one asks"
)]

#[macro_use]
mod cases;
pub mod bench;
mod bridge;
mod call;
mod cgroups;
mod container;
#[cfg(target_arch = "x86_64")]
pub mod faults;
mod firewalld;
pub mod flood;
mod implementation;
mod injection;
mod isolation;
mod machine;
mod mapping;
mod namespace;
mod network;
pub mod newer;
mod outcome;
mod patience;
pub mod readers;
mod root;
mod ruleset;
mod sctp;
pub mod spy;
mod state;
mod stubs;
pub mod suite;
mod tool;
pub mod trace;
pub mod tracee;
mod traffic;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub use call::{Call, bandwidth, firewall, portmap, tuning};
pub use container::{Attachment, Container};
pub use firewalld::Firewalld;
pub use implementation::{GO_PLUGINS, Implementation};
pub use injection::fail_each;
pub use isolation::{enter_box, in_bare_box, in_box, known_defect, must_fail};
pub use machine::kernel;
pub use mapping::{Mapping, arguments, at, both, capabilities, tcp, udp};
pub use namespace::Namespace;
pub use network::Network;
pub use outcome::{Outcome, Refusal};
pub use patience::{lessened, stretched};
pub use readers::{iptables, link, links, nft, tc};
pub use ruleset::PORTMAP_TABLE;
pub use stubs::{IPTABLES_RESTORES, IPTABLES_SAVES, cut_saves, killed_while_restoring, stubs};
pub use suite::{Sample, Subject};
pub use tool::{WithoutIptables, attempt, batch, fed, feed, listed, run, sh, tool};
pub use traffic::{Asker, Reply, TcpFlow, Transport, UdpFlow};
pub use watch::RunningWatch;

/// The host's address on its outside link.
pub const HOST_V4: &str = "198.51.100.1";
/// The same for IPv6.
pub const HOST_V6: &str = "2001:db8:100::1";
/// A second address of the host on the same link.
pub const HOST2_V4: &str = "198.51.100.11";
/// The same for IPv6.
pub const HOST2_V6: &str = "2001:db8:100::11";
/// The outside client.
pub const OUT_V4: &str = "198.51.100.2";
/// The same for IPv6.
pub const OUT_V6: &str = "2001:db8:100::2";
/// The far network's only member, which the host forwards to and is not.
pub const FAR_V4: &str = "203.0.113.2";
/// The same for IPv6.
pub const FAR_V6: &str = "2001:db8:203::2";

/// Waits for something that happens in its own time, such as a packet's way through a veth.
#[track_caller]
pub fn eventually(what: &str, happened: impl Fn() -> bool) {
    eventually_within(Duration::from_secs(5), what, happened);
}

/// The same for what may take longer, such as a daemon's start.
#[track_caller]
pub fn eventually_within(patience: Duration, what: &str, happened: impl Fn() -> bool) {
    let patience = Instant::now() + stretched(patience);
    while !happened() {
        assert!(Instant::now() < patience, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Text to an address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no IP address"))
}

/// One box, seen from inside.
#[derive(Debug)]
pub struct TestBox {
    /// Whose meta plugins this test runs.
    pub implementation: Implementation,
    /// The namespace the plugins run in.
    pub host: Namespace,
    /// The outside client's namespace.
    pub out: Namespace,
}
impl TestBox {
    /// Furnishes the fresh namespaces this process was started in.
    pub(crate) fn furnish(implementation: Implementation) -> Self {
        machine::make_read_only();
        if implementation == Implementation::IptablesLegacy {
            // One program with many names; for this box, all of them mean the legacy one.
            let programs = ["/usr/sbin/xtables-legacy-multi", "/usr/sbin/xtables-nft-multi"];
            run(tool("mount").arg("--bind").args(programs));
        }
        let host = Namespace::own("host");
        host.set_up();
        batch(&[
            "netns add out",
            "link add ext0 type veth peer name ext0 netns out",
            &format!("addr add {HOST_V4}/24 dev ext0"),
            &format!("addr add {HOST2_V4}/24 dev ext0"),
            &format!("addr add {HOST_V6}/64 dev ext0 nodad"),
            &format!("addr add {HOST2_V6}/64 dev ext0 nodad"),
            "link set ext0 up",
        ]);
        let out = Namespace::named("out");
        out.set_up();
        out.batch(&[
            &format!("addr add {OUT_V4}/24 dev ext0"),
            &format!("addr add {OUT_V6}/64 dev ext0 nodad"),
            "link set ext0 up",
            &format!("route add default via {HOST_V4}"),
            &format!("route add ::/0 via {HOST_V6}"),
        ]);
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            host.write_sysctl(switch, "1");
        }
        // Bridged traffic is a case of its own; elsewhere it must not depend on the machine.
        host.bridge_netfilter(false);
        Self { implementation, host, out }
    }

    /// A namespace the host only forwards to.
    pub fn far(&self) -> Namespace {
        batch(&[
            "netns add far",
            "link add far0 type veth peer name far0 netns far",
            "addr add 203.0.113.1/24 dev far0",
            "addr add 2001:db8:203::1/64 dev far0 nodad",
            "link set far0 up",
        ]);
        let far = Namespace::named("far");
        far.set_up();
        far.batch(&[
            &format!("addr add {FAR_V4}/24 dev far0"),
            &format!("addr add {FAR_V6}/64 dev far0 nodad"),
            "link set far0 up",
            "route add default via 203.0.113.1",
            "route add ::/0 via 2001:db8:203::1",
        ]);
        far
    }

    /// Makes a client send packets for 127.0.0.1 over its link to the host, as an attacker does.
    pub fn aim_loopback_at_the_host(&self, client: &Namespace, gateway: &str) {
        client.batch(&["addr flush dev lo", &format!("route add 127.0.0.1/32 via {gateway}")]);
        client.write_sysctl("ipv4/conf/all/route_localnet", "1");
    }

    /// A new container: a namespace and an ID of that name.
    pub fn container(&self, id: &str) -> Container {
        Container::create(id)
    }

    /// A new container on a pair of veths of its own; see [`Container::pair`].
    pub fn pair(&self, id: &str, number: u8) -> Attachment {
        self.container(id).pair(number, "eth0")
    }

    /// A new container on `network`, serving as `id` on TCP and UDP port 80.
    pub fn web(&self, network: &Network, id: &str) -> Attachment {
        let attachment = self.container(id).join(network, "eth0");
        attachment.container.netns.serve(id, 80);
        attachment
    }

    /// The container `web` on two networks, as `eth0` and `eth1`, serving on port 80 of each address by
    /// itself: a wildcard UDP socket would answer from the address of the default route.
    pub fn web_on(&self, first: &Network, second: &Network) -> (Attachment, Attachment) {
        let container = self.container("web");
        let first = container.join(first, "eth0");
        let second = container.join(&second.clone().second(), "eth1");
        for address in first.addresses().into_iter().chain(second.addresses()) {
            container.netns.serve_at("web", SocketAddr::new(address, 80));
        }
        (first, second)
    }
}
