//! DEL, GC, and what another plugin or a crash left.

use cni_testbox::{Attachment, Call, TestBox, bandwidth, cases, sh, tc};
use serde_json::json;

use crate::support::{alias, assert_clean, inside, limited, redirect};

cases! {
    del_leaves_nothing_on_a_live_veth, ours;
    del_needs_nothing, ours;
    del_after_the_namespace, ours;
    two_interfaces_of_one_container, ours;
    gc_keeps_what_is_valid, ours;
    gc_finds_limits_without_an_ifb, ours;
    an_ingress_limit_names_its_owner, ours;
    a_killed_add_is_adopted, ours;
    del_finds_what_was_added_under_another_network_name, ours;
    a_second_add_under_another_network_name_is_an_update, ours;
    status, ours;
}

fn ingress_only(command: &str, container: &Attachment) -> Call {
    bandwidth(command, container).ingress(8_000_000, 800_000)
}

fn del_leaves_nothing_on_a_live_veth(b: &TestBox) {
    let container = b.pair("c1", 1);
    for subnets in [json!([]), json!(["10.0.0.0/8", "fd00::/8"])] {
        limited("ADD", &container).set("shapedSubnets", subnets).run(b).success();
        limited("DEL", &container).run(b).success();
        assert_clean(&container);
        limited("DEL", &container).run(b).success();
    }
}

fn del_needs_nothing(b: &TestBox) {
    let container = b.pair("c1", 1);
    let bare = bandwidth("DEL", &container).without("prevResult");
    for del in [
        bare.clone(),
        bare.clone().set("ingressRate", 5),
        bare.clone().set("ingressRate", "nonsense"),
        bare.set("prevResult", "nonsense"),
    ] {
        limited("ADD", &container).run(b).success();
        del.run(b).success();
        assert_clean(&container);
    }
    // Without the namespace the host's end is found by the IFB that it redirects to, or by its own
    // mark.
    limited("ADD", &container).run(b).success();
    limited("DEL", &container).env("CNI_NETNS", "").run(b).success();
    assert_clean(&container);
    ingress_only("ADD", &container).run(b).success();
    ingress_only("DEL", &container).env("CNI_NETNS", "").run(b).success();
    assert_clean(&container);
}

fn del_after_the_namespace(b: &TestBox) {
    let container = b.pair("c1", 1);
    limited("ADD", &container).run(b).success();
    let del = limited("DEL", &container);
    // The last handle keeps the namespace alive.
    drop(container);
    sh("ip netns del c1");
    del.run(b).success();
    assert_eq!(tc::ifbs(), Vec::<String>::new());
}

fn two_interfaces_of_one_container(b: &TestBox) {
    let first = b.pair("c1", 1);
    let second = first.container.pair(2, "eth1");
    limited("ADD", &first).run(b).success();
    limited("ADD", &second).run(b).success();
    assert_eq!(tc::ifbs().len(), 2);
    assert_ne!(redirect(&first.host_end()), redirect(&second.host_end()));
    limited("DEL", &second).run(b).success();
    limited("CHECK", &first).run(b).success();
    inside(&first, "ping -c 1 -W 5 10.9.1.1");
    limited("DEL", &first).run(b).success();
    assert_clean(&first);
}

fn gc_keeps_what_is_valid(b: &TestBox) {
    let (kept, stale) = (b.pair("c1", 1), b.pair("c2", 2));
    let other = b.pair("c3", 3);
    limited("ADD", &kept).run(b).success();
    limited("ADD", &stale).run(b).success();
    limited("ADD", &other).set("name", "net2").run(b).success();
    sh("ip link add bystander type ifb");
    let gc = Call::of_network("bandwidth", "GC", "net");
    // A runtime that does not say what is valid cannot mean that nothing is.
    gc.run(b).success();
    assert_eq!(tc::ifbs().len(), 4);
    let valid = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    gc.clone().set("cni.dev/valid-attachments", valid).run(b).success();
    assert_eq!(tc::ifbs().len(), 3);
    limited("CHECK", &kept).run(b).success();
    limited("CHECK", &other).set("name", "net2").run(b).success();
    // The stale attachment's veth is still there and must not lead into nothing.
    inside(&stale, "ping -c 1 -W 5 10.9.2.1");
    gc.set("cni.dev/valid-attachments", json!([])).run(b).success();
    assert_eq!(tc::ifbs().len(), 2);
}

fn gc_finds_limits_without_an_ifb(b: &TestBox) {
    let (kept, stale) = (b.pair("c1", 1), b.pair("c2", 2));
    let other = b.pair("c3", 3);
    ingress_only("ADD", &kept).run(b).success();
    ingress_only("ADD", &stale).run(b).success();
    ingress_only("ADD", &other).set("name", "net2").run(b).success();
    let valid = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    let gc = Call::of_network("bandwidth", "GC", "net");
    gc.set("cni.dev/valid-attachments", valid).run(b).success();
    assert_clean(&stale);
    ingress_only("CHECK", &kept).run(b).success();
    ingress_only("CHECK", &other).set("name", "net2").run(b).success();
}

fn an_ingress_limit_names_its_owner(b: &TestBox) {
    let container = b.pair("c1", 1);
    ingress_only("ADD", &container).run(b).success();
    assert_eq!(alias("veth1").as_deref(), Some("net/c1/eth0"));
    limited("ADD", &container).run(b).success();
    ingress_only("ADD", &container).run(b).success();
    assert_eq!(alias("veth1").as_deref(), Some("net/c1/eth0"));
    bandwidth("ADD", &container).egress(8_000_000, 800_000).run(b).success();
    assert_eq!(alias("veth1"), None);
    ingress_only("ADD", &container).run(b).success();
    ingress_only("DEL", &container).run(b).success();
    assert_clean(&container);
    // What somebody else calls the interface stays.
    sh("ip link set veth1 alias theirs");
    ingress_only("ADD", &container).run(b).success();
    ingress_only("CHECK", &container).run(b).success();
    ingress_only("DEL", &container).run(b).success();
    assert_eq!(
        (alias("veth1").as_deref(), tc::rate(&container.host_end())),
        (Some("theirs"), None)
    );
}

fn a_killed_add_is_adopted(b: &TestBox) {
    let container = b.pair("c1", 1);
    limited("ADD", &container).run(b).success();
    let name = tc::ifbs().remove(0);
    limited("DEL", &container).run(b).success();
    // As far as an ADD gets before it gives the IFB its owner.
    sh(&format!("ip link add {name} type ifb"));
    limited("ADD", &container).run(b).success();
    limited("CHECK", &container).run(b).success();
    limited("DEL", &container).run(b).success();
    sh(&format!("ip link add {name} type ifb"));
    limited("DEL", &container).run(b).success();
    assert_clean(&container);
    // Somebody else's is not.
    sh(&format!("ip link add {name} type ifb; ip link set {name} alias net/other/eth0"));
    limited("ADD", &container).run(b).expect_error_with(101, &["belongs to net/other/eth0"]);
    assert_eq!((tc::rate(&container.host_end()), tc::rate(&name)), (None, None));
    assert_eq!(tc::qdiscs(&container.host_end()).len(), 1);
    limited("DEL", &container).run(b).success();
    assert_eq!(tc::ifbs(), [name]);
}

fn del_finds_what_was_added_under_another_network_name(b: &TestBox) {
    let container = b.pair("c1", 1);
    for subnets in [json!([]), json!(["10.0.0.0/8"])] {
        for add in [limited("ADD", &container), ingress_only("ADD", &container)] {
            let add = add.set("shapedSubnets", subnets.clone());
            add.run(b).success();
            // GC stays with its network.
            let gc = Call::of_network("bandwidth", "GC", "renamed");
            gc.set("cni.dev/valid-attachments", json!([])).run(b).success();
            add.clone().command("CHECK").run(b).success();
            let del = bandwidth("DEL", &container).set("name", "renamed");
            del.run(b).success();
            assert_clean(&container);
            add.run(b).success();
            del.env("CNI_NETNS", "").run(b).success();
            assert_clean(&container);
        }
    }
    // Other interfaces and other containers are not the owner.
    limited("ADD", &container).run(b).success();
    let mut other = container.container.pair(2, "eth1");
    bandwidth("DEL", &other).set("name", "renamed").run(b).success();
    other.ifname = "eth0".into();
    let stranger = bandwidth("DEL", &other).set("name", "renamed").env("CNI_CONTAINERID", "c2");
    stranger.env("CNI_NETNS", "").run(b).success();
    limited("CHECK", &container).run(b).success();
}

fn a_second_add_under_another_network_name_is_an_update(b: &TestBox) {
    let container = b.pair("c1", 1);
    for add in [limited("ADD", &container), ingress_only("ADD", &container)] {
        add.run(b).success();
        let before = tc::ifbs();
        add.clone().set("name", "renamed").run(b).success();
        assert_eq!(tc::ifbs(), before);
        add.clone().set("name", "renamed").command("CHECK").run(b).success();
        let named = before.first().map_or("veth1", String::as_str);
        assert_eq!(alias(named).as_deref(), Some("renamed/c1/eth0"));
        let gc = |network| Call::of_network("bandwidth", "GC", network);
        gc("net").set("cni.dev/valid-attachments", json!([])).run(b).success();
        add.set("name", "renamed").command("CHECK").run(b).success();
        gc("renamed").set("cni.dev/valid-attachments", json!([])).run(b).success();
        assert_clean(&container);
    }
}

fn status(b: &TestBox) {
    let container = b.pair("c1", 1);
    let status = Call::of_network("bandwidth", "STATUS", "net");
    status.run(b).success();
    assert_clean(&container);
    let without = ["--bounding-set=-sys_admin,-net_admin", "--inh-caps=-sys_admin,-net_admin"];
    let weak = status.clone().under(&["setpriv", without[0], without[1]]);
    weak.run(b).expect_error_with(50, &["run it as root"]);
    // An ordinary user is root in a user namespace, but not over the host's network.
    let rootless = ["unshare", "--user", "--map-root-user"];
    status.clone().under(&rootless).run(b).expect_error_with(50, &["network namespace"]);
    status.under(&[&rootless[..], &["--net"]].concat()).run(b).expect_silence();
}
