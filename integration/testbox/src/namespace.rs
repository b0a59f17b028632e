//! One network namespace of the box: the host, a container, the outside client.

use std::path::PathBuf;

use cni_common::kernel::netns::Netns;

use crate::tool::{feed, run, tool};

/// A network namespace with a name.
#[derive(Debug)]
pub struct Namespace {
    /// Its name, which `ip netns` knows unless it is the host.
    pub name: String,
    netns: Netns,
}

impl Namespace {
    /// The one this process runs in.
    pub fn own(name: &str) -> Self {
        Self { name: name.into(), netns: Netns::own().expect("the box's own namespace") }
    }

    /// One that `ip netns add` made.
    pub fn named(name: &str) -> Self {
        let netns = Netns::open(&Self::path_of(name)).expect("ip netns add made it");
        Self { name: name.into(), netns }
    }

    /// Makes a new one.
    pub fn create(name: &str) -> Self {
        run(tool("ip").args(["netns", "add", name]));
        let namespace = Self::named(name);
        namespace.set_up();
        namespace
    }

    /// The path a runtime would pass as `CNI_NETNS`.
    pub fn path(&self) -> PathBuf {
        Self::path_of(&self.name)
    }

    fn path_of(name: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(name)
    }

    /// Does something inside: a socket made there belongs there for good.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).expect("enter the namespace")
    }

    /// `ip -batch` inside.
    pub fn batch(&self, lines: &[&str]) {
        feed(tool("ip").args(["-n", &self.name, "-batch", "-"]), &lines.join("\n"));
    }

    /// Loopback up; addresses usable at once, without duplicate address detection.
    pub(crate) fn set_up(&self) {
        for scope in ["all", "default"] {
            self.write_sysctl(&format!("ipv6/conf/{scope}/accept_dad"), "0");
            self.write_sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0");
        }
        self.enter(|| run(tool("ip").args(["link", "set", "lo", "up"])));
    }

    /// Writes `/proc/sys/net/<name>` of this namespace.
    pub fn write_sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.enter(|| std::fs::write(&path, value))
            .unwrap_or_else(|error| panic!("write {value} to {path}: {error}"));
    }

    /// Reads `/proc/sys/net/<name>` of this namespace.
    pub fn read_sysctl(&self, name: &str) -> String {
        let path = format!("/proc/sys/net/{name}");
        let text = self.enter(|| std::fs::read_to_string(&path));
        text.unwrap_or_else(|error| panic!("read {path}: {error}")).trim().to_owned()
    }

    /// Whether bridged traffic passes the IP hooks. A kernel without `br_netfilter` has no such
    /// switch and behaves as if it were off.
    pub fn bridge_netfilter(&self, on: bool) {
        if !std::path::Path::new("/proc/sys/net/bridge").exists() {
            assert!(!on, "this kernel has no br_netfilter: modprobe br_netfilter");
            return;
        }
        for name in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
            self.write_sysctl(name, if on { "1" } else { "0" });
        }
    }
}
