//! What `ipMasq` of the Go plugins bridge and ptp made, after a flush and `cni-chain restore`: by packets, and
//! by what their DEL leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use cni_chain::RuntimeConf;
use cni_testbox::{Container, HOST_V4, OUT_V4, OUT_V6, TestBox, Transport, cases, run, sh, tool};
use serde_json::{Value, json};

use crate::restore::{NAME, Node, PORT, flush};

cases! {
    a_bridges_masquerading_is_restored, backends;
    a_ptps_masquerading_is_restored, backends;
    half_of_it_is_completed, backends;
    what_an_older_plugin_does_not_know_is_not_made, ours;
    the_table_of_newer_plugins_is_restored, ours;
    a_container_that_goes_meanwhile_leaves_none, ours;
}

fn ipam() -> Value {
    json!({ "type": "host-local",
        "ranges": [[{ "subnet": "10.88.1.0/24" }], [{ "subnet": "fd88:1::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] })
}

pub(crate) fn bridge() -> Value {
    json!({ "type": "bridge", "bridge": "br1", "isGateway": true, "hairpinMode": true, "ipMasq": true,
        "ipam": ipam() })
}

/// A node whose outside knows no way to the containers' network.
pub(crate) fn node<'a>(b: &'a TestBox, interface: &Value) -> Node<'a> {
    b.out.batch(&["route del default", "route del ::/0"]);
    b.out.serve("out", 80);
    Node::behind(b, interface, b.implementation, b.implementation.backend())
}

#[track_caller]
pub(crate) fn reaches_the_outside(container: &Container) {
    for transport in Transport::ALL {
        container.netns.reach(transport, OUT_V4, 80).by("out").seen_as(HOST_V4);
        container.netns.reach(transport, OUT_V6, 80).by("out");
    }
}

#[track_caller]
fn is_cut_off(container: &Container) {
    container.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
    container.netns.cannot_reach(Transport::Tcp, OUT_V6, 80);
}

/// Table nat of both families as iptables prints it, without counters.
fn nat() -> String {
    sh("for t in iptables-save ip6tables-save; do $t -t nat | grep -v '^[#:]'; $t -t nat | \
        sed -n 's/^\\(:CNI-[^ ]*\\).*/\\1/p'; done")
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Flushes, restores, and has the plugins delete.
fn is_restored(node: &Node<'_>, b: &TestBox, containers: [&(Container, RuntimeConf); 2]) {
    for (container, _) in containers {
        reaches_the_outside(container);
    }
    let before = nat();
    assert!(before.contains("MASQUERADE"), "{before}");
    assert!(node.restore(&[]).ends_with("attachments: 2 with nothing missing\n"));
    for program in ["iptables", "ip6tables"] {
        for what in ["-F", "-X"] {
            run(tool(program).args(["-t", "nat", what]));
        }
    }
    for (container, _) in containers {
        is_cut_off(container);
    }
    let dry = node.restore(&["--dry-run"]);
    assert!(dry.contains(&format!("{NAME}/one/eth0: would restore ipMasq")), "{dry}");
    assert!(dry.contains("ipMasq: what leaves 10.88.1."), "{dry}");
    is_cut_off(&containers[0].0);
    let said = node.restore(&["--plugin", "ipMasq"]);
    assert!(said.contains(&format!("{NAME}/one/eth0: restored ipMasq\n")), "{said}");
    assert!(said.ends_with("attachments: 2 restored\n"), "{said}");
    node.restore(&[]);
    assert_eq!(sorted(&nat()), sorted(&before));
    for (container, _) in containers {
        reaches_the_outside(container);
    }
    // All of it, with tables and whatever else there is.
    flush(b);
    run(tool("iptables").args(["-t", "nat", "-F"]));
    let said = node.restore(&[]);
    assert!(
        said.contains(&format!("{NAME}/two/eth0: restored ipMasq, portmap, firewall\n")),
        "{said}"
    );
    for (container, _) in containers {
        reaches_the_outside(container);
        node.serves(&container.id, if container.id == "one" { PORT } else { PORT + 1 });
    }
    for (_, conf) in containers {
        node.runner().del(&node.list, conf).expect("DEL");
    }
    let left = nat();
    assert!(!left.contains("podnet"), "{left}");
    let chains_of_portmap = b.implementation.backend().is_some();
    assert!(chains_of_portmap || !left.contains(":CNI-"), "{left}");
}

fn a_bridges_masquerading_is_restored(b: &TestBox) {
    let node = node(b, &bridge());
    let containers = [node.add("one", PORT), node.add("two", PORT + 1)];
    is_restored(&node, b, [&containers[0], &containers[1]]);
}

fn a_ptps_masquerading_is_restored(b: &TestBox) {
    let node = node(b, &json!({ "type": "ptp", "IPMASQ": true, "ipam": ipam() }));
    let containers = [node.add("one", PORT), node.add("two", PORT + 1)];
    is_restored(&node, b, [&containers[0], &containers[1]]);
}

/// `iptables -F POSTROUTING` leaves the chains, and their rules.
fn half_of_it_is_completed(b: &TestBox) {
    let node = node(b, &bridge());
    let (container, conf) = node.add("one", PORT);
    let before = nat();
    for lost in [
        "-F POSTROUTING",
        "-D CNI-8409d633228e8c2b5615f43b 1",
        "-D CNI-8409d633228e8c2b5615f43b 2",
        "-F CNI-8409d633228e8c2b5615f43b",
    ] {
        sh(&format!("iptables -t nat {lost}"));
        let said = node.restore(&[]);
        assert!(said.contains(&format!("{NAME}/one/eth0: restored ipMasq")), "{lost}: {said}");
        assert_eq!(sorted(&nat()), sorted(&before), "{lost}");
        reaches_the_outside(&container);
    }
    node.runner().del(&node.list, &conf).expect("DEL");
    assert!(!nat().contains("CNI-8409d633228e8c2b5615f43b"));
}

/// Debian's plugins are older than 1.6, and make rules in iptables whatever the key says.
fn what_an_older_plugin_does_not_know_is_not_made(b: &TestBox) {
    let mut interface = bridge();
    interface["ipMasqBackend"] = json!("nftables");
    let node = node(b, &interface);
    let (container, conf) = node.add("one", PORT);
    flush(b);
    node.restore(&[]);
    reaches_the_outside(&container);
    assert!(!b.ruleset().contains("cni_plugins_masquerade"));
    node.runner().del(&node.list, &conf).expect("DEL");
    assert!(!nat().contains("podnet"));
}

/// What Debian sid's bridge 1.9.1, run on such a node, made for the container `one`, as `nft list` shows it. It is
/// the shape that `setupIPMasqNFTablesWithInterface` in the Go plugins' `pkg/ip/ipmasq_nftables_linux.go` writes; that
/// file is the same from 1.6.1 to 1.9.1, and 1.6.0 wrote the same rules, but kept only the last address's. Their DEL
/// finds rules of the chain `masq_checks` by the beginning of the comment, their GC by all of it.
const NEWER: &str = r#"table inet cni_plugins_masquerade {
	comment "Masquerading for plugins from github.com/containernetworking/plugins"
	chain masq_checks {
		comment "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet"
		ip saddr 10.88.1.2 ip daddr != 10.88.1.0/24 masquerade comment "fa98a27bbcc17b2e-287fc69eff0574a2, net: podnet, if: eth0, id: one"
		ip6 saddr fd88:1::2 ip6 daddr != fd88:1::/64 masquerade comment "fa98a27bbcc17b2e-287fc69eff0574a2, net: podnet, if: eth0, id: one"
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr 224.0.0.0/4 return
		ip6 daddr ff00::/8 return
		goto masq_checks
	}
}
"#;

/// In the place of a newer bridge, which this machine has none of: it says that it is newer by the CNI version that it
/// knows, makes the interface by Debian's bridge, and leaves the rules to the test.
const NEWER_BRIDGE: &str = r#"#!/bin/sh
[ -n "$CNI_COMMAND" ] || {
    echo "CNI bridge plugin version unknown
CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" >&2
    exit
}
sed 's/"ipMasq":true/"ipMasq":false/' | /usr/lib/cni/bridge
"#;

fn the_table_of_newer_plugins_is_restored(b: &TestBox) {
    fs::create_dir("/run/newer").expect("a directory");
    fs::write("/run/newer/bridge", NEWER_BRIDGE).expect("a file");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions("/run/newer/bridge", executable).expect("a file");
    let mut interface = bridge();
    interface["ipMasqBackend"] = json!("nftables");
    let mut node = node(b, &interface);
    node.plugin_dirs.insert(0, "/run/newer".into());
    let (container, _) = node.add("one", PORT);
    b.nft(NEWER);
    reaches_the_outside(&container);
    let before = b.ruleset();
    assert!(node.restore(&[]).ends_with("attachments: 1 with nothing missing\n"));
    assert_eq!(b.ruleset(), before);

    let others = |text: &str| -> String {
        text.lines().filter(|line| !line.contains("Masquerade traffic")).collect()
    };
    for lost in [
        "flush ruleset",
        "flush table inet cni_plugins_masquerade",
        "flush chain inet cni_plugins_masquerade postrouting",
        "flush chain inet cni_plugins_masquerade masq_checks",
        "delete table inet cni_plugins_masquerade",
    ] {
        b.nft(lost);
        is_cut_off(&container);
        let said = node.restore(&[]);
        assert!(said.contains(&format!("{NAME}/one/eth0: restored ipMasq")), "{lost}: {said}");
        assert_eq!(others(&b.nft_list("inet cni_plugins_masquerade")), others(NEWER), "{lost}");
        reaches_the_outside(&container);
        node.serves("one", PORT);
    }
    assert!(!nat().contains("podnet"), "nothing is made in two places");
}

/// A DEL that is under way while rules are restored leaves nobody to delete them.
fn a_container_that_goes_meanwhile_leaves_none(b: &TestBox) {
    let node = node(b, &bridge());
    node.add("one", PORT);
    let (_, two) = node.add("two", PORT + 1);
    flush(b);
    let restore =
        node.command(&[]).stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    cni_testbox::eventually("rules are restored", || nat().matches("MASQUERADE").count() == 4);
    // What a runtime's DEL does last.
    run(tool("ip").args(["netns", "del", "one"]));
    fs::remove_file(format!("/var/lib/cni/results/{NAME}-one-eth0")).expect("the file");
    let output = restore.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("deleted meanwhile; removed again: ipMasq, portmap, firewall"), "{said}");
    assert!(!nat().contains("id: \\\"one\\\""), "{}", nat());
    assert!(nat().contains("id: \\\"two\\\""));
    node.runner().del(&node.list, &two).expect("DEL");
    assert!(!nat().contains("podnet"));
}
