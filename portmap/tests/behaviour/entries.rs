//! Two portmap entries in one list: each serves under its own conditions, and neither takes away what
//! the other made.

use serde_json::{Value, json};

use cni_testbox::{
    Attachment, Call, Implementation, Network, OUT_V4, OUT_V6, TestBox, both, cases, portmap,
};

cases! {
    two_entries_with_other_conditions_both_serve;
    entries_of_a_network_with_a_long_name_both_serve, backends;
    an_entry_with_conditions_and_one_without_both_serve;
    each_entry_is_added_again_and_checked_by_itself, backends;
    entries_on_two_backends_leave_each_other_alone, ours;
    an_entry_without_mappings_removes_nothing_of_another, backends;
    a_second_add_of_an_entry_that_maps_nothing_any_more_says_so, backends;
    gc_takes_all_entries_of_who_is_gone, backends;
    each_attachment_keeps_the_conditions_of_its_add, backends;
    a_port_that_both_entries_lost_comes_back_to_both, backends;
    the_same_port_under_other_conditions_is_no_conflict, backends;
}

/// Conditions on the source in the words of the backend under test.
fn from(b: &TestBox, v4: &str, v6: &str) -> Value {
    if b.implementation == Implementation::Ours {
        json!({ "conditionsV4": ["ip", "saddr", v4], "conditionsV6": ["ip6", "saddr", v6] })
    } else {
        json!({ "conditionsV4": ["-s", v4], "conditionsV6": ["-s", v6] })
    }
}

/// The attachment as another entry of the list sees it.
fn entry(attachment: &Attachment, keys: Value) -> Attachment {
    let mut entry = attachment.clone();
    entry.network = entry.network.with(keys);
    entry
}

/// One entry for the client outside, one for the container's neighbours.
fn outside_and_neighbours(b: &TestBox, web: &Attachment) -> [Attachment; 2] {
    [entry(web, from(b, OUT_V4, OUT_V6)), entry(web, from(b, "10.88.2.0/24", "fd88:2::/64"))]
}

fn check(b: &TestBox, entry: &Attachment) {
    portmap("CHECK", entry).mappings(&both(8080, 80)).run(b).expect_silence();
}

fn two_entries_with_other_conditions_both_serve(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let [near, far] = [2, 3].map(|number| b.web(&Network::dual(number), &format!("n{number}")));
    let [outside, neighbours] = outside_and_neighbours(b, &web);
    b.map(&outside, &both(8080, 80));
    b.map(&neighbours, &both(8080, 80));
    b.out.is_served(8080, "web");
    near.container.netns.is_served(8080, "web");
    far.container.netns.is_not_served(8080);
    // A runtime deletes in the other order.
    b.unmap(&neighbours, &both(8080, 80));
    b.unmap(&outside, &both(8080, 80));
    b.out.is_not_served(8080);
    near.container.netns.is_not_served(8080);
}

/// A comment in iptables has no room for such a name.
fn entries_of_a_network_with_a_long_name_both_serve(b: &TestBox) {
    let mut web = b.web(&Network::dual(1), "web");
    web.network.name = "n".repeat(250);
    let near = b.web(&Network::dual(2), "near");
    let entries = outside_and_neighbours(b, &web);
    for entry in &entries {
        b.map(entry, &both(8080, 80));
    }
    for (number, again) in entries.iter().enumerate() {
        b.map(again, &both(8080, 80));
        b.out.is_served(8080, "web");
        near.container.netns.is_served(8080, "web");
        for entry in &entries {
            check(b, entry);
        }
        if number == 1 {
            b.unmap(again, &both(8080, 80));
            near.container.netns.is_not_served(8080);
        }
    }
}

fn an_entry_with_conditions_and_one_without_both_serve(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let gated = entry(&web, from(b, OUT_V4, OUT_V6));
    let near = b.web(&Network::dual(2), "near");
    for entries in [[&web, &gated], [&gated, &web]] {
        for entry in entries {
            b.map(entry, &both(8080, 80));
        }
        b.out.is_served(8080, "web");
        near.container.netns.is_served(8080, "web");
        for entry in entries {
            b.unmap(entry, &both(8080, 80));
        }
        b.out.is_not_served(8080);
        near.container.netns.is_not_served(8080);
    }
}

fn each_entry_is_added_again_and_checked_by_itself(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let near = b.web(&Network::dual(2), "near");
    let gone = b.web(&Network::dual(2), "gone");
    b.map(&gone, &both(8081, 80));
    b.unmap(&gone, &both(8081, 80));
    let [outside, neighbours] = outside_and_neighbours(b, &web);
    let all = [&web, &outside, &neighbours];
    for entry in all {
        b.map(entry, &both(8080, 80));
    }
    for again in all {
        b.map(again, &both(8080, 80));
        for entry in all {
            check(b, entry);
        }
    }
    let before = sorted(&b.ruleset());
    b.map(&outside, &both(8080, 80));
    assert_eq!(sorted(&b.ruleset()), before, "ADD again is ADD once");
    // Other ports replace those of the same entry alone.
    b.map(&outside, &both(8090, 80));
    b.out.is_served(8090, "web");
    near.container.netns.is_not_served(8090);
    near.container.netns.is_served(8080, "web");
    check(b, &neighbours);
    check(b, &web);
    let other_ports = portmap("CHECK", &outside).mappings(&both(8080, 80)).run(b);
    other_ports.expect_error_with(100, &["8080"]);
    // DEL that is told nothing takes all.
    portmap("DEL", &web).without("prevResult").without("runtimeConfig").run(b).expect_silence();
    assert!(!b.ruleset().contains("web"), "{}", b.ruleset());
}

/// Order among equals is nobody's business.
fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn entries_on_two_backends_leave_each_other_alone(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let near = b.web(&Network::dual(2), "near");
    let outside = entry(&web, from(b, OUT_V4, OUT_V6));
    let words =
        json!({ "conditionsV4": ["-s", "10.88.2.0/24"], "conditionsV6": ["-s", "fd88:2::/64"] });
    let neighbours = entry(&web, words);
    for entries in [[&outside, &neighbours], [&neighbours, &outside]] {
        for entry in entries {
            b.map(entry, &both(8080, 80));
        }
        b.out.is_served(8080, "web");
        near.container.netns.is_served(8080, "web");
        for entry in entries {
            check(b, entry);
        }
        b.unmap(&outside, &both(8080, 80));
        b.out.is_not_served(8080);
        near.container.netns.is_not_served(8080);
        assert!(!b.ruleset().contains("web/eth0") && !b.ruleset().contains("\"web\\"));
    }
}

fn an_entry_without_mappings_removes_nothing_of_another(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let gated = entry(&web, from(b, OUT_V4, OUT_V6));
    for (first, other) in [(&web, &gated), (&gated, &web)] {
        b.map(first, &both(8080, 80));
        let before = b.ruleset();
        // Not asked for mappings at all: the entry lacks the capability.
        for second in [&web, &gated] {
            let add = portmap("ADD", second).without("capabilities");
            let said = add.run(b);
            said.expect_result();
            assert_eq!(said.stderr, "");
            assert_eq!(b.ruleset(), before);
            add.command("CHECK").run(b).expect_silence();
        }
        // Asked, but for none, under other conditions.
        portmap("ADD", other).mappings(&[]).run(b).expect_result();
        assert_eq!(b.ruleset(), before);
        portmap("CHECK", other).mappings(&[]).run(b).expect_silence();
        b.out.is_served(8080, "web");
        check(b, first);
        b.unmap(first, &both(8080, 80));
        b.out.is_not_served(8080);
    }
}

fn a_second_add_of_an_entry_that_maps_nothing_any_more_says_so(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let gated = entry(&web, from(b, OUT_V4, OUT_V6));
    b.map(&web, &both(8080, 80));
    b.map(&gated, &both(8080, 80));
    let said = portmap("ADD", &web).mappings(&[]).run(b);
    said.expect_result();
    assert!(said.stderr.contains("8080") && said.stderr.contains("removed"), "{}", said.stderr);
    b.out.is_served(8080, "web");
    b.web(&Network::dual(2), "near").container.netns.is_not_served(8080);
    check(b, &gated);
}

fn gc_takes_all_entries_of_who_is_gone(b: &TestBox) {
    let (web, other) = (b.web(&Network::dual(1), "web"), b.web(&Network::dual(1), "other"));
    let all = |web: &Attachment| {
        let [outside, neighbours] = outside_and_neighbours(b, web);
        [web.clone(), outside, neighbours]
    };
    for (web, port) in [(&web, 8080), (&other, 8081)] {
        for entry in all(web) {
            b.map(&entry, &both(port, 80));
        }
    }
    Call::of_network("portmap", "GC", "net1").valid(&[&other]).run(b).expect_silence();
    b.out.is_not_served(8080);
    b.out.is_served(8081, "other");
    assert!(!b.ruleset().contains("web/eth0") && !b.ruleset().contains("\"web\\"));
    for entry in all(&other) {
        portmap("CHECK", &entry).mappings(&both(8081, 80)).run(b).expect_silence();
    }
}

fn each_attachment_keeps_the_conditions_of_its_add(b: &TestBox) {
    let network = Network::dual(1);
    let (first, second) = (b.web(&network, "first"), b.web(&network, "second"));
    let first = entry(&first, from(b, "192.0.2.1", "2001:db8::1"));
    let second = entry(&second, from(b, OUT_V4, OUT_V6));
    b.map(&first, &both(8080, 80));
    b.map(&second, &both(8081, 80));
    b.out.is_not_served(8080);
    b.out.is_served(8081, "second");
    check(b, &first);
    // GC takes chains that nothing is mapped behind any more.
    b.unmap(&first, &both(8080, 80));
    Call::of_network("portmap", "GC", "net1").valid(&[&second]).run(b).expect_silence();
    assert!(!b.ruleset().contains("192.0.2.1"), "{}", b.ruleset());
    b.out.is_served(8081, "second");
}

fn a_port_that_both_entries_lost_comes_back_to_both(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let near = b.web(&Network::dual(2), "near");
    let new = b.web(&Network::dual(3), "new");
    let of_web = outside_and_neighbours(b, &web);
    let of_new = outside_and_neighbours(b, &new);
    for entry in of_web.iter().chain(&of_new) {
        b.map(entry, &both(8080, 80));
    }
    b.out.is_served(8080, "new");
    near.container.netns.is_served(8080, "new");
    let lost = portmap("CHECK", &of_web[0]).mappings(&both(8080, 80)).run(b);
    lost.expect_error_with(102, &["8080", "net3/new/eth0"]);
    // ADD of one's own entry again takes its port back, and leaves the other waiting.
    b.map(&of_web[0], &both(8080, 80));
    b.out.is_served(8080, "web");
    near.container.netns.is_served(8080, "new");
    check(b, &of_web[0]);
    b.unmap(&of_new[1], &both(8080, 80));
    b.out.is_served(8080, "web");
    near.container.netns.is_served(8080, "web");
    for entry in &of_web {
        check(b, entry);
    }
    b.unmap(&of_web[1], &both(8080, 80));
    assert!(!b.ruleset().contains("web/eth0") && !b.ruleset().contains("\"web\\"));
}

fn the_same_port_under_other_conditions_is_no_conflict(b: &TestBox) {
    let near = b.web(&Network::dual(2), "near");
    let [outside, _] = outside_and_neighbours(b, &b.web(&Network::dual(1), "one"));
    let [_, neighbours] = outside_and_neighbours(b, &b.web(&Network::dual(1), "other"));
    for entry in [&outside, &neighbours] {
        b.map(entry, &both(8080, 80));
    }
    b.out.is_served(8080, "one");
    near.container.netns.is_served(8080, "other");
    for entry in [&outside, &neighbours] {
        check(b, entry);
    }
    let status = Call::of_network("portmap", "STATUS", "net1").run(b).success().stderr;
    assert!(!status.contains("wait"), "{status}");
}
