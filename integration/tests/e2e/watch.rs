//! `cni-chain restore --watch`: what it notices, and that it rests.

use std::time::{Duration, Instant};

use cni_testbox::{Container, Firewalld, OUT_V4, RunningWatch, TestBox, Transport, cases, sh};

use crate::masquerade::{self, reaches_the_outside};
use crate::restore::{NAME, Node, PORT, drop_forwarded, flush};

cases! {
    the_watch_heals_after_firewalld, ours;
    the_watch_heals_after_a_flush_without_a_bus, ours;
    the_watch_notices_that_the_host_starts_to_drop, ours;
    the_watch_notices_flushed_tables, ours;
    the_watch_notices_what_iptables_flushes, ours;
    the_watch_does_not_answer_to_itself, ours;
}

/// A running `restore --watch`.
struct Watch(RunningWatch);

impl Watch {
    fn start(node: &Node<'_>) -> Self {
        let mut command = node.command(&["--watch"]);
        Self(RunningWatch::start(&mut command, Duration::from_mins(1)))
    }

    #[track_caller]
    fn says(&self, beginning: &str) {
        self.0.says(beginning);
    }

    /// Waits until it has restored this, and tries the container.
    #[track_caller]
    fn heals(&self, container: &Container, node: &Node<'_>, restored: &str) {
        self.says(&format!("{NAME}/{}/eth0: {restored}", container.id));
        self.says("rules were deleted from nftables table ip");
        reaches_the_outside(container);
        node.serves(&container.id, PORT);
    }

    /// By the signal that a unit's or a pod's end begins with.
    #[track_caller]
    fn ends(&mut self) {
        sh(&format!("kill -TERM {}", self.0.child.id()));
        let status = self.0.child.wait().expect("a child of ours");
        assert!(status.success(), "{status}");
    }
}

fn the_watch_heals_after_firewalld(b: &TestBox) {
    let mut firewalld = Firewalld::start();
    let node = Node::new(b);
    let (web, conf) = node.add("web", PORT);
    b.out.serve("out", 80);
    firewalld.stop();
    let mut watch = Watch::start(&node);
    watch.says("watching firewalld and nftables");
    let heals = |reason: &str| {
        watch.says(reason);
        watch.says(&format!("{NAME}/web/eth0: restored firewall"));
        watch.says("attachments: 1 restored");
        web.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    };
    firewalld.start_again();
    heals("firewalld was started");
    for _ in 0..2 {
        firewalld.reload();
        heals("firewalld was reloaded");
    }
    firewalld.stop();
    firewalld.start_again();
    heals("firewalld was started");
    node.serves("web", PORT);
    assert!(node.is_sound(&conf));

    firewalld.stop();
    firewalld.kill_bus();
    let status = watch.0.child.wait().expect("a child of ours");
    assert_eq!(status.code(), Some(1), "without a bus it ends, for systemd to start it again");
}

fn the_watch_heals_after_a_flush_without_a_bus(b: &TestBox) {
    let node = Node::new(b);
    let (_, conf) = node.add("web", PORT);
    let mut watch = Watch::start(&node);
    watch.says("watching nftables; there is no system bus");
    watch.says("attachments: 1 with nothing missing");
    for _ in 0..2 {
        flush(b);
        watch.says("nftables table ");
        watch.says(&format!("{NAME}/web/eth0: restored portmap, firewall"));
        watch.says("attachments: 1 restored");
        node.serves("web", PORT);
        assert!(node.is_sound(&conf));
    }
    // Deleted and loaded in one transaction, as nftables.service does.
    b.nft("flush ruleset; table inet filter { chain forward { type filter hook forward priority 0; }; }");
    watch.says(&format!("{NAME}/web/eth0: restored portmap, firewall"));
    node.serves("web", PORT);
    watch.ends();
}

fn the_watch_notices_that_the_host_starts_to_drop(b: &TestBox) {
    let node = Node::new(b);
    let (web, _) = node.add("web", PORT);
    b.out.serve("out", 80);
    let mut watch = Watch::start(&node);
    watch.says("attachments: 1 with nothing missing");
    b.nft("table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }");
    watch.says("chain inet filter forward has policy drop");
    watch.says(&format!("{NAME}/web/eth0: restored firewall"));
    web.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    b.nft("delete table inet filter");
    watch.says("nftables table inet filter was deleted");
    watch.says("attachments: 1 with nothing missing");
    drop_forwarded();
    watch.says("chain ip");
    watch.says(&format!("{NAME}/web/eth0: restored firewall"));
    web.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    node.serves("web", PORT);
    watch.ends();
}

fn the_watch_notices_flushed_tables(b: &TestBox) {
    let node = Node::new(b);
    let (_, conf) = node.add("web", PORT);
    let mut watch = Watch::start(&node);
    watch.says("attachments: 1 with nothing missing");
    for (table, plugin) in [("inet cni_portmap", "portmap"), ("inet cni_firewall", "firewall")] {
        b.nft(&format!("flush table {table}"));
        watch.says(&format!("{NAME}/web/eth0: restored {plugin}"));
        watch.says(&format!(
            "rules were deleted from nftables table {table}; attachments: 1 restored"
        ));
        node.serves("web", PORT);
        assert!(node.is_sound(&conf));
    }
    watch.ends();
}

/// Of legacy iptables the kernel tells nothing.
fn the_watch_notices_what_iptables_flushes(b: &TestBox) {
    let node = masquerade::node(b, &masquerade::bridge());
    let (container, _) = node.add("web", PORT);
    let mut watch = Watch::start(&node);
    watch.says("attachments: 1 with nothing missing");
    for (flushed, restored) in [
        ("iptables -t nat -F; ip6tables -t nat -F", "restored ipMasq"),
        ("iptables -t nat -F POSTROUTING", "restored ipMasq"),
    ] {
        sh(flushed);
        watch.heals(&container, &node, restored);
    }
    watch.ends();
}

/// Pods come and go, and every DEL deletes rules: that is nothing to talk about, and neither is what its own
/// restores delete.
fn the_watch_does_not_answer_to_itself(b: &TestBox) {
    let node = masquerade::node(b, &masquerade::bridge());
    node.add("web", PORT);
    let mut watch = Watch::start(&node);
    watch.says("attachments: 1 with nothing missing");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        sh("iptables -t nat -N CNI-other; iptables -t nat -A CNI-other -j RETURN; \
            iptables -t nat -F CNI-other; iptables -t nat -X CNI-other");
    }
    assert_eq!(watch.0.lines.try_iter().collect::<Vec<_>>(), [""; 0], "it has nothing to say");
    sh("iptables -t nat -F; ip6tables -t nat -F");
    watch.says(&format!("{NAME}/web/eth0: restored ipMasq"));
    watch.says("rules were deleted from nftables table ip");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(watch.0.lines.try_iter().collect::<Vec<_>>(), [""; 0], "it has no more to say");
    watch.ends();
}
