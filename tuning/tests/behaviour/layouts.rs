//! What another version of the plugin made. (What b302888 made is taken over in `integration/tests/e2e`.)

use cni_testbox::{Call, TestBox, cases, newer};

use crate::support::{DATA_DIR, container, of, sysctl};

cases! {
    newer_originals_are_left_alone, ours;
}

fn newer_originals_are_left_alone(b: &TestBox) {
    const TUNED: &str = r#""mtu":1400,"sysctl":{"net.core.somaxconn":"601"}"#;
    container("c1", "eth0");
    of("c1", "eth0", "ADD", TUNED).run(b).success();
    let file = format!("{DATA_DIR}/c1@eth0.state");
    newer::renumber_file(&file);
    let call = |command| of("c1", "eth0", command, TUNED);
    let gc = || Call::of_network("tuning", "GC", "net").valid(&[]);
    let calls = [
        call("ADD"),
        of("c1", "eth0", "ADD", r#""mtu":1300"#),
        call("DEL"),
        call("DEL").without("prevResult"),
        call("DEL").env("CNI_NETNS", ""),
        gc(),
    ];
    b.refuses_what_is_newer(11, &[&file, "left alone"], &calls);
    assert_eq!(sysctl("c1", "core/somaxconn"), "601");
    // These two look at nothing that has a layout.
    call("CHECK").run(b).success();
    Call::of_network("tuning", "STATUS", "net").run(b).success();
    // GC goes on with what it knows.
    container("c2", "eth0");
    of("c2", "eth0", "ADD", TUNED).run(b).success();
    gc().run(b).expect_error_with(11, &[&file]);
    assert_eq!(crate::support::files(DATA_DIR), ["c1@eth0.state"]);
}
