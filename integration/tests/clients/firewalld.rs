//! firewalld beside a runtime: what its reloads take away comes back without the runtime.

use std::time::Duration;

use cni_testbox::{
    Firewalld, Namespace, OUT_V4, OUT_V6, RunningWatch, TestBox, Transport, both, cases,
};

use crate::compat::Compat;
use crate::{containerd, node, podman};

cases! {
    beside_containerd, ours;
    beside_podman, ours;
}

const PORT: u16 = 8080;

fn beside_containerd(b: &TestBox) {
    let mut firewalld = Firewalld::start();
    let node = containerd::Node::start(b);
    let web = node.run("web", &containerd::Wish::ports(&both(PORT, 80)));
    survives(b, &mut firewalld, &node.compat, &web.netns);
    node.remove(&web);
    b.out.is_not_served(PORT);
}

fn beside_podman(b: &TestBox) {
    let mut firewalld = Firewalld::start();
    let host = podman::Podman::on(b);
    host.network("a", 1);
    let options = "--network a --publish 8080:80/tcp --publish 8080:80/udp";
    let web = podman::start("web", options);
    survives(b, &mut firewalld, &host.compat, &web);
    podman::remove("web");
    b.out.is_not_served(PORT);
}

/// Whatever is done to firewalld, `web` is served and reaches the outside afterwards.
fn survives(b: &TestBox, firewalld: &mut Firewalld, compat: &Compat, web: &Namespace) {
    b.out.serve("out", 80);
    let has_everything = || {
        node::is_served(b, "web", PORT, web, web);
        for outside in [OUT_V4, OUT_V6] {
            web.reach(Transport::Tcp, outside, 80).by("out");
        }
    };
    has_everything();
    let mut watch = RunningWatch::start(&mut node::cni_chain(&["restore", "--watch"]), PATIENCE);
    watch.says("watching firewalld and nftables");
    let heals = |reason: &str| {
        watch.says(reason);
        watch.says("attachments: 1 ");
        has_everything();
    };
    for _ in 0..2 {
        firewalld.cmd(&["--reload"]);
        heals("firewalld was reloaded");
    }
    firewalld.cmd(&["--complete-reload"]);
    heals("firewalld was reloaded");
    firewalld.end();
    heals("firewalld was stopped");
    firewalld.start_again();
    heals("firewalld was started");
    watch.child.kill().expect("a child of ours");
    watch.child.wait().expect("a child of ours");
    compat.works(
        "all",
        "firewalld beside it: reload, complete-reload, stop, start, with restore --watch",
    );
}

/// For each line of the watch.
const PATIENCE: Duration = Duration::from_mins(1);
