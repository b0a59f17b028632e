//! Programs of iptables that do not say all, do not do what they say, or take their time.

use std::time::{Duration, Instant};

use cni_testbox::{
    HOST_V4, IPTABLES_RESTORES, IPTABLES_SAVES, Implementation, Network, TestBox, Transport, both,
    cases, cut_saves, killed_while_restoring, portmap, sh, stubs,
};

cases! {
    a_table_that_is_not_whole_is_no_empty_table, iptables_only;
    a_restore_that_reads_nothing_is_no_success, iptables_only;
    what_others_do_in_the_table_is_no_obstacle, iptables_only;
    a_program_that_hangs_is_killed, iptables_only;
    a_program_that_cannot_be_started_is_worth_another_try, iptables_only;
    a_restore_that_outlives_its_add_comes_before_del, iptables_only;
}

fn a_table_that_is_not_whole_is_no_empty_table(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    b.map(&old, &both(8080, 80));
    let before = b.ruleset();
    for script in cut_saves("nat") {
        let path = stubs(&IPTABLES_SAVES, &script);
        println!("{script}");
        let add = portmap("ADD", &new).mappings(&both(8081, 80)).env("PATH", &path).run(b);
        add.expect_error();
        assert_eq!(b.ruleset(), before, "{script}");
        let del = portmap("DEL", &old).mappings(&both(8080, 80)).env("PATH", &path).run(b);
        del.expect_error();
        assert_eq!(b.ruleset(), before, "{script}");
    }
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("old");
    b.unmap(&old, &both(8080, 80));
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
}

fn a_restore_that_reads_nothing_is_no_success(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let path = stubs(&IPTABLES_RESTORES, "exec <&-; exit 0");
    // More than a pipe holds: what the program does not read cannot be written.
    let many: Vec<_> = (1..=900).flat_map(|port| both(8000 + port, 80)).collect();
    let add = portmap("ADD", &web).mappings(&many).env("PATH", &path).run(b);
    add.expect_error();
}

/// A rule that only counts is printed without a word behind its chain; a base chain of nft's own in
/// the table is what iptables-nft remarks on, and prints the rest.
fn what_others_do_in_the_table_is_no_obstacle(b: &TestBox) {
    for program in ["iptables", "ip6tables"] {
        sh(&format!("{program} -t nat -A POSTROUTING; {program} -t raw -A PREROUTING"));
    }
    if b.implementation == Implementation::IptablesNft {
        sh("nft 'add chain ip nat theirs { type nat hook prerouting priority -90; }'");
        let saved = sh("iptables-save -t nat");
        assert!(saved.contains("contains incompatible base-chains"), "{saved}");
    }
    let web = b.web(&Network::dual(1), "web");
    b.map(&web, &both(8080, 80));
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.unmap(&web, &both(8080, 80));
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
    assert!(sh("iptables-save -t nat").contains("-A POSTROUTING\n"));
}

/// The kernel says of the first wait that the time is up; nobody wants to wait that long here.
fn a_program_that_hangs_is_killed(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    b.map(&old, &both(8080, 80));
    let before = b.ruleset();
    let late = ["strace", "-o", "/run/trace", "-e", "inject=poll,ppoll:retval=0"];
    let path = stubs(&IPTABLES_SAVES, "sleep 7 & wait; exec $real \"$@\"");
    let calls = [
        portmap("ADD", &new).mappings(&both(8081, 80)),
        portmap("DEL", &old).mappings(&both(8080, 80)),
    ];
    for call in calls {
        let started = Instant::now();
        let outcome = call.env("PATH", &path).under(&late).run(b);
        outcome.expect_error_with(11, &["tables-", "did not end within 15 seconds", "try again"]);
        assert!(started.elapsed() < Duration::from_secs(5), "{outcome}");
        assert_eq!(b.ruleset(), before);
    }
    let left = sh("pgrep -r R,S -x sleep || true");
    assert_eq!(left, "", "the program's own children are killed with it");
    b.unmap(&old, &both(8080, 80));
}

fn a_program_that_cannot_be_started_is_worth_another_try(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let before = b.ruleset();
    for injection in ["inject=clone,clone3,vfork:error=EAGAIN", "inject=pipe2:error=EMFILE"] {
        let short = ["strace", "-o", "/run/trace", "-e", injection];
        let add = portmap("ADD", &web).mappings(&both(8080, 80)).under(&short);
        add.run(b).expect_error_with(11, &["iptables-save", "try again"]);
        assert_eq!(b.ruleset(), before);
    }
}

fn a_restore_that_outlives_its_add_comes_before_del(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let add = portmap("ADD", &web).mappings(&both(8080, 80));
    killed_while_restoring(b, "portmap", add, || b.unmap(&web, &both(8080, 80)));
    let left = b.ruleset();
    assert!(!left.contains("CNI-DN-"), "{left}");
}
