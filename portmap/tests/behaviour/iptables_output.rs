//! Programs of iptables that do not say all, or do not do what they say.

use cni_testbox::{
    HOST_V4, Implementation, Network, TestBox, Transport, both, cases, portmap, sh, stubs,
};

cases! {
    a_table_that_is_not_whole_is_no_empty_table, iptables_only;
    a_restore_that_reads_nothing_is_no_success, iptables_only;
    what_others_do_in_the_table_is_no_obstacle, iptables_only;
}

const SAVES: [&str; 6] = [
    "iptables-save",
    "ip6tables-save",
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
];

fn a_table_that_is_not_whole_is_no_empty_table(b: &TestBox) {
    let network = Network::dual(1);
    let (old, new) = (b.web(&network, "old"), b.web(&network, "new"));
    b.map(&old, &both(8080, 80));
    let before = b.ruleset();
    let cuts = [
        "$real \"$@\" | grep -v COMMIT",
        "$real \"$@\" | head -n 3",
        "$real \"$@\" | head -c 200",
        "echo \"# Table \\`nat' is incompatible, use 'nft' tool.\"",
        "echo",
        "true",
    ];
    for script in cuts {
        let path = stubs(&SAVES, script);
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
    let path = stubs(&["iptables-restore", "ip6tables-restore"], "exec <&-; exit 0");
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
