//! Whose a mapping is: two attachments never touch each other's, DEL removes exactly its own, and
//! the kernel holds what the last call asked for.

use serde_json::json;

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST_V6, Implementation, Mapping, Network, TestBox, at, both, cases,
    portmap, tcp, udp,
};

cases! {
    one_container_on_two_networks;
    one_container_on_two_networks_with_the_same_ports;
    one_container_twice_on_one_network, go_defect(
        "the chain is named after network and container, so DEL of one interface takes both"
    );
    two_networks_whose_names_and_ids_run_together, go_defect(
        "network name and container ID are hashed without a separator: (ab, c) is (a, bc)"
    );
    the_newest_owner_of_a_port_is_served, go_defect(
        "rules are appended, so the older container is served until it is deleted"
    );
    a_late_del_leaves_the_port_to_its_new_owner;
    del_of_the_new_owner_does_not_serve_it_any_more;
    a_late_del_spares_a_new_owner_with_the_same_address;
    a_late_del_spares_a_new_owner_by_tag, ours;
    every_order_of_add_and_del, ours;
    add_twice_is_add_once;
    add_again_with_other_ports_replaces_them, go_defect(
        "the rules of an earlier ADD stay, so its ports stay mapped"
    );
    add_again_with_another_address_replaces_it, go_defect(
        "the rule of an earlier ADD comes first, so the old address is still the target"
    );
    del_without_prev_result;
    del_without_runtime_config, go_defect(
        "without port mappings DEL returns at once and leaves every rule"
    );
    del_without_netns;
    del_with_a_vanished_netns;
    del_with_nothing_but_a_name, backends;
    del_twice;
    del_before_any_add;
    del_ten_times_at_once, go_defect(
        "concurrent DELs race between making the chain, flushing and deleting it, and some fail"
    );
    gc_removes_what_is_not_valid, backends;
    gc_with_an_empty_list_removes_all_of_the_network, backends;
    gc_with_null_is_gc_with_an_empty_list, backends;
    gc_without_a_list_removes_nothing, backends;
    gc_understands_the_earlier_spelling, backends;
    gc_of_another_network_removes_nothing, backends;
    gc_before_any_add, backends;
    on_conflict_fail_refuses_and_names_the_owner, backends;
    on_conflict_fail_lets_the_owner_add_again, backends;
    on_conflict_fail_leaves_what_an_earlier_add_made, backends;
    twenty_containers_at_once, go_defect(
        "concurrent ADDs race between iptables -C and -A and leave duplicate shared rules"
    );
}

fn one_container_on_two_networks(b: &TestBox) {
    let (first, second) = b.web_on(&Network::dual(1), &Network::dual(2));
    b.map(&first, &both(8080, 80));
    b.map(&second, &both(8081, 80));
    b.out.is_served(8080, "web");
    b.out.is_served(8081, "web");
    b.unmap(&first, &both(8080, 80));
    b.out.is_not_served(8080);
    b.out.is_served(8081, "web");
    b.unmap(&second, &both(8081, 80));
    b.out.is_not_served(8081);
}

/// What podman does. Answers leave by the default route, so a host that checks reverse paths
/// serves the port through the first network only.
fn one_container_on_two_networks_with_the_same_ports(b: &TestBox) {
    let (first, second) = b.web_on(&Network::dual(1), &Network::dual(2));
    b.map(&first, &both(8080, 80));
    b.map(&second, &both(8080, 80));
    for network in [&first.network, &second.network] {
        b.host.write_sysctl(&format!("ipv4/conf/{}/rp_filter", network.bridge()), "1");
    }
    b.out.is_served(8080, "web");
    if b.implementation == Implementation::Ours {
        for attachment in [&first, &second] {
            portmap("CHECK", attachment).mappings(&both(8080, 80)).run(b).expect_silence();
        }
        let once = b.ruleset();
        b.map(&second, &both(8080, 80));
        assert_eq!(b.ruleset(), once);
    }
    b.unmap(&second, &both(8080, 80));
    b.out.is_served(8080, "web");
    b.unmap(&first, &both(8080, 80));
    b.out.is_not_served(8080);
}

fn one_container_twice_on_one_network(b: &TestBox) {
    let (first, second) = b.web_on(&Network::dual(1), &Network::dual(1));
    b.map(&first, &both(8080, 80));
    b.map(&second, &both(8081, 80));
    b.unmap(&second, &both(8081, 80));
    b.out.is_not_served(8081);
    b.out.is_served(8080, "web");
}

fn two_networks_whose_names_and_ids_run_together(b: &TestBox) {
    let one = b.web(&Network::dual(1).named("ab"), "c");
    let two = b.web(&Network::dual(2).named("a"), "bc");
    b.map(&one, &both(8080, 80));
    b.map(&two, &both(8081, 80));
    b.unmap(&two, &both(8081, 80));
    b.out.is_not_served(8081);
    b.out.is_served(8080, "c");
}

fn old_and_new(b: &TestBox) -> (Attachment, Attachment) {
    let network = Network::dual(1);
    (b.web(&network, "old"), b.web(&network, "new"))
}

fn the_newest_owner_of_a_port_is_served(b: &TestBox) {
    let (old, new) = old_and_new(b);
    b.map(&old, &both(8080, 80));
    b.out.is_served(8080, "old");
    b.map(&new, &both(8080, 80));
    b.out.is_served(8080, "new");
}

fn a_late_del_leaves_the_port_to_its_new_owner(b: &TestBox) {
    let (old, new) = old_and_new(b);
    b.map(&old, &both(8080, 80));
    b.map(&new, &both(8080, 80));
    b.unmap(&old, &both(8080, 80));
    b.out.is_served(8080, "new");
    b.unmap(&old, &both(8080, 80));
    b.out.is_served(8080, "new");
    b.unmap(&new, &both(8080, 80));
    b.out.is_not_served(8080);
}

fn del_of_the_new_owner_does_not_serve_it_any_more(b: &TestBox) {
    let (old, new) = old_and_new(b);
    b.map(&old, &both(8080, 80));
    b.map(&new, &both(8080, 80));
    b.unmap(&new, &both(8080, 80));
    new.leave();
    b.unmap(&old, &both(8080, 80));
    b.out.is_not_served(8080);
    b.map(&old, &both(8080, 80));
    b.out.is_served(8080, "old");
}

/// The old container's address went to the new one before the old one's DEL came.
fn re_used_address(b: &TestBox) -> (Attachment, Attachment) {
    let network = Network::dual(1).single_address();
    let old = b.web(&network, "old");
    b.map(&old, &both(8080, 80));
    b.out.is_served(8080, "old");
    old.leave();
    let new = b.web(&network, "new");
    assert_eq!((old.v4(), old.v6()), (new.v4(), new.v6()), "host-local gives the only address");
    b.forget_neighbours();
    b.map(&new, &both(8080, 80));
    (old, new)
}

fn a_late_del_spares_a_new_owner_with_the_same_address(b: &TestBox) {
    let (old, _new) = re_used_address(b);
    b.out.is_served(8080, "new");
    b.unmap(&old, &both(8080, 80));
    b.out.is_served(8080, "new");
}

fn a_late_del_spares_a_new_owner_by_tag(b: &TestBox) {
    let (old, _new) = re_used_address(b);
    b.unmap(&old, &both(8080, 80));
    let owners: Vec<String> = b.portmap_elements().into_iter().map(|e| e.owner).collect();
    assert_eq!(owners, vec!["net1/new/eth0"; 4], "two protocols, two families");
}

/// Two containers with one address (one was restarted, its DEL is late) and one port: after every
/// call the owner is the one who was added last, unless it was deleted since.
fn every_order_of_add_and_del(b: &TestBox) {
    let network = Network::v4(1);
    let (old, mut new) = (b.web(&network, "old"), b.web(&network, "new"));
    new.result = old.result.clone();
    let tag = |a: &Attachment| format!("net1/{}/eth0", a.container.id);
    let mut owner = None;
    for (step, call) in every_four_of_four().into_iter().enumerate() {
        let web = if call < 2 { &old } else { &new };
        if call % 2 == 0 {
            b.map(web, &[tcp(8080, 80)]);
            owner = Some(tag(web));
        } else {
            b.unmap(web, &[tcp(8080, 80)]);
            owner = owner.filter(|owner| *owner != tag(web));
        }
        let owners: Vec<String> = b.portmap_elements().into_iter().map(|e| e.owner).collect();
        assert_eq!(owners, Vec::from_iter(owner.clone()), "step {step}");
    }
}

/// A de Bruijn sequence: 256 numbers below 4 among which every four in a row occur.
fn every_four_of_four() -> Vec<u8> {
    let mut sequence = vec![0; 4];
    let mut seen = std::collections::HashSet::from([[0; 4]]);
    // Prefer-largest is a known construction: from all zeroes, the largest digit that makes a
    // new window never runs into a dead end before every window occurred.
    while let Some(next) = (0..4).rev().find(|digit| {
        let tail = &sequence[sequence.len() - 3..];
        seen.insert([tail[0], tail[1], tail[2], *digit])
    }) {
        sequence.push(next);
    }
    assert_eq!(seen.len(), 256, "every window once");
    sequence
}

#[test]
fn the_sequence_holds_every_window() {
    assert_eq!(every_four_of_four().len(), 256 + 3);
}

/// The upgrade: the node's binaries were replaced while containers ran.
fn add_twice_is_add_once(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let once = b.map(&web, &both(8080, 80));
    let ruleset = b.ruleset();
    let twice = b.map(&web, &both(8080, 80));
    assert_eq!(once, twice);
    assert_eq!(b.ruleset(), ruleset);
    b.out.is_served(8080, "web");
}

fn add_again_with_other_ports_replaces_them(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    web.container.netns.serve("second", 81);
    b.map(&web, &[both(8080, 80), both(8081, 80)].concat());
    b.map(&web, &[both(8081, 81), both(8082, 80)].concat());
    b.out.is_not_served(8080);
    b.out.is_served(8081, "second");
    b.out.is_served(8082, "web");
}

fn add_again_with_another_address_replaces_it(b: &TestBox) {
    let (mut web, other) = old_and_new(b);
    b.map(&web, &both(8080, 80));
    b.out.is_served(8080, "old");
    // As after a restore: the same attachment, with the address the other one has.
    web.result = other.result.clone();
    b.map(&web, &both(8080, 80));
    b.out.is_served(8080, "new");
}

/// Some DEL of a mapped container removes its mapping and leaves another's.
fn del_removes_its_own(b: &TestBox, del: impl FnOnce(&Attachment) -> Call) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    b.map(&other, &both(8081, 80));
    let before = b.ruleset();
    b.map(&web, &both(8080, 80));
    b.out.is_served(8080, "web");
    del(&web).run(b).expect_silence();
    assert_eq!(b.ruleset(), before);
    b.out.is_not_served(8080);
    b.out.is_served(8081, "other");
}

fn del(web: &Attachment) -> Call {
    portmap("DEL", web).mappings(&both(8080, 80))
}

fn del_without_prev_result(b: &TestBox) {
    del_removes_its_own(b, |web| del(web).without("prevResult"));
}

fn del_without_runtime_config(b: &TestBox) {
    del_removes_its_own(b, |web| del(web).without("runtimeConfig"));
}

fn del_without_netns(b: &TestBox) {
    del_removes_its_own(b, |web| del(web).env("CNI_NETNS", ""));
}

fn del_with_a_vanished_netns(b: &TestBox) {
    del_removes_its_own(b, |web| del(web).env("CNI_NETNS", "/run/netns/gone"));
}

fn del_with_nothing_but_a_name(b: &TestBox) {
    del_removes_its_own(b, |web| {
        del(web).without("prevResult").without("runtimeConfig").env("CNI_NETNS", "")
    });
}

fn del_twice(b: &TestBox) {
    del_removes_its_own(b, |web| {
        b.unmap(web, &both(8080, 80));
        del(web)
    });
}

fn del_before_any_add(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    b.unmap(&web, &both(8080, 80));
    b.map(&other, &both(8080, 80));
    let before = b.ruleset();
    b.unmap(&web, &both(8080, 80));
    assert_eq!(b.ruleset(), before);
    b.out.is_served(8080, "other");
}

fn del_ten_times_at_once(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    b.map(&other, &both(8081, 80));
    let before = b.ruleset();
    b.map(&web, &both(8080, 80));
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| b.unmap(&web, &both(8080, 80)));
        }
    });
    assert_eq!(b.ruleset(), before);
    b.out.is_served(8081, "other");
}

/// Containers `a`, `b` on net1 at ports 8080, 8081 and `c` on net2 at 8082.
fn three_containers(b: &TestBox) -> [Attachment; 3] {
    let (one, two) = (Network::dual(1), Network::dual(2));
    let containers = [b.web(&one, "a"), b.web(&one, "b"), b.web(&two, "c")];
    for (container, port) in containers.iter().zip([8080, 8081, 8082]) {
        b.map(container, &both(port, 80));
    }
    containers
}

fn valid(ids: &[&str]) -> serde_json::Value {
    ids.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect()
}

fn gc(b: &TestBox, network: &str, keys: &[(&str, serde_json::Value)]) {
    let call = Call::of_network("portmap", "GC", network);
    let call = keys.iter().fold(call, |call, (key, value)| call.set(key, value.clone()));
    call.run(b).expect_success();
}

fn gc_removes_what_is_not_valid(b: &TestBox) {
    three_containers(b);
    gc(b, "net1", &[("cni.dev/valid-attachments", valid(&["b"]))]);
    b.out.is_not_served(8080);
    b.out.is_served(8081, "b");
    b.out.is_served(8082, "c");
    if b.implementation != Implementation::Ours {
        // Comments of the Go plugin's shape know no interface.
        return;
    }
    // Identity is container and interface: the same container on another interface is stale.
    let elsewhere = json!([{ "containerID": "b", "ifname": "eth7" }]);
    gc(b, "net1", &[("cni.dev/valid-attachments", elsewhere)]);
    b.out.is_not_served(8081);
    b.out.is_served(8082, "c");
}

fn gc_with_an_empty_list_removes_all_of_the_network(b: &TestBox) {
    three_containers(b);
    gc(b, "net1", &[("cni.dev/valid-attachments", json!([]))]);
    b.out.is_not_served(8080);
    b.out.is_not_served(8081);
    b.out.is_served(8082, "c");
}

/// A Go runtime's empty list.
fn gc_with_null_is_gc_with_an_empty_list(b: &TestBox) {
    three_containers(b);
    gc(b, "net1", &[("cni.dev/valid-attachments", json!(null))]);
    b.out.is_not_served(8080);
    b.out.is_not_served(8081);
    b.out.is_served(8082, "c");
}

fn gc_understands_the_earlier_spelling(b: &TestBox) {
    three_containers(b);
    gc(b, "net1", &[("cni.dev/attachments", valid(&["a"]))]);
    b.out.is_served(8080, "a");
    b.out.is_not_served(8081);
}

fn gc_of_another_network_removes_nothing(b: &TestBox) {
    three_containers(b);
    let before = b.ruleset();
    for network in ["net3", "net", "net11"] {
        gc(b, network, &[("cni.dev/valid-attachments", json!([]))]);
    }
    assert_eq!(b.ruleset(), before);
}

/// A runtime that does not say what is valid has not said that nothing is.
fn gc_without_a_list_removes_nothing(b: &TestBox) {
    three_containers(b);
    let before = b.ruleset();
    gc(b, "net1", &[]);
    assert_eq!(b.ruleset(), before);
    b.out.is_served(8080, "a");
}

fn gc_before_any_add(b: &TestBox) {
    let before = b.ruleset();
    gc(b, "net1", &[("cni.dev/valid-attachments", json!([]))]);
    assert_eq!(b.ruleset(), before);
}

fn careful() -> Network {
    Network::dual(1).with(json!({ "onConflict": "fail" }))
}

fn on_conflict_fail_refuses_and_names_the_owner(b: &TestBox) {
    let (old, new) = (b.web(&careful(), "old"), b.web(&careful(), "new"));
    b.map(&old, &both(8080, 80));
    let before = b.ruleset();
    // A free port beside the taken one: all or nothing.
    portmap("ADD", &new)
        .mappings(&[both(8090, 80), vec![udp(8080, 80)]].concat())
        .run(b)
        .expect_error_with(102, &["8080", "net1/old/eth0"]);
    assert_eq!(b.ruleset(), before);
    b.out.is_not_served(8090);
    b.out.is_served(8080, "old");
    b.unmap(&old, &both(8080, 80));
    b.map(&new, &both(8080, 80));
    b.out.is_served(8080, "new");
}

fn on_conflict_fail_lets_the_owner_add_again(b: &TestBox) {
    let web = b.web(&careful(), "web");
    b.map(&web, &both(8080, 80));
    b.map(&web, &both(8080, 80));
    b.out.is_served(8080, "web");
}

/// The conflict is in IPv6 only; both families stay as they are.
fn on_conflict_fail_leaves_what_an_earlier_add_made(b: &TestBox) {
    let (old, web) = (b.web(&careful(), "old"), b.web(&careful(), "web"));
    b.map(&old, &at(both(8080, 80), HOST_V6));
    b.map(&web, &both(8090, 80));
    let before = b.ruleset();
    let wanted = [both(8090, 80), at(both(8080, 80), HOST_V4), at(both(8080, 80), HOST_V6)];
    portmap("ADD", &web)
        .mappings(&wanted.concat())
        .run(b)
        .expect_error_with(102, &["8080", "net1/old/eth0"]);
    assert_eq!(b.ruleset(), before);
    b.out.is_served(8090, "web");
}

fn twenty_containers_at_once(b: &TestBox) {
    let network = Network::dual(1);
    let first = b.web(&network, "first");
    let ports = |i: u16| -> Vec<Mapping> { both(8100 + i, 80) };
    b.map(&first, &ports(0));
    let skeleton = b.ruleset();
    // From nothing: making the shared parts is the race worth having.
    b.nft("flush ruleset");
    let webs: Vec<Attachment> = (1..=20).map(|i| b.web(&network, &format!("c{i}"))).collect();
    let all = || webs.iter().zip(1..);
    let call = |command: &str, web: &Attachment, i: u16| {
        portmap(command, web).mappings(&ports(i)).run_until_served(b);
    };
    std::thread::scope(|scope| {
        for (web, i) in all() {
            scope.spawn(move || call("ADD", web, i));
        }
        scope.spawn(|| call("ADD", &first, 0));
    });
    for (web, i) in all() {
        b.out.is_served(8100 + i, &web.container.id);
    }
    std::thread::scope(|scope| {
        for (web, i) in all() {
            scope.spawn(move || call("DEL", web, i));
        }
    });
    assert_eq!(b.ruleset(), skeleton, "as if the twenty had never been");
    b.out.is_served(8100, "first");
}
