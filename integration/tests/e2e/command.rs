//! `gc` and `status` of the command on a node in use: nothing that lives loses anything.

use std::process::Command;

use cni_testbox::{HOST_V4, TestBox, Transport, cases, run, tool};

use crate::restore::{NAME, Node, PORT};

cases! {
    gc_takes_only_what_is_gone, backends;
    gc_takes_what_lives_by_its_name_only, ours;
    a_probe_tells_by_its_status_what_is_missing, ours;
    status_without_privilege_fails, ours;
}

/// Status, stdout and stderr.
fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let outcome = (output.status.code(), text(&output.stdout), text(&output.stderr));
    println!("{command:?}: {outcome:#?}");
    outcome
}

/// No configuration is needed: the cache has it.
fn gc_takes_only_what_is_gone(b: &TestBox) {
    let node = Node::new(b);
    let (_live, live) = node.add("live", PORT);
    node.add("gone", PORT + 1);
    run(tool("ip").args(["netns", "del", "gone"]));
    let before = b.ruleset();
    assert!(before.contains(&format!("{NAME}/gone/eth0")), "{before}");

    let announced = format!(
        "{NAME}/gone/eth0: would delete: there is no network namespace at /run/netns/gone\n"
    );
    let dry = run(&mut node.cni_chain(&["gc", NAME, "--dry-run"]));
    assert_eq!(dry, format!("{announced}network {NAME}: 1 to delete, 1 kept\n"));
    assert_eq!(b.ruleset(), before);

    let printed = run(&mut node.cni_chain(&["gc", NAME]));
    assert!(printed.starts_with(&format!("{NAME}/gone/eth0: deleted: ")), "{printed}");
    assert!(printed.ends_with(&format!("network {NAME}: 1 deleted, 1 kept\n")), "{printed}");
    assert!(!b.ruleset().contains(&format!("{NAME}/gone/eth0")));
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT + 1);
    node.serves("live", PORT);
    assert!(node.is_sound(&live));
    assert_eq!(run(&mut node.cni_chain(&["gc", NAME])), format!("network {NAME}: 1 kept\n"));
}

fn gc_takes_what_lives_by_its_name_only(b: &TestBox) {
    let node = Node::new(b);
    node.add("web-1", PORT);
    node.add("web-2", PORT + 1);
    let before = b.ruleset();
    for arguments in [&["gc", NAME, "--keep-none"][..], &["gc", NAME, "--keep", "web-2/eth0"]] {
        let (status, stdout, stderr) = outcome(&mut node.cni_chain(arguments));
        assert_eq!((status, stdout.as_str()), (Some(1), ""));
        assert!(stderr.contains("nothing was deleted") && stderr.contains("podnet/web-1/eth0"));
    }
    assert_eq!(b.ruleset(), before);
    node.serves("web-1", PORT);

    let printed = run(&mut node.cni_chain(&["gc", NAME, "--delete", "web-1/eth0"]));
    assert_eq!(
        printed,
        format!(
            "{NAME}/web-1/eth0: deleted: as asked, although its container is there\n\
             network {NAME}: 1 deleted, 1 kept\n"
        )
    );
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT);
    node.serves("web-2", PORT + 1);
}

fn a_probe_tells_by_its_status_what_is_missing(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    let probe = ["restore", "--dry-run", "--exit-code", "--container-id", "we"];
    let (status, stdout, _) = outcome(&mut node.cni_chain(&probe));
    assert_eq!(status, Some(0), "{stdout}");
    run(tool("nft").args(["delete", "table", "inet", "cni_portmap"]));
    let (status, stdout, _) = outcome(&mut node.cni_chain(&probe));
    assert_eq!(status, Some(3), "{stdout}");
    let mut lines = stdout.lines();
    assert_eq!(lines.next(), Some("podnet/web/eth0: would restore portmap"), "{stdout}");
    assert!(lines.next().is_some_and(|line| line.starts_with("    portmap: ")), "{stdout}");
    assert_eq!(stdout.matches("map inet cni_portmap by_port4").count(), 1, "grouped: {stdout}");
    assert!(!stdout.contains("cni-chain restore"), "{stdout}");
    let (status, ..) = outcome(&mut node.cni_chain(&["restore", "--exit-code"]));
    assert_eq!(status, Some(3), "it was missing, although it is there now");
    let (status, ..) = outcome(&mut node.cni_chain(&["restore", "--exit-code"]));
    assert_eq!(status, Some(0));
    node.serves("web", PORT);
}

fn status_without_privilege_fails(b: &TestBox) {
    let node = Node::new(b);
    let conflist = "/run/podnet.conflist";
    let list = r#"{"cniVersion": "1.0.0", "name": "podnet", "plugins": [{"type": "portmap"}, {"type": "loopback"}]}"#;
    std::fs::write(conflist, list).expect("a file");
    let (status, stdout, _) = outcome(&mut node.cni_chain(&["status", conflist]));
    assert_eq!(status, Some(0));
    assert!(stdout.starts_with("portmap: ok, though runtimes do not ask"), "{stdout}");
    assert!(stdout.contains("\nloopback: not asked: that needs cniVersion 1.1.0"), "{stdout}");

    let status = node.cni_chain(&["status", conflist]);
    let mut unprivileged = tool("setpriv");
    unprivileged.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(status.get_program());
    unprivileged.args(status.get_args());
    unprivileged.envs(status.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (status, stdout, _) = outcome(&mut unprivileged);
    assert_eq!(status, Some(1));
    assert!(stdout.starts_with("portmap: failed: only root can tell"), "{stdout}");
}
