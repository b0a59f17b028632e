//! A call that fails leaves everything as it was.

use serde_json::{Value, json};

use cni_testbox::{
    Attachment, Call, HOST_V4, Network, TestBox, Transport, both, cases, fail_each, portmap, run,
    sh, stubs, tool,
};

cases! {
    a_bad_second_mapping_leaves_nothing, go_defect(
        "rules are made one by one and never rolled back"
    );
    a_bad_second_mapping_leaves_the_earlier_add, go_defect(
        "rules are made one by one and never rolled back"
    );
    without_privilege_nothing_changes;
    the_namespace_of_the_host_is_refused, go_defect(
        "1.1.1 compares no namespaces; later versions do, after the work is done and the result printed"
    );
    a_sysctl_that_cannot_be_written_leaves_nothing, go_defect(
        "rules are made one by one and never rolled back"
    );
    a_sysctl_that_is_right_already_need_not_be_written, go_defect(
        "route_localnet is written even where it already is 1"
    );
    a_lost_answer_is_asked_for_again, ours;
    what_cannot_be_looked_at_is_no_mismatch, ours;
    a_failed_family_changes_nothing_in_the_other, iptables_only;
    a_program_that_cannot_be_started_changes_nothing, iptables_only;
    what_cannot_be_opened_is_not_empty, iptables_only;
}

/// A good mapping, then one whose port does not exist.
fn bad_second(good: u16) -> Value {
    json!({ "portMappings": [
        { "hostPort": good, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 65536, "containerPort": 80, "protocol": "tcp" },
    ] })
}

fn a_bad_second_mapping_leaves_nothing(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let before = b.ruleset();
    portmap("ADD", &web).set("runtimeConfig", bad_second(8080)).run(b).expect_error();
    assert_eq!(b.ruleset(), before);
}

fn a_bad_second_mapping_leaves_the_earlier_add(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    let before = b.ruleset();
    portmap("ADD", &web).set("runtimeConfig", bad_second(8081)).run(b).expect_error();
    assert_eq!(b.ruleset(), before);
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
}

fn without_privilege_nothing_changes(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    let untouched = b.ruleset();
    let add = |web: &Attachment| portmap("ADD", web).mappings(&both(8080, 80));
    add(&web).without_net_admin().run(b).expect_error();
    assert_eq!(b.ruleset(), untouched);
    b.map(&other, &both(8081, 80));
    let mapped = b.ruleset();
    add(&web).without_net_admin().run(b).expect_error();
    portmap("DEL", &other).mappings(&both(8081, 80)).without_net_admin().run(b).expect_error();
    assert_eq!(b.ruleset(), mapped);
    b.out.reach(Transport::Tcp, HOST_V4, 8081).by("other");
}

fn the_namespace_of_the_host_is_refused(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let before = b.ruleset();
    portmap("ADD", &web)
        .mappings(&both(8080, 80))
        .env("CNI_NETNS", "/proc/self/ns/net")
        .run(b)
        .expect_error_with(8, &[]);
    assert_eq!(b.ruleset(), before);
}

fn make_proc_sys_read_only() {
    run(tool("mount").args(["--bind", "/proc/sys", "/proc/sys"]));
    run(tool("mount").args(["-o", "remount,bind,ro", "/proc/sys"]));
}

fn a_sysctl_that_cannot_be_written_leaves_nothing(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    make_proc_sys_read_only();
    let before = b.ruleset();
    let (_, text) = portmap("ADD", &web).mappings(&both(8080, 80)).run(b).expect_error();
    assert!(text.contains("route_localnet"), "{text}");
    assert_eq!(b.ruleset(), before);
}

fn a_sysctl_that_is_right_already_need_not_be_written(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let bridge = web.network.bridge();
    b.host.write_sysctl(&format!("ipv4/conf/{bridge}/route_localnet"), "1");
    make_proc_sys_read_only();
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        b.host.reach(transport, "127.0.0.1", 8080).by("web");
    }
}

/// The kernel has committed when its answer is lost. Success is true, and a failure has changed nothing.
fn a_lost_answer_is_asked_for_again(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let call = |command, port| portmap(command, &web).mappings(&both(port, 80));
    let prepare = |call: &Call| call.run(b).success();
    prepare(&call("ADD", 8080));
    let mapped = b.nft_list_all();
    prepare(&call("DEL", 8080));
    let bare = b.nft_list_all();
    for failure in ["error=ENOBUFS", "error=EAGAIN"] {
        fail_each(b, &call("ADD", 8080), "recvfrom", failure, |nth, outcome| {
            let expected = if outcome.succeeded() { &mapped } else { &bare };
            assert_eq!(&b.nft_list_all(), expected, "ADD {failure} {nth}: {outcome}");
            prepare(&call("DEL", 8080));
        });
        prepare(&call("ADD", 8080));
        fail_each(b, &call("ADD", 8081), "recvfrom", failure, |nth, outcome| {
            if outcome.succeeded() {
                prepare(&call("ADD", 8080));
            }
            assert_eq!(b.nft_list_all(), mapped, "ADD again {failure} {nth}: {outcome}");
        });
        prepare(&call("ADD", 8080));
        fail_each(b, &call("DEL", 8080), "recvfrom", failure, |nth, outcome| {
            let expected = if outcome.succeeded() { &bare } else { &mapped };
            assert_eq!(&b.nft_list_all(), expected, "DEL {failure} {nth}: {outcome}");
            prepare(&call("ADD", 8080));
        });
        prepare(&call("DEL", 8080));
    }
}

fn what_cannot_be_looked_at_is_no_mismatch(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    let check = portmap("CHECK", &web).mappings(&both(8080, 80));
    for (system_calls, failure) in [
        ("recvfrom", "error=EAGAIN"),
        ("sendto", "error=ENOBUFS"),
        ("socket", "error=EMFILE"),
        ("ioctl", "error=ENOMEM"),
        ("?open,openat", "error=EMFILE"),
    ] {
        fail_each(b, &check, system_calls, failure, |nth, outcome| {
            let is_true = outcome.succeeded() || outcome.expect_error().0 != 100;
            assert!(is_true, "{system_calls} {nth}: {outcome}");
        });
    }
}

/// The rules, without empty chains: iptables-nft makes those that the kernel's hooks have, and leaves
/// them. The guard is no attachment's.
fn rules(b: &TestBox) -> Vec<String> {
    let ruleset = b.ruleset();
    let rules = ruleset.lines().filter(|line| line.starts_with("-A") && !line.contains("GUARD"));
    rules.map(str::to_owned).collect()
}

fn a_failed_family_changes_nothing_in_the_other(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    let path = stubs(&["ip6tables-restore"], "cat; exit 2");
    let failing = |port| portmap("ADD", &web).mappings(&both(port, 80)).env("PATH", &path);
    let bare = rules(b);
    failing(8080).run(b).expect_error();
    assert_eq!(rules(b), bare, "a first ADD");
    b.map(&web, &both(8080, 80));
    b.map(&other, &both(8081, 80));
    let mapped = rules(b);
    for port in [8080, 8081, 8082] {
        failing(port).run(b).expect_error();
        assert_eq!(rules(b), mapped, "ADD again with {port}");
    }
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.out.reach(Transport::Tcp, HOST_V4, 8081).by("other");
}

fn a_program_that_cannot_be_started_changes_nothing(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    // So that there is another kind to be asked.
    sh("iptables-legacy -t nat -S; ip6tables-legacy -t nat -S");
    let call = |command, port| portmap(command, &web).mappings(&both(port, 80));
    call("ADD", 8080).run(b).success();
    call("DEL", 8080).run(b).success();
    for is_mapped in [false, true] {
        let before = rules(b);
        fail_each(b, &call("ADD", 8080), "clone,clone3,vfork", "error=EAGAIN", |nth, outcome| {
            if !outcome.succeeded() {
                outcome.expect_error_with(11, &["try again"]);
            } else if !is_mapped {
                call("CHECK", 8080).run(b).success();
                call("DEL", 8080).run(b).success();
            }
            assert_eq!(rules(b), before, "is mapped: {is_mapped}, {nth}: {outcome}");
        });
        call("ADD", 8080).run(b).success();
    }
}

/// Of what there is to remove, some is found by files: the kernel's list of legacy tables, for one.
fn what_cannot_be_opened_is_not_empty(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let calls = [
        portmap("DEL", &web).mappings(&both(8080, 80)),
        Call::of_network("portmap", "GC", "net1").valid(&[]),
    ];
    for call in &calls {
        b.map(&web, &both(8080, 80));
        for failure in ["error=EMFILE", "error=EACCES"] {
            fail_each(b, call, "?open,openat", failure, |nth, outcome| {
                let left = b.ruleset();
                if outcome.succeeded() {
                    assert!(!left.contains("CNI-DN-"), "{failure} {nth}: {left}");
                    b.map(&web, &both(8080, 80));
                }
            });
            b.map(&web, &both(8080, 80));
        }
    }
}
