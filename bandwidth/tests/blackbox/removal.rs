//! DEL, GC, and what another plugin or a crash left.

use serde_json::json;

use crate::testbox::{Call, Container, Plugin, attempt, boxed, ifbs, listed, rate_of, run};

boxed! {
    del_leaves_nothing_on_a_live_veth
    del_needs_nothing
    del_after_the_namespace
    two_interfaces_of_one_container
    gc_keeps_what_is_valid
    gc_finds_limits_without_an_ifb
    gc_removes_ifbs_of_go_that_nothing_leads_to
    an_ingress_limit_names_its_owner
    go_s_attachment_is_taken_over
    go_s_attachment_is_removed
    go_s_other_attachment_is_left_alone
    a_killed_add_is_adopted
    status
}

fn limited(command: &str, container: &Container) -> Call {
    Call::new(command, container).ingress(8_000_000, 800_000).egress(8_000_000, 800_000)
}

fn ingress_only(command: &str, container: &Container) -> Call {
    Call::new(command, container).ingress(8_000_000, 800_000)
}

fn alias(interface: &str) -> Option<String> {
    let found = listed(&format!("ip -j link show dev {interface}")).remove(0);
    found["ifalias"].as_str().map(str::to_owned)
}

#[track_caller]
fn assert_clean(container: &Container) {
    assert_eq!(ifbs(), Vec::<String>::new());
    let kinds: Vec<_> = container.qdiscs().iter().map(|q| q["kind"].clone()).collect();
    assert_eq!(kinds, ["noqueue"]);
    assert_eq!(alias(&container.veth), None);
    container.run(&format!("ping -c 1 -W 5 {}", container.host_v4()));
}

fn del_leaves_nothing_on_a_live_veth() {
    let container = Container::new("c1", 1);
    for subnets in [json!([]), json!(["10.0.0.0/8", "fd00::/8"])] {
        limited("ADD", &container).set("shapedSubnets", subnets).ok();
        limited("DEL", &container).ok();
        assert_clean(&container);
        limited("DEL", &container).ok();
    }
}

fn del_needs_nothing() {
    let container = Container::new("c1", 1);
    let bare = Call::new("DEL", &container).without("prevResult");
    for del in [
        bare.clone(),
        bare.clone().set("ingressRate", 5),
        bare.clone().set("ingressRate", "nonsense"),
        bare.set("prevResult", "nonsense"),
    ] {
        limited("ADD", &container).ok();
        del.ok();
        assert_clean(&container);
    }
    // Without the namespace the host's end is found by the IFB that it redirects to, or by its own
    // mark.
    limited("ADD", &container).ok();
    limited("DEL", &container).netns("").ok();
    assert_clean(&container);
    ingress_only("ADD", &container).ok();
    ingress_only("DEL", &container).netns("").ok();
    assert_clean(&container);
}

fn del_after_the_namespace() {
    let container = Container::new("c1", 1);
    limited("ADD", &container).ok();
    run("ip netns del c1");
    limited("DEL", &container).ok();
    assert_eq!(ifbs(), Vec::<String>::new());
}

fn two_interfaces_of_one_container() {
    let first = Container::new("c1", 1);
    let second = Container::attach("c1", "eth1", 2);
    limited("ADD", &first).ok();
    limited("ADD", &second).ok();
    assert_eq!(ifbs().len(), 2);
    assert_ne!(first.redirect(), second.redirect());
    limited("DEL", &second).ok();
    limited("CHECK", &first).ok();
    first.run("ping -c 1 -W 5 10.9.1.1");
    limited("DEL", &first).ok();
    assert_clean(&first);
}

fn gc_keeps_what_is_valid() {
    let (kept, stale) = (Container::new("c1", 1), Container::new("c2", 2));
    let other = Container::new("c3", 3);
    limited("ADD", &kept).ok();
    limited("ADD", &stale).ok();
    limited("ADD", &other).set("name", "net2").ok();
    run("ip link add bystander type ifb");
    let gc = Call::new("GC", &kept).set("cniVersion", "1.1.0");
    // A runtime that does not say what is valid cannot mean that nothing is.
    gc.ok();
    assert_eq!(ifbs().len(), 4);
    let valid = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    gc.clone().set("cni.dev/valid-attachments", valid).ok();
    assert_eq!(ifbs().len(), 3);
    limited("CHECK", &kept).ok();
    limited("CHECK", &other).set("name", "net2").ok();
    // The stale attachment's veth is still there and must not lead into nothing.
    stale.run("ping -c 1 -W 5 10.9.2.1");
    gc.set("cni.dev/valid-attachments", json!([])).ok();
    assert_eq!(ifbs().len(), 2);
}

fn gc_finds_limits_without_an_ifb() {
    let (kept, stale) = (Container::new("c1", 1), Container::new("c2", 2));
    let other = Container::new("c3", 3);
    ingress_only("ADD", &kept).ok();
    ingress_only("ADD", &stale).ok();
    ingress_only("ADD", &other).set("name", "net2").ok();
    let valid = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    let gc = Call::new("GC", &kept).set("cniVersion", "1.1.0");
    gc.set("cni.dev/valid-attachments", valid).ok();
    assert_clean(&stale);
    ingress_only("CHECK", &kept).ok();
    ingress_only("CHECK", &other).set("name", "net2").ok();
}

fn gc_removes_ifbs_of_go_that_nothing_leads_to() {
    let (kept, gone) = (Container::new("c1", 1), Container::new("c2", 2));
    limited("ADD", &kept).run(Plugin::Go).success();
    limited("ADD", &gone).run(Plugin::Go).success();
    let [redirect, idle] = [kept.redirect(), gone.redirect()].map(|name| name.expect("a redirect"));
    run("ip link del veth2");
    // As far as an ADD of the Go plugin gets before it sends anything there.
    run("ip link add bwp0123456789ab type ifb");
    let gc = Call::new("GC", &kept).set("cniVersion", "1.1.0").set("name", "net2");
    gc.set("cni.dev/valid-attachments", json!([])).ok();
    let left = ifbs();
    assert!(left.contains(&redirect) && !left.contains(&idle), "{left:?}");
    assert!(left.contains(&"bwp0123456789ab".to_owned()), "{left:?}");
    kept.run("ping -c 1 -W 5 10.9.1.1");
}

fn an_ingress_limit_names_its_owner() {
    let container = Container::new("c1", 1);
    ingress_only("ADD", &container).ok();
    assert_eq!(alias("veth1").as_deref(), Some("net/c1/eth0"));
    limited("ADD", &container).ok();
    ingress_only("ADD", &container).ok();
    assert_eq!(alias("veth1").as_deref(), Some("net/c1/eth0"));
    Call::new("ADD", &container).egress(8_000_000, 800_000).ok();
    assert_eq!(alias("veth1"), None);
    ingress_only("ADD", &container).ok();
    ingress_only("DEL", &container).ok();
    assert_clean(&container);
    // What somebody else calls the interface stays.
    run("ip link set veth1 alias theirs");
    ingress_only("ADD", &container).ok();
    ingress_only("CHECK", &container).ok();
    ingress_only("DEL", &container).ok();
    assert_eq!((alias("veth1").as_deref(), container.ingress_rate()), (Some("theirs"), None));
}

fn go_s_attachment_is_taken_over() {
    let container = Container::new("c1", 1);
    limited("ADD", &container).run(Plugin::Go).success();
    let theirs = ifbs();
    limited("ADD", &container).ok();
    assert_eq!(ifbs().len(), 1);
    assert_ne!(ifbs(), theirs);
    assert_eq!(container.filters("ingress").len(), 1);
    limited("CHECK", &container).ok();
    limited("DEL", &container).ok();
    assert_clean(&container);
}

fn go_s_attachment_is_removed() {
    let container = Container::new("c1", 1);
    limited("ADD", &container).run(Plugin::Go).success();
    limited("DEL", &container).ok();
    assert_clean(&container);
    // What its own DEL leaves drops everything; an ADD of ours puts an end to that.
    limited("ADD", &container).run(Plugin::Go).success();
    limited("DEL", &container).run(Plugin::Go).success();
    assert!(!attempt("ip netns exec c1 ping -c 1 -W 1 10.9.1.1").status.success());
    limited("ADD", &container).ok();
    container.run("ping -c 1 -W 5 10.9.1.1");
}

fn go_s_other_attachment_is_left_alone() {
    let first = Container::new("c1", 1);
    let second = Container::attach("c1", "eth1", 2);
    limited("ADD", &first).run(Plugin::Go).success();
    limited("ADD", &second).ok();
    assert_eq!(ifbs().len(), 2);
    limited("DEL", &second).ok();
    assert_eq!(ifbs().len(), 1);
    run("ip link del veth2");
    limited("DEL", &second).netns("").ok();
    assert_eq!(first.redirect().as_ref(), ifbs().first());
    first.run("ping -c 1 -W 5 10.9.1.1");
}

fn a_killed_add_is_adopted() {
    let container = Container::new("c1", 1);
    limited("ADD", &container).ok();
    let name = ifbs().remove(0);
    limited("DEL", &container).ok();
    // As far as an ADD gets before it gives the IFB its owner.
    run(&format!("ip link add {name} type ifb"));
    limited("ADD", &container).ok();
    limited("CHECK", &container).ok();
    limited("DEL", &container).ok();
    run(&format!("ip link add {name} type ifb"));
    limited("DEL", &container).ok();
    assert_clean(&container);
    // Somebody else's is not.
    run(&format!("ip link add {name} type ifb; ip link set {name} alias net/other/eth0"));
    limited("ADD", &container).run(Plugin::Ours).fails_with(101, "belongs to net/other/eth0");
    assert_eq!((container.ingress_rate(), rate_of(&name)), (None, None));
    assert_eq!(container.qdiscs().len(), 1);
    limited("DEL", &container).ok();
    assert_eq!(ifbs(), [name]);
}

fn status() {
    let container = Container::new("c1", 1);
    let status = Call::new("STATUS", &container).set("cniVersion", "1.1.0").without("prevResult");
    status.ok();
    assert_clean(&container);
    let weak = status
        .under("setpriv --bounding-set=-sys_admin,-net_admin --inh-caps=-sys_admin,-net_admin");
    weak.run(Plugin::Ours).fails_with(50, "run it as root");
}
