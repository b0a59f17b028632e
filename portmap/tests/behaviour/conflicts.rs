//! More than one attachment wants a port, or has had an address: the newest is served, whoever lost
//! comes back, and nothing leads to somebody who did not ask for it.

use serde_json::json;

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST_V6, HOST2_V4, HOST2_V6, Implementation, Mapping, Network,
    TestBox, Transport, at, both, cases, portmap,
};

cases! {
    a_port_comes_back_when_its_newest_owner_is_deleted, backends;
    a_port_comes_back_when_its_newest_owner_is_garbage, backends;
    a_port_comes_back_after_an_add_that_the_runtime_takes_back, backends;
    the_second_network_serves_when_the_first_is_disconnected, backends;
    the_second_network_serves_the_family_that_the_first_has_not, backends;
    check_of_a_loser_names_the_winner, backends;
    check_names_who_has_the_port_of_what_is_missing, backends;
    who_waits_takes_no_port_and_serves_last, backends;
    who_waits_keeps_the_ports_that_it_has, backends;
    status_says_which_ports_wait, backends;
    an_address_whose_del_was_lost_is_its_next_owners, backends;
    a_network_renamed_before_del_leaves_nothing, backends;
    on_conflict_fail_sees_overlaps, backends;
    on_conflict_fail_sees_the_other_backend, ours;
}

fn a_port_comes_back_when_its_newest_owner_is_deleted(b: &TestBox) {
    let network = Network::dual(1);
    let [first, second, third] = ["first", "second", "third"].map(|id| b.web(&network, id));
    for web in [&first, &second, &third] {
        b.map(web, &both(8080, 80));
        b.out.is_served(8080, &web.container.id);
    }
    b.unmap(&third, &both(8080, 80));
    b.out.is_served(8080, "second");
    // Without any knowledge of what it had.
    portmap("DEL", &second).without("prevResult").without("runtimeConfig").run(b).expect_silence();
    b.out.is_served(8080, "first");
    portmap("CHECK", &first).mappings(&both(8080, 80)).run(b).expect_silence();
    b.unmap(&first, &both(8080, 80));
    b.out.is_not_served(8080);
}

fn a_port_comes_back_when_its_newest_owner_is_garbage(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    b.map(&old, &both(8080, 80));
    b.map(&new, &both(8080, 80));
    let valid = json!([{ "containerID": "old", "ifname": "eth0" }]);
    let gc = Call::of_network("portmap", "GC", "net1").set("cni.dev/valid-attachments", valid);
    gc.run(b).expect_silence();
    b.out.is_served(8080, "old");
}

/// `podman run -p` of a port that is in use: ADD, the bind fails, DEL.
fn a_port_comes_back_after_an_add_that_the_runtime_takes_back(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    b.map(&old, &at(both(8080, 80), HOST_V4));
    b.map(&old, &[at(both(8080, 80), HOST_V4), at(both(8080, 80), HOST_V6)].concat());
    b.out.is_served(8080, "old");
    let taken = [at(both(8080, 80), HOST_V4), at(both(8080, 80), HOST_V6)].concat();
    b.map(&new, &taken);
    b.out.is_served(8080, "new");
    b.unmap(&new, &taken);
    new.leave();
    b.out.is_served(8080, "old");
}

fn the_second_network_serves_when_the_first_is_disconnected(b: &TestBox) {
    let (first, second) = b.web_on(&Network::dual(1), &Network::dual(2));
    b.map(&first, &both(8080, 80));
    b.map(&second, &both(8080, 80));
    b.out.is_served(8080, "web");
    b.unmap(&first, &both(8080, 80));
    // From the neighbourhood of the second, where the way back is no question of default routes.
    let neighbour = b.web(&Network::dual(2), "neighbour");
    for transport in Transport::ALL {
        for host in [HOST_V4, HOST_V6] {
            neighbour.container.netns.reach(transport, host, 8080).by("web");
        }
    }
    portmap("CHECK", &second).mappings(&both(8080, 80)).run(b).expect_silence();
    b.unmap(&second, &both(8080, 80));
    b.out.is_not_served(8080);
}

fn the_second_network_serves_the_family_that_the_first_has_not(b: &TestBox) {
    let (first, second) = b.web_on(&Network::v4(1), &Network::dual(2));
    b.map(&first, &both(8080, 80));
    b.map(&second, &both(8080, 80));
    let neighbour = b.web(&Network::dual(2), "neighbour");
    for transport in Transport::ALL {
        neighbour.container.netns.reach(transport, HOST_V6, 8080).by("web");
        b.out.reach(transport, HOST_V4, 8080).by("web");
    }
}

fn check_of_a_loser_names_the_winner(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    let wanted = [both(8080, 80), both(8090, 80)].concat();
    b.map(&old, &wanted);
    b.map(&new, &both(8080, 80));
    let check = |mappings: &[Mapping]| portmap("CHECK", &old).mappings(mappings).run(b);
    let outcome = check(&wanted);
    outcome.expect_error_with(102, &["8080", "net1/new/eth0"]);
    assert!(!outcome.stdout.contains("restore"), "{outcome}");
    // What is left to it is as it was.
    if b.implementation == Implementation::Ours {
        check(&both(8090, 80)).expect_silence();
    }
    b.unmap(&new, &both(8080, 80));
    check(&wanted).expect_silence();
}

/// Somebody deleted what the loser had, wholly or in part.
fn check_names_who_has_the_port_of_what_is_missing(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    b.map(&new, &both(8080, 80));
    let check = || portmap("CHECK", &old).mappings(&[both(8080, 80), both(8090, 80)].concat());
    for told in [&both(8070, 80)[..], &both(8090, 80)] {
        b.map(&old, told);
        let outcome = check().run(b);
        outcome.expect_error_with(100, &["*:8080/tcp", "held by attachment net1/new/eth0"]);
        b.unmap(&old, told);
    }
    check().run(b).expect_error_with(100, &["*:8080/tcp", "held by attachment net1/new/eth0"]);
}

fn patient() -> Network {
    Network::dual(1).with(json!({ "onConflict": "wait" }))
}

fn who_waits_takes_no_port_and_serves_last(b: &TestBox) {
    let [first, second] = ["first", "second"].map(|id| b.web(&Network::dual(1), id));
    let [third, last] = ["third", "last"].map(|id| b.web(&patient(), id));
    b.map(&first, &both(8080, 80));
    b.map(&second, &both(8080, 80));
    let wanted = [both(8080, 80), both(8090, 80)].concat();
    for (web, wanted) in [(&third, &wanted[..]), (&last, &both(8080, 80))] {
        let add = portmap("ADD", web).mappings(wanted).run(b);
        add.expect_result();
        let said = &add.stderr;
        assert!(said.contains("*:8080/tcp") && said.contains("net1/second/eth0"), "{said}");
        portmap("CHECK", web).mappings(wanted).run(b).expect_error_with(102, &["8080"]);
    }
    b.out.is_served(8080, "second");
    b.out.is_served(8090, "third");
    // Again is at the end again.
    b.map(&third, &wanted);
    b.out.is_served(8090, "third");
    for (gone, heir) in [(&second, "first"), (&first, "last"), (&last, "third")] {
        b.unmap(gone, &wanted);
        b.out.is_served(8080, heir);
    }
    b.out.is_served(8090, "third");
    portmap("CHECK", &third).mappings(&wanted).run(b).expect_silence();
    b.unmap(&third, &wanted);
    b.out.is_not_served(8080);
}

/// Behind whoever has one port, and still before who waits for another.
fn who_waits_keeps_the_ports_that_it_has(b: &TestBox) {
    let [behind, other] = ["behind", "other"].map(|id| b.web(&Network::dual(1), id));
    let own = b.web(&patient(), "own");
    b.map(&own, &both(8080, 80));
    for web in [&behind, &other] {
        let add = portmap("ADD", web).mappings(&both(8080, 80)).set("onConflict", "wait");
        add.run(b).expect_result();
    }
    b.map(&other, &both(8090, 80));
    b.map(&own, &[both(8080, 80), both(8090, 80)].concat());
    b.out.is_served(8080, "own");
    b.out.is_served(8090, "other");
    b.unmap(&own, &[]);
    b.out.is_served(8080, "behind");
}

/// In one line, however many, and not of a container's own other network.
fn status_says_which_ports_wait(b: &TestBox) {
    let status = || Call::of_network("portmap", "STATUS", "net1").run(b).success().stderr;
    let waits = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains("wait"));
        lines.map(str::to_owned).collect()
    };
    let (first, second) = b.web_on(&Network::dual(1), &Network::dual(2));
    b.map(&first, &both(8070, 80));
    b.map(&second, &both(8070, 80));
    assert_eq!(waits(&status()), [""; 0]);
    let (old, new) = (b.web(&Network::dual(1), "old"), b.web(&Network::dual(1), "new"));
    let ports: Vec<Mapping> = (8080..8090).flat_map(|port| both(port, 80)).collect();
    b.map(&old, &ports);
    b.map(&new, &both(8080, 80));
    let said = waits(&status());
    assert_eq!(said.len(), 1, "{said:?}");
    for words in ["*:8080/tcp", "net1/old/eth0", "net1/new/eth0"] {
        assert!(said[0].contains(words), "{said:?}");
    }
    b.map(&new, &ports);
    let said = waits(&status());
    assert!(said.len() == 1 && said[0].contains(" more") && said[0].len() < 1000, "{said:?}");
    b.unmap(&new, &ports);
    assert_eq!(waits(&status()), [""; 0]);
}

fn an_address_whose_del_was_lost_is_its_next_owners(b: &TestBox) {
    let network = Network::dual(1).single_address();
    let old = b.web(&network, "old");
    b.map(&old, &[both(8080, 80), both(8090, 80)].concat());
    b.out.is_served(8080, "old");
    old.leave();
    let new = b.web(&network, "new");
    assert_eq!((old.v4(), old.v6()), (new.v4(), new.v6()), "host-local gives the only address");
    b.forget_neighbours();
    b.map(&new, &both(8081, 80));
    b.out.is_served(8081, "new");
    b.out.is_not_served(8080);
    b.out.is_not_served(8090);
    portmap("CHECK", &new).mappings(&both(8081, 80)).run(b).expect_silence();
    b.unmap(&old, &both(8080, 80));
    b.out.is_served(8081, "new");
}

fn a_network_renamed_before_del_leaves_nothing(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    b.map(&other, &both(8081, 80));
    let before = b.ruleset();
    b.map(&web, &both(8080, 80));
    b.out.is_served(8080, "web");
    let mut renamed = web.clone();
    renamed.network = network.named("renamed");
    portmap("CHECK", &renamed).mappings(&both(8080, 80)).run(b).expect_silence();
    b.unmap(&renamed, &both(8080, 80));
    assert_eq!(b.ruleset(), before);
    b.out.is_not_served(8080);
    b.out.is_served(8081, "other");
    // Without any knowledge of what it had, and whatever GC is told of either name.
    b.map(&web, &both(8080, 80));
    let with = b.ruleset();
    for (name, valid) in [("renamed", &[][..]), ("net1", &[&web, &other][..])] {
        Call::of_network("portmap", "GC", name).valid(valid).run(b).expect_silence();
        assert_eq!(b.ruleset(), with, "GC of {name}");
    }
    let del = portmap("DEL", &renamed).without("prevResult").without("runtimeConfig");
    del.env("CNI_NETNS", "").run(b).expect_silence();
    assert_eq!(b.ruleset(), before);
    b.out.is_served(8081, "other");
    // Added under one name and again under another, it is mapped once.
    b.map(&web, &both(8080, 80));
    b.map(&renamed, &both(8082, 80));
    b.out.is_not_served(8080);
    b.out.is_served(8082, "web");
    Call::of_network("portmap", "GC", "net1").valid(&[&other]).run(b).expect_silence();
    b.out.is_served(8082, "web");
    b.unmap(&web, &both(8082, 80));
    assert_eq!(b.ruleset(), before);
}

fn careful() -> Network {
    Network::dual(1).with(json!({ "onConflict": "fail" }))
}

fn on_conflict_fail_sees_overlaps(b: &TestBox) {
    let [anywhere, somewhere, new] =
        ["anywhere", "somewhere", "new"].map(|id| b.web(&careful(), id));
    b.map(&anywhere, &both(8080, 80));
    b.map(&somewhere, &[at(both(9090, 80), HOST_V4), at(both(9090, 80), HOST_V6)].concat());
    let before = b.ruleset();
    for (wanted, owner) in [
        (at(both(8080, 80), HOST_V4), "net1/anywhere/eth0"),
        (at(both(8080, 80), HOST_V6), "net1/anywhere/eth0"),
        (both(9090, 80), "net1/somewhere/eth0"),
    ] {
        let add = portmap("ADD", &new).mappings(&wanted).run(b);
        add.expect_error_with(102, &[owner]);
        assert_eq!(b.ruleset(), before);
    }
    let free = [at(both(9090, 80), HOST2_V4), at(both(9090, 80), HOST2_V6)].concat();
    b.map(&new, &free);
    for transport in Transport::ALL {
        b.out.reach(transport, HOST2_V4, 9090).by("new");
        b.out.reach(transport, HOST_V4, 9090).by("somewhere");
    }
}

fn on_conflict_fail_sees_the_other_backend(b: &TestBox) {
    let (old, new) = (b.web(&careful(), "old"), b.web(&careful(), "new"));
    let call = |command: &str, web: &Attachment, backend: &str| {
        let call = portmap(command, web).mappings(&both(8080, 80));
        call.set("backend", json!(backend)).run(b)
    };
    for (first, second) in [("iptables", "nftables"), ("nftables", "iptables")] {
        call("ADD", &old, first).expect_result();
        let before = b.ruleset();
        call("ADD", &new, second).expect_error_with(102, &["8080", "net1/old/eth0"]);
        assert_eq!(b.ruleset(), before);
        b.out.is_served(8080, "old");
        // One's own is no conflict.
        call("ADD", &old, second).expect_result();
        call("DEL", &old, second).expect_silence();
        b.out.is_not_served(8080);
    }
}
