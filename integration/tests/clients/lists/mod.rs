//! The lists that projects ship, with the keys, versions and capabilities that are really in the field, each
//! driven with what its runtime sends. The text of the lists is ours (`conflists/`).
//!
//! The plugins that make a cluster's interfaces are on no machine of ours: `stand_in.rs` makes a real
//! interface for each of them.

mod caller;
mod life;

use cni_chain::Runner;
use cni_testbox::{GO_PLUGINS, HOST_V4, HOST2_V4, TestBox, Transport, cases, iptables, sh, tc};

use caller::{Caller, PORT};
use life::{Host, Pod};

cases! {
    flannel, backends;
    calico, backends;
    antrea_and_weave, backends;
    cilium_and_kube_ovn, backends;
    point_to_point, backends;
    bridges, backends;
    without_a_version, backends;
    aws, backends;
    an_external_chain_masquerades, ours;
    conditions_of_iptables, ours;
    conditions_of_nftables, ours;
    static_limits, ours;
    crio, backends;
    podman, backends;
    nerdctl, backends;
    nerdctl_rootless, ours;
    nomad, backends;
    buildkit, backends;
    minikube_and_a_list_older_than_the_go_plugin, backends;
    concourse, ours;
    multus, ours;
    what_is_refused, ours;
}

/// Nothing more to look at.
fn nothing(_: &Pod) {}

fn flannel(b: &TestBox) {
    let host = Host::of(b);
    host.lives("flannel/10-flannel.conflist", Caller::Containerd, nothing);
    host.lives("k3s/10-flannel.conflist", Caller::Containerd, nothing);
}

fn calico(b: &TestBox) {
    let host = Host::of(b);
    host.lives("calico/10-calico.conflist", Caller::Containerd, nothing);
    host.lives("canal/10-canal.conflist", Caller::CriDockerd, nothing);
    host.lives("canal/10-canal-delegating.conflist", Caller::Containerd, nothing);
}

fn antrea_and_weave(b: &TestBox) {
    let host = Host::of(b);
    host.lives("antrea/10-antrea.conflist", Caller::Containerd, nothing);
    host.lives("weave/10-weave.conflist", Caller::CriDockerd, nothing);
}

fn cilium_and_kube_ovn(b: &TestBox) {
    let host = Host::of(b);
    host.lives("cilium/05-cilium-portmap.conflist", Caller::Containerd, nothing);
    host.lives("cilium/05-cilium-flannel.conflist", Caller::Containerd, nothing);
    host.lives("kube-ovn/01-kube-ovn.conflist", Caller::Containerd, nothing);
    host.lives("kube-ovn/05-cilium-chaining.conflist", Caller::Containerd, nothing);
}

fn point_to_point(b: &TestBox) {
    let host = Host::of(b);
    host.lives("kind/10-kindnet.conflist", Caller::Containerd, nothing);
    host.lives("containerd/10-gce.conflist", Caller::Containerd, nothing);
}

fn bridges(b: &TestBox) {
    let host = Host::of(b);
    host.lives("containerd/10-containerd-net.conflist", Caller::Containerd, nothing);
    // Without any data: nothing is mapped.
    host.lives("containerd/10-containerd-net.conflist", Caller::Ctr, nothing);
    host.lives("kube-router/10-kuberouter.conflist", Caller::Containerd, nothing);
}

fn without_a_version(b: &TestBox) {
    let host = Host::of(b);
    host.lives("microk8s/flannel.conflist", Caller::Containerd, |pod| {
        assert_eq!(pod.result["cniVersion"], "0.1.0");
        assert!(pod.result.get("interfaces").is_none(), "{}", pod.result);
    });
}

fn aws(b: &TestBox) {
    let host = Host::of(b);
    host.lives("aws/10-aws.conflist", Caller::Containerd, |pod| {
        let last = pod.result["interfaces"].as_array().and_then(|all| {
            all.iter()
                .find(|one| one["name"].as_str().is_some_and(|name| name.starts_with("dummy")))
        });
        assert_eq!(last.map(|one| &one["mac"]), Some(&"0".into()), "what DEL wants is kept in it");
    });
}

/// kube-proxy's chain, and what it masquerades by.
fn an_external_chain_masquerades(b: &TestBox) {
    sh("for program in iptables ip6tables; do
            $program -t nat -N KUBE-MARK-MASQ
            $program -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
            $program -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
        done");
    let host = Host::of(b);
    let masquerades = |pod: &Pod| {
        // Its own port would find no way back otherwise.
        pod.netns().reach(Transport::Tcp, HOST_V4, PORT).by("web");
    };
    host.lives("terway/10-terway.conflist", Caller::Containerd, masquerades);
    host.lives("kubenet/10-containerd-net.conflist", Caller::Containerd, nothing);
}

fn conditions_of_iptables(b: &TestBox) {
    let host = Host::of(b);
    let elsewhere = |_: &Pod| b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT);
    let at = [HOST2_V4, "127.0.0.1"];
    host.lives_at("metalk8s/10-calico.conflist", Caller::Containerd, &at, elsewhere);
    let elsewhere = |_: &Pod| b.out.cannot_reach(Transport::Tcp, HOST2_V4, PORT);
    host.lives("documented/conditions-iptables.conflist", Caller::Containerd, elsewhere);
}

fn conditions_of_nftables(b: &TestBox) {
    let host = Host::of(b);
    host.lives("documented/conditions-nftables.conflist", Caller::Containerd, |_| {
        b.out.cannot_reach(Transport::Tcp, HOST2_V4, PORT);
    });
}

fn static_limits(b: &TestBox) {
    let host = Host::of(b);
    host.lives("documented/static-limits.conflist", Caller::Containerd, |pod| {
        let bucket = tc::tbf(&pod.host_end()).expect("a TBF");
        assert_eq!(bucket["burst"].as_u64(), Some(160_000 / 8), "{bucket}");
    });
}

fn crio(b: &TestBox) {
    let host = Host::of(b);
    // What it ships: none of ours.
    host.lives("cri-o/10-crio-bridge.conflist", Caller::CriO, nothing);
    host.lives("cri-o/20-chained.conflist", Caller::CriO, nothing);
}

fn podman(b: &TestBox) {
    let host = Host::of(b);
    host.lives("podman/87-podman-bridge.conflist", Caller::Podman, nothing);
    host.lives("podman/isolated.conflist", Caller::Podman, nothing);
}

fn nerdctl(b: &TestBox) {
    let host = Host::of(b);
    host.lives("nerdctl/nerdctl-bridge.conflist", Caller::Nerdctl, nothing);
    host.lives("nerdctl/nerdctl-isolated.conflist", Caller::Nerdctl, nothing);
}

fn nerdctl_rootless(b: &TestBox) {
    let host = Host::of(b);
    host.lives("nerdctl/nerdctl-rootless.conflist", Caller::Nerdctl, nothing);
}

/// Nomad makes the administrator's chain itself, and counts on it.
fn nomad(b: &TestBox) {
    sh("iptables -N NOMAD-ADMIN
        iptables -A NOMAD-ADMIN -o nomad -d 172.26.64.0/20 -j ACCEPT");
    let host = Host::of(b);
    host.lives("nomad/10-nomad.conflist", Caller::Nomad, |_| {
        let forward = iptables::rules(false, "filter", "CNI-FORWARD");
        assert!(forward.iter().any(|rule| rule.ends_with("-j NOMAD-ADMIN")), "{forward:?}");
        let admin = iptables::rules(false, "filter", "NOMAD-ADMIN");
        assert!(admin.iter().any(|rule| rule.contains("-o nomad")), "{admin:?}");
    });
}

fn buildkit(b: &TestBox) {
    let host = Host::of(b);
    host.lives("buildkit/buildkit.conflist", Caller::Buildkit, nothing);
}

/// The Go plugin's firewall knows no version before 0.4.0.
fn minikube_and_a_list_older_than_the_go_plugin(b: &TestBox) {
    const OLD: &str = "readme/0.3.1-with-firewall.conflist";
    let host = Host::of(b);
    host.lives("minikube/1-k8s.conflist", Caller::CriDockerd, nothing);
    let go = Runner::new(vec![GO_PLUGINS.into()], "/run/cache".into());
    let error = go.validate(&host.list(OLD)).expect_err("the Go plugin's versions").to_string();
    assert!(error.contains("firewall") && error.contains("0.3.1"), "{error}");
    host.lives(OLD, Caller::Containerd, nothing);
}

fn concourse(b: &TestBox) {
    let host = Host::of(b);
    host.lives("concourse/30-concourse.conflist", Caller::Containerd, nothing);
}

fn multus(b: &TestBox) {
    let host = Host::of(b);
    host.lives("multus/macvlan-like.conflist", Caller::Multus, nothing);
}

fn what_is_refused(b: &TestBox) {
    let host = Host::of(b);
    let empty = "unrecognized backend \"\"";
    host.refuses("refused/empty-backend.conflist", Caller::Containerd, &["portmap", empty]);
    let both = ["portmap", "markMasqBit", "externalSetMarkChain"];
    host.refuses("refused/two-marks.conflist", Caller::Containerd, &both);
    // As its page has it; what installs it gives it one.
    let nameless = life::load("terway/without-a-name.conflist").expect_err("it has no name");
    assert!(nameless.to_string().contains("name"), "{nameless}");
}
