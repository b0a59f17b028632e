//! What the test box promises to the cases that run in it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use cni_testbox::{
    HOST_V4, HOST_V6, Network, OUT_V4, OUT_V6, TestBox, Transport, batch, cases, iptables, link,
    nft, run, tc, tool,
};

cases! {
    the_machines_files_cannot_be_written, ours;
    copies_can_be_written, ours;
    packets_from_everywhere, ours;
    a_pair_of_veths, ours;
    readers_see_what_the_tools_made, ours;
    readers_of_legacy_iptables, iptables_only;
    control_groups, ours;
}

#[track_caller]
fn is_read_only(path: &str) {
    let written = fs::write(path, "");
    assert!(written.is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem), "{path}");
}

fn the_machines_files_cannot_be_written(_: &TestBox) {
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/written-by-a-test");
    for path in ["/written-by-a-test", "/usr/written-by-a-test", checkout] {
        is_read_only(path);
    }
    is_read_only("/proc/sys/kernel/hostname");
    is_read_only("/proc/sys/vm/swappiness");
}

fn copies_can_be_written(b: &TestBox) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    for path in ["/etc", "/opt", "/tmp", "/var"] {
        fs::write(format!("{path}/written-by-a-test"), "").expect("a copy can be written");
        let overlaid = |line: &str| line.contains(&format!(" {path} ")) && line.contains("overlay");
        assert!(mounts.lines().any(overlaid), "{path}: {mounts}");
    }
    for path in ["/etc/cni", "/var/lib/cni"] {
        assert_eq!(fs::read_dir(path).expect("a directory").count(), 0, "{path}");
    }
    b.host.write_sysctl("core/somaxconn", "77");
    assert_eq!(b.host.read_sysctl("core/somaxconn"), "77");
    assert_ne!(b.out.read_sysctl("core/somaxconn"), "77");
}

fn packets_from_everywhere(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.host.serve("host", 80);
    for transport in Transport::ALL {
        b.out.reach(transport, &web.v4(), 80).by("web").seen_as(OUT_V4);
        b.out.reach(transport, &web.v6(), 80).by("web").seen_as(OUT_V6);
        b.out.reach(transport, HOST_V4, 80).by("host").seen_as(OUT_V4);
        b.out.cannot_reach(transport, HOST_V6, 81);
        web.container.netns.reach(transport, &web.v4(), 80).by("web").seen_as(&web.v4());
        b.host.reach(transport, "127.0.0.1", 80).by("host").seen_as("127.0.0.1");
        b.host.reach(transport, "::1", 80).by("host").seen_as("::1");
    }
}

fn a_pair_of_veths(b: &TestBox) {
    let (one, two) = (b.pair("c1", 1), b.pair("c2", 2));
    assert_eq!((one.host_end().as_str(), two.host_end().as_str()), ("veth1", "veth2"));
    two.container.netns.serve("two", 80);
    b.host.reach(Transport::Tcp, &two.v4(), 80).by("two").seen_as("10.9.2.1");
    b.host.reach(Transport::Udp, &two.v6(), 80).by("two").seen_as("fd00:9:2::1");
    let second = one.container.pair(3, "net1");
    assert_eq!(link("c1", "net1").expect("an interface")["linkinfo"]["info_kind"], "veth");
    assert_eq!((second.ifname.as_str(), second.v4().as_str()), ("net1", "10.9.3.2"));
}

fn readers_see_what_the_tools_made(b: &TestBox) {
    b.nft("table inet shelf { chain in { type filter hook input priority -5; }; }");
    assert_eq!(nft::tables(), ["inet shelf"]);
    let chains = nft::chains("shelf");
    assert_eq!((chains.len(), chains[0].prio), (1, Some(-5)));
    run(tool("iptables").args(["-A", "FORWARD", "-s", "192.0.2.1/32", "-j", "DROP"]));
    sees_the_rule();
    batch(&["link add dummy0 type ifb"]);
    run(tool("tc")
        .args("qdisc add dev dummy0 root tbf rate 8mbit burst 5000 limit 9000".split(' ')));
    assert_eq!(tc::rate("dummy0"), Some(1_000_000));
    assert_eq!(link("", "dummy0").expect("an interface")["linkinfo"]["info_kind"], "ifb");
    assert_eq!(link("", "dummy1"), None);
}

fn sees_the_rule() {
    let rule = "-s 192.0.2.1/32 -j DROP";
    assert_eq!(iptables::rules(false, "filter", "FORWARD"), [format!("-A FORWARD {rule}")]);
    assert!(iptables::has_rule(false, "filter", "FORWARD", rule));
    assert!(!iptables::has_rule(true, "filter", "FORWARD", "-j DROP"));
    assert_eq!(iptables::rules(false, "filter", "NOWHERE"), [""; 0]);
}

fn readers_of_legacy_iptables(_: &TestBox) {
    run(tool("iptables").args(["-A", "FORWARD", "-s", "192.0.2.1/32", "-j", "DROP"]));
    sees_the_rule();
}

fn control_groups(b: &TestBox) {
    b.with_cgroups();
    let own = fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
    assert!(own.lines().any(|line| line == "0::/"), "{own}");
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").expect("cgroup2");
    assert_eq!(controllers.trim(), "");
    let child = "/sys/fs/cgroup/container";
    fs::create_dir(child).expect("it can be written");
    assert!(!Path::new("/sys/fs/cgroup/cni-testbox").exists(), "the machine's cannot be seen");
}
