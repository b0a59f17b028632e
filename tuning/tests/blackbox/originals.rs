//! What is kept for DEL, whose it is, and when it goes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::time::Duration;

use crate::harness::{DATA_DIR, container, files, go, link, ours, set_sysctl, sh, sysctl};

const MTU: &str = r#""mtu":1400"#;

const TUNED: &str = r#""mtu":1400,"mac":"c2:11:22:33:44:55","sysctl":{"net.core.somaxconn":"601"}"#;

/// Linux before 5.14, as far as the plugin can see.
const WITHOUT_COOKIES: [&str; 6] =
    ["strace", "-f", "-o", "/run/trace", "-e", "inject=getsockopt:error=ENOPROTOOPT"];

fn inode(id: &str) -> u64 {
    fs::metadata(format!("/run/netns/{id}")).expect("namespace").ino()
}

/// Containers whose DEL comes when their place is taken, inode and all.
fn late_dels(wrapper: &[&str]) {
    let mut reused = 0;
    for _ in 0..20 {
        container("old", "eth0");
        let old_inode = inode("old");
        ours("ADD", TUNED).of("old", "eth0").under(wrapper).ok();
        sh("ip netns del old; while ip link show hold >/dev/null 2>&1; do :; done");
        let late = ours("DEL", TUNED).of("old", "eth0");
        if let Some(new) = next_namespace_with(old_inode) {
            reused += 1;
            sh(&format!(
                "ip link add hnew type veth peer name eth0 mtu 1234 address 02:00:00:00:00:07 netns {new}"
            ));
            set_sysctl(&new, "core/somaxconn", "777");
            let state = || (link(&new, "eth0"), sysctl(&new, "core/somaxconn"));
            let before = state();
            late.with(|c| c.netns = format!("/run/netns/{new}")).under(wrapper).ok();
            assert_eq!(state(), before);
            sh("ip link del hnew");
        } else {
            late.ok();
        }
        assert_eq!(files(DATA_DIR), [""; 0]);
        sh("for name in $(ip netns | grep -o 'new[0-9]*'); do ip netns del $name; done");
        if reused == 3 {
            return;
        }
    }
    assert!(reused > 0, "no inode came again, so nothing was tried");
}

/// Makes namespaces until one has the inode of one that is gone: the kernel gives the lowest that
/// is free, some time after.
fn next_namespace_with(wanted: u64) -> Option<String> {
    std::thread::sleep(Duration::from_millis(50));
    (0..20).map(|number| format!("new{number}")).find(|name| {
        sh(&format!("ip netns add {name}"));
        inode(name) == wanted
    })
}

in_box! {
    fn a_second_add_keeps_the_first_originals_and_adds_new_ones() {
        let before = link("c1", "eth0");
        ours("ADD", MTU).ok();
        ours("ADD", r#""mtu":1300,"promisc":true,"sysctl":{"net.core.somaxconn":"601"}"#).ok();
        let somaxconn = sysctl("c1", "core/somaxconn");
        assert_eq!(somaxconn, "601");
        // Whatever the configuration says by now, what was changed is given back.
        ours("DEL", "").ok();
        assert_eq!(link("c1", "eth0"), before);
        assert_ne!(sysctl("c1", "core/somaxconn"), somaxconn);
    }

    fn two_entries_of_one_chain_share_them() {
        let before = link("c1", "eth0");
        ours("ADD", MTU).ok();
        ours("ADD", r#""mtu":1300,"allmulti":true"#).ok();
        ours("DEL", r#""mtu":1300,"allmulti":true"#).ok();
        ours("DEL", MTU).ok();
        assert_eq!(link("c1", "eth0"), before);
    }

    fn a_failed_second_add_changes_nothing() {
        let before = link("c1", "eth0");
        ours("ADD", MTU).ok();
        let tuned = link("c1", "eth0");
        let kept = fs::read(format!("{DATA_DIR}/c1@eth0.state")).expect("state");
        let bad = r#""promisc":true,"sysctl":{"net.core.somaxconn":"601","net.ipv4.ip_forward":"x"}"#;
        let somaxconn = sysctl("c1", "core/somaxconn");
        ours("ADD", bad).fails(101, &["net/ipv4/ip_forward", "Invalid argument"]);
        assert_eq!((link("c1", "eth0"), sysctl("c1", "core/somaxconn")), (tuned, somaxconn));
        assert_eq!(fs::read(format!("{DATA_DIR}/c1@eth0.state")).expect("state"), kept);
        ours("DEL", MTU).ok();
        assert_eq!(link("c1", "eth0"), before);
    }

    fn nothing_is_written_before_every_key_is_known_to_exist() {
        let keys = r#""sysctl":{"net.core.somaxconn":"601","net.core.no_such_thing":"1"}"#;
        let before = sysctl("c1", "core/somaxconn");
        let trace = ["strace", "-f", "-o", "/run/trace", "-e", "trace=pwrite64,write"];
        ours("ADD", keys).under(&trace).fails(101, &["net.core.no_such_thing", "check the spelling"]);
        assert!(!fs::read_to_string("/run/trace").expect("trace").contains("\"601\""));
        assert_eq!(sysctl("c1", "core/somaxconn"), before);
        for (key, words) in [
            ("net.ipv4.conf", "it is a directory"),
            ("net.core.rmem_max", "cannot set sysctl"),
            ("net.ipv4.conf.nope0.arp_filter", "there is no such sysctl"),
        ] {
            ours("ADD", &format!(r#""sysctl":{{"{key}":"1"}}"#)).fails(101, &[key, words]);
        }
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn all_sysctls_come_back_though_one_resets_another() {
        // Writing ip_forward sets the other one to 0 with 1, and to 1 with 0. libcni hands them
        // over in the second order, the reset last.
        let redirects = "ipv4/conf/all/accept_redirects";
        for keys in [
            r#""sysctl":{"net.ipv4.ip_forward":"1","net.ipv4.conf.all.accept_redirects":"1"}"#,
            r#""sysctl":{"net.ipv4.conf.all.accept_redirects":"1","net.ipv4.ip_forward":"1"}"#,
        ] {
            set_sysctl("c1", redirects, "0");
            ours("ADD", keys).ok();
            assert_eq!((sysctl("c1", "ipv4/ip_forward"), sysctl("c1", redirects)), ("1".into(), "1".into()));
            ours("CHECK", keys).ok();
            ours("DEL", keys).ok();
            assert_eq!((sysctl("c1", "ipv4/ip_forward"), sysctl("c1", redirects)), ("0".into(), "0".into()));
        }
    }

    fn an_empty_original_comes_back() {
        let keys = r#""sysctl":{"net.ipv4.ip_local_reserved_ports":"8080"}"#;
        ours("ADD", keys).ok();
        assert_eq!(sysctl("c1", "ipv4/ip_local_reserved_ports"), "8080");
        ours("DEL", keys).ok();
        assert_eq!(sysctl("c1", "ipv4/ip_local_reserved_ports"), "");
    }

    fn what_can_only_be_written_is_written() {
        let keys = r#""sysctl":{"net.ipv4.route.flush":"1"}"#;
        for command in ["ADD", "CHECK", "DEL"] {
            ours(command, keys).ok();
        }
    }

    fn interfaces_do_not_share_them() {
        sh("ip -n c1 link add b0 type bridge");
        let second = |command| ours(command, MTU).of("c1", "b0").with(|c| c.network = "net2".into());
        ours("ADD", MTU).ok();
        second("ADD").ok();
        assert_eq!(files(DATA_DIR), ["c1@b0.state", "c1@eth0.state"]);
        second("DEL").ok();
        assert_eq!((link("c1", "b0").mtu, link("c1", "eth0").mtu), (1500, 1400));
        ours("DEL", MTU).ok();
        assert_eq!(link("c1", "eth0").mtu, 1500);
    }

    fn a_renamed_network_gives_them_back() {
        let renamed = |command, keys| ours(command, keys).with(|c| c.network = "net2".into());
        let before = link("c1", "eth0");
        ours("ADD", MTU).ok();
        renamed("DEL", MTU).ok();
        assert_eq!(link("c1", "eth0"), before);
        assert_eq!(files(DATA_DIR), [""; 0]);

        ours("ADD", MTU).ok();
        renamed("ADD", r#""mtu":1300,"promisc":true"#).ok();
        let nobody = r#""cni.dev/valid-attachments":[]"#;
        ours("GC", nobody).with(|c| c.version = "1.1.0".into()).ok();
        assert_eq!(files(DATA_DIR), ["c1@eth0.state"], "it is of the other network now");
        renamed("DEL", "").ok();
        assert_eq!(link("c1", "eth0"), before);
    }

    fn the_go_plugins_backup_is_honoured() {
        let keys = r#""mtu":1400,"mac":"c2:11:22:33:44:55","promisc":true"#;
        let before = link("c1", "eth0");
        go("ADD", keys).ok();
        assert_eq!(files(DATA_DIR), ["c1_eth0.json"]);
        ours("DEL", keys).ok();
        assert_eq!(link("c1", "eth0"), before);
        assert_eq!(files(DATA_DIR), [""; 0]);

        go("ADD", keys).ok();
        ours("ADD", r#""mtu":1300,"allmulti":true"#).ok();
        ours("DEL", keys).ok();
        assert_eq!(link("c1", "eth0"), before);
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn a_path_that_leads_elsewhere_by_now_is_left_alone() {
        ours("ADD", MTU).ok();
        sh("ip netns del c1; ip link del hc1 2>/dev/null || true");
        container("c1", "eth0");
        sh("ip -n c1 link set eth0 mtu 1234");
        ours("DEL", MTU).ok();
        assert_eq!(link("c1", "eth0").mtu, 1234);
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn a_late_del_leaves_the_next_container_alone() {
        late_dels(&[]);
    }

    fn a_late_del_leaves_the_next_container_alone_before_linux_5_14() {
        late_dels(&WITHOUT_COOKIES);
    }

    fn before_linux_5_14_they_are_given_back_as_well() {
        let before = (link("c1", "eth0"), sysctl("c1", "core/somaxconn"));
        for netns in ["/run/netns/c1", "/run/link"] {
            symlink("/run/netns/c1", "/run/link").ok();
            let call = |command| ours(command, TUNED).with(|c| c.netns = netns.into()).under(&WITHOUT_COOKIES);
            call("ADD").ok();
            call("ADD").ok();
            call("DEL").ok();
            assert_eq!((link("c1", "eth0"), sysctl("c1", "core/somaxconn")), before, "{netns}");
        }
    }

    fn those_of_before_a_boot_are_left_alone() {
        // A container may be started with its old ID, and everything else may be the same by chance.
        ours("ADD", TUNED).ok();
        let state = format!("{DATA_DIR}/c1@eth0.state");
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot ID");
        let text = fs::read_to_string(&state).expect("state");
        assert!(text.contains(boot_id.trim_end()), "{text}");
        fs::write(&state, text.replace(boot_id.trim_end(), "another")).expect("state");
        let tuned = link("c1", "eth0");
        ours("DEL", TUNED).ok();
        assert_eq!((link("c1", "eth0"), sysctl("c1", "core/somaxconn")), (tuned, "601".into()));
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn the_host_is_left_alone() {
        // The Go plugin's backup does not say which namespace it is of.
        sh("ip link add eth0 type veth peer name eth9 && mkdir -p /run/cni/tuning");
        fs::write(format!("{DATA_DIR}/c1_eth0.json"), r#"{"mtu":1300}"#).expect("backup");
        let host = |command| ours(command, MTU).with(|c| c.netns = "/proc/1/ns/net".into());
        host("ADD").fails(8, &["should not be the same"]);
        host("DEL").fails(8, &["should not be the same"]);
        assert!(sh("ip link show eth0").contains("mtu 1500"));
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn the_host_can_be_meant() {
        sh("ip link add eth0 type veth peer name eth9");
        let host = |command| {
            ours(command, MTU)
                .with(|c| c.netns = "/proc/1/ns/net".into())
                .under(&["env", "CNI_NETNS_OVERRIDE=1"])
        };
        host("ADD").ok();
        assert!(sh("ip link show eth0").contains("mtu 1400"));
        host("CHECK").ok();
        host("DEL").ok();
        assert!(sh("ip link show eth0").contains("mtu 1500"));
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn a_path_that_means_the_host_by_now_changes_nothing_there() {
        ours("ADD", r#""mtu":1400,"sysctl":{"net.core.somaxconn":"601"}"#).ok();
        sh("ip link add eth0 type veth peer name eth9 mtu 1300 && ip link set eth0 mtu 1300");
        fs::write("/proc/sys/net/core/somaxconn", "777").expect("the host's");
        ours("DEL", MTU).with(|c| c.netns = "/proc/1/ns/net".into()).fails(8, &[]);
        assert!(sh("ip link show eth0").contains("mtu 1300"));
        assert_eq!(fs::read_to_string("/proc/sys/net/core/somaxconn").expect("read"), "777\n");
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn a_new_interface_of_the_old_name_has_new_originals() {
        ours("ADD", MTU).ok();
        sh("ip link del hc1; ip link add hc1 type veth peer name eth0 netns c1; ip -n c1 link set eth0 mtu 1450");
        ours("ADD", MTU).ok();
        ours("DEL", MTU).ok();
        assert_eq!(link("c1", "eth0").mtu, 1450);
    }

    fn del_is_content_with_anything() {
        for keys in ["", MTU, r#""mtu":"x","mac":7,"sysctl":[],"promisc":"no""#] {
            ours("DEL", keys).ok();
            ours("DEL", keys).with(|c| c.netns = String::new()).ok();
            ours("DEL", keys).with(|c| c.netns = "/run/netns/none".into()).ok();
            ours("DEL", keys).of("c1", "nope0").ok();
        }
        ours("ADD", MTU).ok();
        ours("DEL", MTU).with(|c| c.netns = String::new()).ok();
        assert_eq!(files(DATA_DIR), [""; 0]);
        ours("DEL", r#""dataDir":"/proc/version""#).ok();
    }

    fn what_cannot_be_restored_is_said() {
        ours("ADD", MTU).ok();
        let state = format!("{DATA_DIR}/c1@eth0.state");
        let text = fs::read_to_string(&state).expect("state").replace("1500", "70000");
        fs::write(&state, text).expect("state");
        let outcome = ours("DEL", MTU).ok();
        assert!(outcome.stderr.contains("not restored: cannot set mtu of eth0 to 70000"), "{outcome:?}");
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn garbage_of_one_network_goes() {
        for (id, network) in [("a", "net"), ("b", "net"), ("c", "other")] {
            container(id, "eth0");
            ours("ADD", MTU).of(id, "eth0").with(|c| c.network = network.into()).ok();
        }
        fs::write(format!("{DATA_DIR}/gone@eth0.state"), "corrupt").expect("write");
        fs::write(format!("{DATA_DIR}/c9_eth0.json"), "{}").expect("write");
        let gc = |valid: &str| ours("GC", valid).with(|c| c.version = "1.1.0".into()).ok();
        let all = files(DATA_DIR);
        let outcome = gc("");
        assert!(outcome.stderr.contains("nothing was removed"), "{outcome:?}");
        assert_eq!(files(DATA_DIR), all);
        gc(r#""cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#);
        assert_eq!(files(DATA_DIR), ["a@eth0.state", "c9_eth0.json", "c@eth0.state"]);
        gc(r#""cni.dev/valid-attachments":null"#);
        assert_eq!(files(DATA_DIR), ["c9_eth0.json", "c@eth0.state"]);
        // GC forgets, it does not restore: the attachment is gone.
        assert_eq!(link("b", "eth0").mtu, 1400);
        gc(r#""dataDir":"/run/none","cni.dev/valid-attachments":[]"#);
    }
}
