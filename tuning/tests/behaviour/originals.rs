//! What is kept for DEL, whose it is, and when it goes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use cni_testbox::{Namespace, TestBox, cases, sh};

use crate::support::{DATA_DIR, container, files, link, of, sysctl, tuning};

const MTU: &str = r#""mtu":1400"#;

const TUNED: &str = r#""mtu":1400,"mac":"c2:11:22:33:44:55","sysctl":{"net.core.somaxconn":"601"}"#;

/// Linux before 5.14, as far as the plugin can see.
const WITHOUT_COOKIES: [&str; 6] =
    ["strace", "-f", "-o", "/run/trace", "-e", "inject=getsockopt:error=ENOPROTOOPT"];

fn inode(id: &str) -> u64 {
    fs::metadata(format!("/run/netns/{id}")).expect("namespace").ino()
}

/// A container whose DEL comes when another namespace has its inode and its path. The kernel gives
/// the lowest number that is free, so which one comes again is a matter of what else runs: what is
/// kept is made to name the new namespace's.
fn late_del(b: &TestBox, wrapper: &[&str]) {
    container("old", "eth0");
    of("old", "eth0", "ADD", TUNED).under(wrapper).run(b).success();
    let old_inode = inode("old");
    sh("ip netns del old; ip netns add new");
    sh("ip link add hnew type veth peer name eth0 mtu 1234 address 02:00:00:00:00:07 netns new");
    Namespace::named("new").write_sysctl("core/somaxconn", "777");
    let state = || (link("new", "eth0"), sysctl("new", "core/somaxconn"));
    let before = state();

    let kept = format!("{DATA_DIR}/old@eth0.state");
    let text = fs::read_to_string(&kept).expect("what is kept");
    let number = |inode| format!(r#""inode":{inode}"#);
    assert!(text.contains(&number(old_inode)), "{text}");
    fs::write(&kept, text.replace(&number(old_inode), &number(inode("new")))).expect("forge");

    let late = of("old", "eth0", "DEL", TUNED).env("CNI_NETNS", "/run/netns/new");
    late.under(wrapper).run(b).success();
    assert_eq!(state(), before);
    assert_eq!(files(DATA_DIR), [""; 0]);
}

cases! {
    a_second_add_keeps_the_first_originals_and_adds_new_ones, ours;
    two_entries_of_one_chain_share_them, ours;
    a_failed_second_add_changes_nothing, ours;
    nothing_is_written_before_every_key_is_known_to_exist, ours;
    all_sysctls_come_back_though_one_resets_another, ours;
    an_empty_original_comes_back, ours;
    a_long_original_comes_back_whole, ours;
    what_can_only_be_written_is_written, ours;
    interfaces_do_not_share_them, ours;
    a_renamed_network_gives_them_back, ours;
    a_path_that_leads_elsewhere_by_now_is_left_alone, ours;
    a_late_del_leaves_the_next_container_alone, ours;
    a_late_del_leaves_the_next_container_alone_before_linux_5_14, ours;
    before_linux_5_14_they_are_given_back_as_well, ours;
    those_of_before_a_boot_are_left_alone, ours;
    the_host_can_be_meant, ours;
    a_path_that_means_the_host_by_now_changes_nothing_there, ours;
    a_new_interface_of_the_old_name_has_new_originals, ours;
    del_is_content_with_anything, ours;
    what_cannot_be_restored_is_said, ours;
    garbage_of_one_network_goes, ours;
}

fn a_second_add_keeps_the_first_originals_and_adds_new_ones(b: &TestBox) {
    container("c1", "eth0");
    let before = link("c1", "eth0");
    tuning("ADD", MTU).run(b).success();
    tuning("ADD", r#""mtu":1300,"promisc":true,"sysctl":{"net.core.somaxconn":"601"}"#)
        .run(b)
        .success();
    let somaxconn = sysctl("c1", "core/somaxconn");
    assert_eq!(somaxconn, "601");
    // Whatever the configuration says by now, what was changed is given back.
    tuning("DEL", "").run(b).success();
    assert_eq!(link("c1", "eth0"), before);
    assert_ne!(sysctl("c1", "core/somaxconn"), somaxconn);
}

fn two_entries_of_one_chain_share_them(b: &TestBox) {
    container("c1", "eth0");
    let before = link("c1", "eth0");
    tuning("ADD", MTU).run(b).success();
    tuning("ADD", r#""mtu":1300,"allmulti":true"#).run(b).success();
    tuning("DEL", r#""mtu":1300,"allmulti":true"#).run(b).success();
    tuning("DEL", MTU).run(b).success();
    assert_eq!(link("c1", "eth0"), before);
}

fn a_failed_second_add_changes_nothing(b: &TestBox) {
    container("c1", "eth0");
    let before = link("c1", "eth0");
    tuning("ADD", MTU).run(b).success();
    let tuned = link("c1", "eth0");
    let kept = fs::read(format!("{DATA_DIR}/c1@eth0.state")).expect("state");
    let bad = r#""promisc":true,"sysctl":{"net.core.somaxconn":"601","net.ipv4.ip_forward":"x"}"#;
    let somaxconn = sysctl("c1", "core/somaxconn");
    tuning("ADD", bad).run(b).expect_error_with(101, &["net/ipv4/ip_forward", "Invalid argument"]);
    assert_eq!((link("c1", "eth0"), sysctl("c1", "core/somaxconn")), (tuned, somaxconn));
    assert_eq!(fs::read(format!("{DATA_DIR}/c1@eth0.state")).expect("state"), kept);
    tuning("DEL", MTU).run(b).success();
    assert_eq!(link("c1", "eth0"), before);
}

fn nothing_is_written_before_every_key_is_known_to_exist(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.core.somaxconn":"601","net.core.no_such_thing":"1"}"#;
    let before = sysctl("c1", "core/somaxconn");
    let trace = ["strace", "-f", "-o", "/run/trace", "-e", "trace=pwrite64,write"];
    tuning("ADD", keys)
        .under(&trace)
        .run(b)
        .expect_error_with(101, &["net.core.no_such_thing", "check the spelling"]);
    assert!(!fs::read_to_string("/run/trace").expect("trace").contains("\"601\""));
    assert_eq!(sysctl("c1", "core/somaxconn"), before);
    for (key, words) in [
        ("net.ipv4.conf", "it is a directory"),
        ("net.core.rmem_max", "cannot set sysctl"),
        ("net.ipv4.conf.nope0.arp_filter", "there is no such sysctl"),
    ] {
        tuning("ADD", &format!(r#""sysctl":{{"{key}":"1"}}"#))
            .run(b)
            .expect_error_with(101, &[key, words]);
    }
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn all_sysctls_come_back_though_one_resets_another(b: &TestBox) {
    container("c1", "eth0");
    // Writing ip_forward sets the other one to 0 with 1, and to 1 with 0. libcni hands them
    // over in the second order, the reset last.
    let redirects = "ipv4/conf/all/accept_redirects";
    for keys in [
        r#""sysctl":{"net.ipv4.ip_forward":"1","net.ipv4.conf.all.accept_redirects":"1"}"#,
        r#""sysctl":{"net.ipv4.conf.all.accept_redirects":"1","net.ipv4.ip_forward":"1"}"#,
    ] {
        Namespace::named("c1").write_sysctl(redirects, "0");
        tuning("ADD", keys).run(b).success();
        assert_eq!(
            (sysctl("c1", "ipv4/ip_forward"), sysctl("c1", redirects)),
            ("1".into(), "1".into())
        );
        tuning("CHECK", keys).run(b).success();
        tuning("DEL", keys).run(b).success();
        assert_eq!(
            (sysctl("c1", "ipv4/ip_forward"), sysctl("c1", redirects)),
            ("0".into(), "0".into())
        );
    }
}

fn an_empty_original_comes_back(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.ipv4.ip_local_reserved_ports":"8080"}"#;
    tuning("ADD", keys).run(b).success();
    assert_eq!(sysctl("c1", "ipv4/ip_local_reserved_ports"), "8080");
    tuning("DEL", keys).run(b).success();
    assert_eq!(sysctl("c1", "ipv4/ip_local_reserved_ports"), "");
}

/// The kernel gives of a list of ports what there is room for, and nothing to who asks for the rest.
fn a_long_original_comes_back_whole(b: &TestBox) {
    container("c1", "eth0");
    let ports: Vec<String> = (10_000..14_000).step_by(2).map(|port| port.to_string()).collect();
    let ports = ports.join(",");
    fs::write("/run/ports", &ports).expect("write");
    let at_once = |file: &str, with: &str| {
        sh(&format!(
            "ip netns exec c1 dd {file}=/proc/sys/net/ipv4/ip_local_reserved_ports bs=64k {with} status=none"
        ))
    };
    at_once("of", "if=/run/ports");
    let keys = r#""sysctl":{"net.ipv4.ip_local_reserved_ports":"8080"}"#;
    tuning("ADD", keys).run(b).success();
    assert_eq!(sysctl("c1", "ipv4/ip_local_reserved_ports"), "8080");
    tuning("DEL", keys).run(b).success();
    at_once("if", "of=/run/now");
    assert_eq!(fs::read_to_string("/run/now").expect("read").trim_end(), ports);
}

fn what_can_only_be_written_is_written(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.ipv4.route.flush":"1"}"#;
    for command in ["ADD", "CHECK", "DEL"] {
        tuning(command, keys).run(b).success();
    }
}

fn interfaces_do_not_share_them(b: &TestBox) {
    container("c1", "eth0");
    sh("ip -n c1 link add b0 type bridge");
    let second = |command| of("c1", "b0", command, MTU).set("name", "net2");
    tuning("ADD", MTU).run(b).success();
    second("ADD").run(b).success();
    assert_eq!(files(DATA_DIR), ["c1@b0.state", "c1@eth0.state"]);
    second("DEL").run(b).success();
    assert_eq!((link("c1", "b0").mtu, link("c1", "eth0").mtu), (1500, 1400));
    tuning("DEL", MTU).run(b).success();
    assert_eq!(link("c1", "eth0").mtu, 1500);
}

fn a_renamed_network_gives_them_back(b: &TestBox) {
    container("c1", "eth0");
    let renamed = |command, keys| tuning(command, keys).set("name", "net2");
    let before = link("c1", "eth0");
    tuning("ADD", MTU).run(b).success();
    renamed("DEL", MTU).run(b).success();
    assert_eq!(link("c1", "eth0"), before);
    assert_eq!(files(DATA_DIR), [""; 0]);

    tuning("ADD", MTU).run(b).success();
    renamed("ADD", r#""mtu":1300,"promisc":true"#).run(b).success();
    let nobody = r#""cni.dev/valid-attachments":[]"#;
    tuning("GC", nobody).run(b).success();
    assert_eq!(files(DATA_DIR), ["c1@eth0.state"], "it is of the other network now");
    renamed("DEL", "").run(b).success();
    assert_eq!(link("c1", "eth0"), before);
}

fn a_path_that_leads_elsewhere_by_now_is_left_alone(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", MTU).run(b).success();
    sh("ip netns del c1; ip link del hc1 2>/dev/null || true");
    container("c1", "eth0");
    sh("ip -n c1 link set eth0 mtu 1234");
    tuning("DEL", MTU).run(b).success();
    assert_eq!(link("c1", "eth0").mtu, 1234);
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn a_late_del_leaves_the_next_container_alone(b: &TestBox) {
    container("c1", "eth0");
    late_del(b, &[]);
}

fn a_late_del_leaves_the_next_container_alone_before_linux_5_14(b: &TestBox) {
    container("c1", "eth0");
    late_del(b, &WITHOUT_COOKIES);
}

fn before_linux_5_14_they_are_given_back_as_well(b: &TestBox) {
    container("c1", "eth0");
    let before = (link("c1", "eth0"), sysctl("c1", "core/somaxconn"));
    for netns in ["/run/netns/c1", "/run/link"] {
        let _ = symlink("/run/netns/c1", "/run/link");
        let call = |command| tuning(command, TUNED).env("CNI_NETNS", netns).under(&WITHOUT_COOKIES);
        call("ADD").run(b).success();
        call("ADD").run(b).success();
        call("DEL").run(b).success();
        assert_eq!((link("c1", "eth0"), sysctl("c1", "core/somaxconn")), before, "{netns}");
    }
}

fn those_of_before_a_boot_are_left_alone(b: &TestBox) {
    container("c1", "eth0");
    // A container may be started with its old ID, and everything else may be the same by chance.
    tuning("ADD", TUNED).run(b).success();
    let state = format!("{DATA_DIR}/c1@eth0.state");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot ID");
    let text = fs::read_to_string(&state).expect("state");
    assert!(text.contains(boot_id.trim_end()), "{text}");
    fs::write(&state, text.replace(boot_id.trim_end(), "another")).expect("state");
    let tuned = link("c1", "eth0");
    tuning("DEL", TUNED).run(b).success();
    assert_eq!((link("c1", "eth0"), sysctl("c1", "core/somaxconn")), (tuned, "601".into()));
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn the_host_can_be_meant(b: &TestBox) {
    container("c1", "eth0");
    sh("ip link add eth0 type veth peer name eth9");
    let host = |command| {
        tuning(command, MTU).env("CNI_NETNS", "/proc/1/ns/net").env("CNI_NETNS_OVERRIDE", "1")
    };
    host("ADD").run(b).success();
    assert!(sh("ip link show eth0").contains("mtu 1400"));
    host("CHECK").run(b).success();
    host("DEL").run(b).success();
    assert!(sh("ip link show eth0").contains("mtu 1500"));
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn a_path_that_means_the_host_by_now_changes_nothing_there(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", r#""mtu":1400,"sysctl":{"net.core.somaxconn":"601"}"#).run(b).success();
    sh("ip link add eth0 type veth peer name eth9 mtu 1300 && ip link set eth0 mtu 1300");
    fs::write("/proc/sys/net/core/somaxconn", "777").expect("the host's");
    tuning("DEL", MTU).env("CNI_NETNS", "/proc/1/ns/net").run(b).expect_error_with(8, &[]);
    assert!(sh("ip link show eth0").contains("mtu 1300"));
    assert_eq!(fs::read_to_string("/proc/sys/net/core/somaxconn").expect("read"), "777\n");
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn a_new_interface_of_the_old_name_has_new_originals(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", MTU).run(b).success();
    sh(
        "ip link del hc1; ip link add hc1 type veth peer name eth0 netns c1; ip -n c1 link set eth0 mtu 1450",
    );
    tuning("ADD", MTU).run(b).success();
    tuning("DEL", MTU).run(b).success();
    assert_eq!(link("c1", "eth0").mtu, 1450);
}

fn del_is_content_with_anything(b: &TestBox) {
    container("c1", "eth0");
    for keys in ["", MTU, r#""mtu":"x","mac":7,"sysctl":[],"promisc":"no""#] {
        tuning("DEL", keys).run(b).success();
        tuning("DEL", keys).env("CNI_NETNS", "").run(b).success();
        tuning("DEL", keys).env("CNI_NETNS", "/run/netns/none").run(b).success();
        of("c1", "nope0", "DEL", keys).run(b).success();
    }
    tuning("ADD", MTU).run(b).success();
    tuning("DEL", MTU).env("CNI_NETNS", "").run(b).success();
    assert_eq!(files(DATA_DIR), [""; 0]);
    tuning("DEL", r#""dataDir":"/proc/version""#).run(b).success();
}

fn what_cannot_be_restored_is_said(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", MTU).run(b).success();
    let state = format!("{DATA_DIR}/c1@eth0.state");
    let text = fs::read_to_string(&state).expect("state").replace("1500", "70000");
    fs::write(&state, text).expect("state");
    let outcome = tuning("DEL", MTU).run(b).success();
    assert!(outcome.stderr.contains("not restored: cannot set mtu of eth0 to 70000"), "{outcome}");
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn garbage_of_one_network_goes(b: &TestBox) {
    container("c1", "eth0");
    for (id, network) in [("a", "net"), ("b", "net"), ("c", "other")] {
        container(id, "eth0");
        of(id, "eth0", "ADD", MTU).set("name", network).run(b).success();
    }
    fs::write(format!("{DATA_DIR}/gone@eth0.state"), "corrupt").expect("write");
    fs::write(format!("{DATA_DIR}/c9_eth0.json"), "{}").expect("write");
    let gc = |valid: &str| tuning("GC", valid).run(b).success();
    let all = files(DATA_DIR);
    let outcome = gc("");
    assert!(outcome.stderr.contains("nothing was removed"), "{outcome}");
    assert_eq!(files(DATA_DIR), all);
    gc(r#""cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#);
    assert_eq!(files(DATA_DIR), ["a@eth0.state", "c9_eth0.json", "c@eth0.state"]);
    gc(r#""cni.dev/valid-attachments":null"#);
    assert_eq!(files(DATA_DIR), ["c9_eth0.json", "c@eth0.state"]);
    // GC forgets, it does not restore: the attachment is gone.
    assert_eq!(link("b", "eth0").mtu, 1400);
    gc(r#""dataDir":"/run/none","cni.dev/valid-attachments":[]"#);
}
