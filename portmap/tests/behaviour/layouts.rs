//! What another version of the plugin made. (What b302888 made is taken over in `integration/tests/e2e`.)

use cni_testbox::{
    Attachment, Call, HOST_V4, Implementation, Mapping, Network, TestBox, Transport, both, cases,
    newer, portmap,
};

cases! {
    a_newer_table_is_left_alone, ours;
    newer_chains_are_left_alone, iptables_only;
    a_newer_table_and_an_add_on_iptables, iptables_only;
}

/// The DEL of one that has none.
const OF_NOBODY: usize = 8;

/// Every call but STATUS, of an attachment that has mappings and of one that has none yet.
fn calls(web: &Attachment, other: &Attachment) -> Vec<Call> {
    let (old, new): (Vec<Mapping>, Vec<Mapping>) = (both(8080, 80), both(8081, 80));
    let of = |command: &str| portmap(command, web).mappings(&old);
    vec![
        portmap("ADD", other).mappings(&new),
        of("ADD"),
        portmap("ADD", web).mappings(&new),
        portmap("ADD", web).mappings(&[]),
        portmap("ADD", other).mappings(&new).set("onConflict", "fail"),
        of("CHECK"),
        of("DEL"),
        of("DEL").without("prevResult"),
        portmap("DEL", other).mappings(&new),
        Call::of_network("portmap", "GC", &web.network.name).valid(&[]),
        Call::of_network("portmap", "GC", &web.network.name).valid(&[web]),
    ]
}

/// Whether or not the kernel refuses what an older ADD writes before it looks.
fn a_newer_table_is_left_alone(b: &TestBox) {
    const TABLE: &str = "inet cni_portmap";
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    b.map(&web, &both(8080, 80));
    let status = [Call::of_network("portmap", "STATUS", &network.name)];
    let is_refused = || {
        b.refuses_what_is_newer(11, &[TABLE, "left alone"], &calls(&web, &other));
        b.refuses_what_is_newer(50, &[TABLE], &status);
        b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    };
    newer::renumber_table(TABLE);
    is_refused();
    newer::rename_set(TABLE, "attachments");
    is_refused();
}

fn newer_chains_are_left_alone(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    b.map(&web, &both(8080, 80));
    newer::number_chains(["iptables", "ip6tables"], "nat", "CNI-HOSTPORT-LAYOUT-");
    let mut calls = calls(&web, &other);
    // Of one that has nothing there, nothing is looked at; legacy iptables does not tell without a look.
    let of_nobody =
        (b.implementation == Implementation::IptablesNft).then(|| calls.remove(OF_NOBODY));
    b.refuses_what_is_newer(11, &["table nat of iptables", "left alone"], &calls);
    let status = [Call::of_network("portmap", "STATUS", &network.name)];
    b.refuses_what_is_newer(50, &["table nat of iptables"], &status);
    let before = b.state();
    of_nobody.inspect(|call| call.run(b).expect_silence());
    assert_eq!(b.state(), before);
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
}

/// What the attachment may have in the table cannot be told, so that ADD would leave a second mapping of it.
fn a_newer_table_and_an_add_on_iptables(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    portmap("ADD", &web).mappings(&both(8080, 80)).run_as(Implementation::Ours).expect_result();
    newer::renumber_table("inet cni_portmap");
    let add = [portmap("ADD", &web).mappings(&both(8080, 80))];
    b.refuses_what_is_newer(11, &["inet cni_portmap"], &add);
}
