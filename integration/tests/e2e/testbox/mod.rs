//! The box: a throw-away host with an outside client.
//!
//! ```text
//!   out 198.51.100.2 ── ext0 198.51.100.1 [ host ] br1 10.88.1.1 ── web 10.88.1.2
//!       2001:db8:100::2      2001:db8:100::1      fd88:1::1         fd88:1::2
//!                        far0 203.0.113.1 ── far 203.0.113.2   (only where a case asks for it)
//! ```

mod container;
mod firewall;
mod isolation;
mod mapping;
mod namespace;
mod plugin;
mod ruleset;
mod sctp;
mod tool;
mod traffic;

use std::net::IpAddr;
use std::time::{Duration, Instant};

pub(crate) use container::{Attachment, Container, Network};
pub(crate) use firewall::Firewalld;
pub(crate) use isolation::{in_box, known_defect};
pub(crate) use mapping::{Mapping, at, both, capabilities, tcp, udp};
pub(crate) use namespace::Namespace;
pub(crate) use plugin::{Call, Outcome};
pub(crate) use ruleset::{PORTMAP_TABLE, concatenation};
pub(crate) use tool::{WithoutIptables, batch, feed, run, tool};
pub(crate) use traffic::Transport;

use crate::implementation::Implementation;

/// The host's address on its outside link.
pub(crate) const HOST_V4: &str = "198.51.100.1";
/// The same for IPv6.
pub(crate) const HOST_V6: &str = "2001:db8:100::1";
/// A second address of the host on the same link.
pub(crate) const HOST2_V4: &str = "198.51.100.11";
/// The same for IPv6.
pub(crate) const HOST2_V6: &str = "2001:db8:100::11";
/// The outside client.
pub(crate) const OUT_V4: &str = "198.51.100.2";
/// The same for IPv6.
pub(crate) const OUT_V6: &str = "2001:db8:100::2";
/// The far network's only member, which the host forwards to and is not.
pub(crate) const FAR_V4: &str = "203.0.113.2";
/// The same for IPv6.
pub(crate) const FAR_V6: &str = "2001:db8:203::2";

/// Waits for something that happens in its own time, such as a packet's way through a veth.
#[track_caller]
pub(crate) fn eventually(what: &str, happened: impl Fn() -> bool) {
    eventually_within(Duration::from_secs(5), what, happened);
}

/// The same for what may take longer, such as a daemon's start.
#[track_caller]
pub(crate) fn eventually_within(patience: Duration, what: &str, happened: impl Fn() -> bool) {
    let patience = Instant::now() + patience;
    while !happened() {
        assert!(Instant::now() < patience, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Text to an address.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no IP address"))
}

/// One box, seen from inside.
pub(crate) struct TestBox {
    /// Whose meta plugins this test runs.
    pub(crate) implementation: Implementation,
    /// The namespace the plugins run in.
    pub(crate) host: Namespace,
    /// The outside client's namespace.
    pub(crate) out: Namespace,
}

#[expect(clippy::unused_self, reason = "a `TestBox` is the proof of being inside one")]
impl TestBox {
    /// Furnishes the fresh namespaces this process was started in.
    fn furnish(implementation: Implementation) -> Self {
        for directory in ["/run", "/var/lib/cni", "/etc/cni"] {
            std::fs::create_dir_all(directory).expect("a mount point");
            run(tool("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs", directory]));
        }
        for directory in ["/run/netns", "/run/lock"] {
            std::fs::create_dir(directory).expect("a directory on the fresh tmpfs");
        }
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
    pub(crate) fn far(&self) -> Namespace {
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
    pub(crate) fn aim_loopback_at_the_host(&self, client: &Namespace, gateway: &str) {
        client.batch(&["addr flush dev lo", &format!("route add 127.0.0.1/32 via {gateway}")]);
        client.write_sysctl("ipv4/conf/all/route_localnet", "1");
    }

    /// A new container: a namespace and an ID of that name.
    pub(crate) fn container(&self, id: &str) -> Container {
        Container::create(id)
    }

    /// A new container on `network`, serving as `id` on TCP and UDP port 80.
    pub(crate) fn web(&self, network: &Network, id: &str) -> Attachment {
        let attachment = self.container(id).join(network, "eth0");
        attachment.container.netns.serve(id, 80);
        attachment
    }
}
