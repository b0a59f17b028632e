//! CHECK believes nothing but the kernel, STATUS says whether ADD could be served, and no call
//! starts another program.

use serde_json::json;

use cni_testbox::{
    Attachment, Call, HOST_V4, Network, PORTMAP_TABLE, TestBox, Transport, both, cases, nft,
    portmap,
};

cases! {
    check_passes_right_after_add, go_defect(
        "CHECK of 1.1.1 looks for both families' rules in either and fails; fixed in 1.3.0"
    );
    check_misses_a_deleted_element, ours;
    check_misses_a_redirected_element, ours;
    check_misses_an_element_of_another_owner, ours;
    check_misses_an_emptied_set, ours;
    check_misses_a_foreign_rule_in_front, ours;
    check_misses_a_flushed_chain, ours;
    check_misses_a_deleted_chain, ours;
    check_misses_a_deleted_table, ours;
    check_misses_route_localnet, ours;
    check_refuses_another_address, ours;
    check_before_any_add, ours;
    check_changes_nothing, ours;
    add_heals_what_check_finds, ours;
    status_is_ready, ours;
    status_without_privilege, ours;
    no_call_starts_another_program, ours;
    rootless_calls, backends;
}

/// The names of our table's chains; `hooked` for base chains only, which nothing refers to.
fn chains(hooked: bool) -> Vec<String> {
    let chosen =
        nft::chains(PORTMAP_TABLE).into_iter().filter(|chain| !hooked || chain.hook.is_some());
    let names: Vec<String> = chosen.map(|chain| chain.name.into_owned()).collect();
    for expected in ["prerouting", "output", "guard"] {
        assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
    }
    names
}

fn check(web: &Attachment) -> Call {
    portmap("CHECK", web).mappings(&both(8080, 80))
}

/// A container with a mapping that CHECK is content with.
fn checked(b: &TestBox) -> Attachment {
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    check(&web).run(b).expect_silence();
    web
}

/// CHECK fails and names every one of `words`.
#[track_caller]
fn misses(b: &TestBox, web: &Attachment, words: &[&str]) {
    let (_, text) = check(web).run(b).expect_error();
    for word in words.iter().chain(&["cni-chain restore"]) {
        assert!(text.contains(word), "{word:?} is not in the error {text:?}");
    }
}

fn check_passes_right_after_add(b: &TestBox) {
    for network in [Network::dual(1), Network::v4(2), Network::v6(3)] {
        let web = b.web(&network, &format!("on-{}", network.name));
        b.map(&web, &both(8080, 80));
        check(&web).run(b).expect_silence();
        b.unmap(&web, &both(8080, 80));
    }
}

fn check_misses_a_deleted_element(b: &TestBox) {
    let web = checked(b);
    let elements = b.portmap_elements();
    assert_eq!(elements.len(), 4, "two protocols, two families: {elements:?}");
    for element in elements {
        let key = element.key_words();
        b.nft(&format!("delete element inet {PORTMAP_TABLE} {} {{ {key} }}", element.map));
        misses(b, &web, &["8080"]);
        b.map(&web, &both(8080, 80));
        check(&web).run(b).expect_silence();
    }
}

/// Replaces an element's data and comment.
fn replace_element(b: &TestBox, index: usize, last_part: &str, owner: &str) {
    let element = b.portmap_elements().swap_remove(index);
    let (map, key) = (&element.map, element.key_words());
    let address = &element.data[0];
    let cut = address.rfind(['.', ':']).expect("an address has parts") + 1;
    let data = format!("{}{last_part} . 80", &address[..cut]);
    b.nft(&format!(
        "delete element inet {PORTMAP_TABLE} {map} {{ {key} }}
         add element inet {PORTMAP_TABLE} {map} {{ {key} comment \"{owner}\" : {data} }}"
    ));
}

fn check_misses_a_redirected_element(b: &TestBox) {
    let web = checked(b);
    for index in 0..4 {
        replace_element(b, index, "99", "net1/web/eth0");
        misses(b, &web, &["8080"]);
        b.map(&web, &both(8080, 80));
        check(&web).run(b).expect_silence();
    }
}

fn check_misses_an_element_of_another_owner(b: &TestBox) {
    let web = checked(b);
    let other = b.web(&web.network, "other");
    b.map(&other, &both(8080, 80));
    // Restoring it would refuse: the port is the newer one's.
    check(&web).run(b).expect_error_with(102, &["8080", "net1/other/eth0", "serves again"]);
    check(&other).run(b).expect_silence();
}

/// The masquerade sets as much as the maps.
fn check_misses_an_emptied_set(b: &TestBox) {
    let web = checked(b);
    let mut emptied = 0;
    for set in nft::filled_sets(PORTMAP_TABLE) {
        let (kind, name) = set.split_once(' ').expect("a kind and a name");
        b.nft(&format!("flush {kind} inet {PORTMAP_TABLE} {name}"));
        misses(b, &web, &[]);
        repair(b, &web);
        emptied += 1;
    }
    assert!(emptied > 2, "two maps with ports and at least one set that masquerades: {emptied}");
}

/// An accept in front of our rules keeps them from ever being reached.
fn check_misses_a_foreign_rule_in_front(b: &TestBox) {
    let web = checked(b);
    for chain in ["prerouting", "output"] {
        b.nft(&format!("insert rule inet {PORTMAP_TABLE} {chain} tcp dport 8080 accept"));
        misses(b, &web, &[chain]);
        repair(b, &web);
    }
}

fn check_misses_a_flushed_chain(b: &TestBox) {
    let web = checked(b);
    for chain in chains(false) {
        b.nft(&format!("flush chain inet {PORTMAP_TABLE} {chain}"));
        misses(b, &web, &[&chain]);
        repair(b, &web);
    }
}

fn check_misses_a_deleted_chain(b: &TestBox) {
    let web = checked(b);
    for chain in chains(true) {
        b.nft(&format!(
            "flush chain inet {PORTMAP_TABLE} {chain}
             delete chain inet {PORTMAP_TABLE} {chain}"
        ));
        misses(b, &web, &[&chain]);
        repair(b, &web);
    }
}

/// Back to what CHECK is content with, whatever was broken.
fn repair(b: &TestBox, web: &Attachment) {
    b.nft(&format!("delete table inet {PORTMAP_TABLE}"));
    b.map(web, &both(8080, 80));
    check(web).run(b).expect_silence();
}

fn check_misses_a_deleted_table(b: &TestBox) {
    let web = checked(b);
    b.nft(&format!("delete table inet {PORTMAP_TABLE}"));
    misses(b, &web, &[PORTMAP_TABLE]);
}

fn check_misses_route_localnet(b: &TestBox) {
    let web = checked(b);
    let bridge = web.network.bridge();
    b.host.write_sysctl(&format!("ipv4/conf/{bridge}/route_localnet"), "0");
    misses(b, &web, &["route_localnet", &bridge]);
}

fn check_refuses_another_address(b: &TestBox) {
    let mut web = checked(b);
    let other = b.web(&web.network, "other");
    web.result = other.result.clone();
    misses(b, &web, &["8080"]);
}

fn check_before_any_add(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let before = b.ruleset();
    check(&web).run(b).expect_error();
    assert_eq!(b.ruleset(), before);
}

fn check_changes_nothing(b: &TestBox) {
    let web = checked(b);
    let before = b.ruleset();
    check(&web).run(b).expect_silence();
    assert_eq!(b.ruleset(), before);
    b.nft(&format!("flush chain inet {PORTMAP_TABLE} prerouting"));
    let broken = b.ruleset();
    check(&web).run(b).expect_error();
    assert_eq!(b.ruleset(), broken);
}

/// What a runtime does about a failed CHECK is ADD again.
fn add_heals_what_check_finds(b: &TestBox) {
    let web = checked(b);
    let whole = b.ruleset();
    for chain in chains(false) {
        b.nft(&format!("flush chain inet {PORTMAP_TABLE} {chain}"));
        b.map(&web, &both(8080, 80));
        check(&web).run(b).expect_silence();
        assert_eq!(b.ruleset(), whole, "after {chain} was flushed");
    }
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
}

fn status_is_ready(b: &TestBox) {
    let before = b.ruleset();
    Call::of_network("portmap", "STATUS", "net1").run(b).expect_silence();
    assert_eq!(b.ruleset(), before, "STATUS changes nothing");
    checked(b);
    Call::of_network("portmap", "STATUS", "net1").run(b).expect_silence();
}

fn status_without_privilege(b: &TestBox) {
    let (code, text) =
        Call::of_network("portmap", "STATUS", "net1").without_net_admin().run(b).expect_error();
    assert!(matches!(code, 50 | 51), "{code}: {text}");
    assert!(text.contains("CAP_NET_ADMIN"), "the remedy is missing: {text}");
}

fn no_call_starts_another_program(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let attachment = |command: &str| portmap(command, &web).mappings(&both(8080, 80));
    let gc = Call::of_network("portmap", "GC", "net1").set("cni.dev/valid-attachments", json!([]));
    let calls = [
        ("ADD", attachment("ADD")),
        ("CHECK", attachment("CHECK")),
        ("DEL", attachment("DEL")),
        ("GC", gc),
        ("STATUS", Call::of_network("portmap", "STATUS", "net1")),
    ];
    for (command, call) in calls {
        let trace = format!("/run/{command}.trace");
        let outcome = call
            .under(&["strace", "-f", "-qq", "-e", "trace=execve,execveat", "-o", &trace])
            .run(b);
        outcome.expect_success();
        let trace = std::fs::read_to_string(&trace).expect("strace wrote it");
        let programs = trace.lines().filter(|line| line.contains("execve")).count();
        assert_eq!(programs, 1, "{command}: {trace}");
    }
}

/// In a network namespace that was made together with its user namespace, where only the machine's root
/// may read which legacy tables there are.
fn rootless_calls(b: &TestBox) {
    let web = b.web(&Network::v4(1), "web");
    let script = "! cat /proc/net/ip_tables_names
        ip link set lo up
        ip link add br1 type bridge
        ip addr add 10.88.1.1/24 dev br1
        ip link set br1 up
        cat > /run/stdin
        for command in ADD CHECK ADD CHECK DEL ADD; do
            CNI_COMMAND=$command PLUGIN < /run/stdin > /run/stdout || {
                cat /run/stdout; exit 1
            }
        done
        cat /run/stdout";
    let mut call = portmap("ADD", &web).mappings(&both(8080, 80));
    if let Some(backend) = b.implementation.backend() {
        call = call.set("backend", backend);
    }
    call.rootless(script).run(b).expect_result();
}
