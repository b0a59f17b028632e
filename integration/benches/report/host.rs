//! Hosts of their own: a network namespace with a bridge, and a container that has as many interfaces as are asked for.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cni_common::kernel::netns::Netns;
use cni_testbox::{feed, run, tool};

#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    /// Its container's namespace.
    pub(super) container: String,
    netns: Netns,
}

impl Host {
    /// With `br0` (10.71.0.1/16, `fd00:71::1/64`) and the container's `eth0` behind it, and `many` more pairs of
    /// `w<number>` on the host and `e<number>` in the container.
    pub(super) fn furnish(name: &str, many: usize) -> Self {
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = format!("host-{name}").chars().map(safe).collect();
        let container = name.replacen("host", "pod", 1);
        for namespace in [&name, &container] {
            // Of a scene that broke off.
            let _ =
                Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
            run(tool("ip").args(["netns", "add", namespace]));
        }
        let netns = Netns::open(&path_of(&name)).expect("ip netns add made it");
        let host = Self { name, container, netns };
        host.inside(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        });
        host.ip(&format!(
            "link set lo up\nlink add br0 type bridge\naddr add 10.71.0.1/16 dev br0\n\
             addr add fd00:71::1/64 dev br0 nodad\nlink set br0 up\n\
             link add v0 type veth peer name eth0 netns {}\nlink set v0 master br0 up",
            host.container
        ));
        host.ip_in_container(
            "link set lo up\naddr add 10.71.0.2/16 dev eth0\naddr add fd00:71::2/64 dev eth0 nodad\n\
             link set eth0 up\nroute add default via 10.71.0.1\nroute add default via fd00:71::1",
        );
        host.add_pairs(1, many);
        host
    }

    /// More pairs, from this number to that one.
    pub(super) fn add_pairs(&self, from: usize, to: usize) {
        if to < from {
            return;
        }
        let (mut here, mut there) = (String::new(), String::new());
        for number in from..=to {
            let container = &self.container;
            let _ = writeln!(
                here,
                "link add w{number} type veth peer name e{number} netns {container}"
            );
            let _ = writeln!(here, "link set w{number} up");
            let _ = writeln!(there, "link set e{number} up");
        }
        self.ip(&here);
        self.ip_in_container(&there);
    }

    /// On a thread in the host's namespace, where what is run is, too.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).expect("a thread in the host's namespace")
    }

    pub(super) fn container_path(&self) -> PathBuf {
        path_of(&self.container)
    }

    pub(super) fn ip(&self, lines: &str) {
        feed(tool("ip").args(["-n", &self.name, "-batch", "-"]), lines);
    }

    pub(super) fn ip_in_container(&self, lines: &str) {
        feed(tool("ip").args(["-n", &self.container, "-batch", "-"]), lines);
    }

    /// What a shell says here, without what fails.
    pub(super) fn shell(&self, script: &str) -> String {
        let output = self.inside(|| {
            Command::new("sh").args(["-c", script]).stderr(Stdio::null()).output().expect("sh")
        });
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Takes away what any bandwidth may have left.
    pub(super) fn clean_bandwidth(&self) {
        self.shell(
            "for i in $(ip -o link show type veth | sed 's/^[0-9]*: \\([^@]*\\)@.*/\\1/'); do
               tc qdisc del dev $i root; tc qdisc del dev $i ingress; tc qdisc del dev $i clsact; done
             for i in $(ip -o link show type ifb | cut -d: -f2); do ip link del $i; done",
        );
    }
}

impl Drop for Host {
    /// With thousands of interfaces, its end takes seconds that the next measurement must not meet.
    fn drop(&mut self) {
        for namespace in [&self.name, &self.container] {
            let _ =
                Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
        }
    }
}

pub(super) fn path_of(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// All that is left of a scene.
pub(super) fn remove_all() {
    let _ = Command::new("ip").args(["-all", "netns", "delete"]).status();
}
