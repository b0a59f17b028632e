//! firewalld beside a runtime: what its reloads take away comes back without the runtime.

use std::time::Duration;

use cni_testbox::{
    Firewalld, Namespace, OUT_V4, OUT_V6, RunningWatch, TestBox, Transport, both, cases, sh,
};

use serde_json::Value;

use crate::compat::Compat;
use crate::{containerd, node, podman};

cases! {
    beside_containerd, backends;
    beside_podman, backends;
}

const PORT: u16 = 8080;

fn beside_containerd(b: &TestBox) {
    let mut firewalld = Firewalld::start();
    let mut list = node::network(b, "1.0.0");
    let plugins = list["plugins"].as_array_mut().expect("a list");
    plugins.iter_mut().for_each(leave_firewall_its_choice);
    node::configure(&list);
    let node = containerd::Node::start_on_configured(b);
    let web = node.run("web", &containerd::Wish::ports(&both(PORT, 80)));
    survives(b, &mut firewalld, &web.netns);
    seen(b, "containerd");
    node.remove(&web);
    b.out.is_not_served(PORT);
}

fn beside_podman(b: &TestBox) {
    let mut firewalld = Firewalld::start();
    let host = podman::Podman::on(b);
    host.network("a", 1);
    podman::edit("a", |plugins| plugins.iter_mut().for_each(leave_firewall_its_choice));
    let options = "--network a --publish 8080:80/tcp --publish 8080:80/udp";
    let web = podman::start("web", options);
    survives(b, &mut firewalld, &web);
    seen(b, "podman");
    podman::remove("web");
    b.out.is_not_served(PORT);
}

/// What iptables accepts firewalld refuses all the same: where it runs, firewall asks it.
fn leave_firewall_its_choice(entry: &mut Value) {
    if entry["type"] == "firewall" {
        entry.as_object_mut().expect("an entry").remove("backend");
    }
}

/// Whatever is done to firewalld, `web` is served and reaches the outside afterwards.
fn survives(b: &TestBox, firewalld: &mut Firewalld, web: &Namespace) {
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
        firewalld.reload();
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
}

fn seen(b: &TestBox, runtime: &str) {
    let version = sh("dpkg-query --showformat '${Version}' --show firewalld");
    let what =
        format!("reload, complete-reload, stop, start, beside {runtime} with restore --watch");
    Compat::of("firewalld", &version, b).works("all", &what);
}

/// For each line of the watch.
const PATIENCE: Duration = Duration::from_mins(1);
