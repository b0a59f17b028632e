//! A node goes from the Go plugins to ours under running pods, and nobody notices.

use cni_testbox::{
    HOST_V4, Implementation, TestBox, both, cases, iptables, nft, run, sh, tc, tcp, tool,
};
use serde_json::json;

use crate::compat::Compat;
use crate::containerd::{Node, Wish};
use crate::node;

cases! {
    from_every_backend_of_the_go_plugins, backends;
}

const PORT: u16 = 8080;
/// Of an echo server in the pod.
const ECHO: u16 = 7;

fn from_every_backend_of_the_go_plugins(b: &TestBox) {
    let compat = Compat::of("Go plugins", &go_version(), b);
    let mut node = Node::start(b);
    takes_over(b, &mut node, "iptables");
    compat.works("all", "takeover from iptables under a running pod of containerd's");
    if go_has_nftables() {
        takes_over(b, &mut node, "nftables");
        compat.works("all", "takeover from portmap's nftables under a running pod of containerd's");
    }
}

/// Debian builds them without a version of their own.
fn go_version() -> String {
    let version = sh("dpkg-query --showformat '${Version}' --show containernetworking-plugins");
    version.split(['+', '~', '-']).next().unwrap_or(&version).to_owned()
}

/// Since 1.6, which was also the first to speak CNI 1.1.0.
fn go_has_nftables() -> bool {
    let mut version = tool("sh");
    version.args(["-c", "echo '{}' | CNI_COMMAND=VERSION /usr/lib/cni/portmap"]);
    run(&mut version).contains("1.1.0")
}

/// From the backend of the Go plugins' portmap to ours.
fn takes_over(b: &TestBox, node: &mut Node<'_>, backend: &str) {
    let ours = node::network(b, "1.0.0");
    let mut list = ours.clone();
    list["plugins"][1]["backend"] = json!(backend);
    node::configure(&list);
    node::put_plugins(Implementation::Go);
    node.restart();
    let wish = Wish::limited(&[both(PORT, 80), vec![tcp(PORT + 1, ECHO)]].concat());
    let old = node.run("old", &wish);
    old.netns.serve_echo(ECHO);
    let mut flow = b.out.tcp_flow(HOST_V4, PORT + 1);
    flow.echo();
    let go_chains = iptables::chains(false, "nat").iter().any(|chain| chain.starts_with("CNI-DN-"));
    let go_table = nft::tables().iter().any(|table| table.ends_with(" cni_hostport"));
    assert_eq!((go_chains, go_table), (backend == "iptables", backend == "nftables"));

    node::configure(&ours);
    node::put_plugins(b.implementation);
    node.restart();
    flow.echo();
    let new = node.run("new", &Wish::limited(&both(PORT + 2, 80)));
    b.out.is_served(PORT, "old");
    b.out.is_served(PORT + 2, "new");
    flow.echo();
    let address = old.address_v4();
    node.remove(&old);
    b.out.is_not_served(PORT);
    let ruleset = b.nft_list_all();
    for left in [&old.id[..], &format!("{address} "), &format!("{address}:")] {
        assert!(!ruleset.contains(left), "{left} is left: {ruleset}");
    }
    assert_eq!(tc::ifbs().len(), 1, "the new pod's alone");
    b.out.is_served(PORT + 2, "new");
    node.remove(&new);
    assert_eq!(tc::ifbs(), [""; 0]);
}
