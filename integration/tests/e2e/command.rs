//! `show`, `gc` and `status` of the command on a node in use: what it tells is so, and nothing that
//! lives loses anything.

use std::process::Command;

use serde_json::Value;

use cni_testbox::{HOST_V4, TestBox, Transport, cases, newer, run, sh, tc, tool};

use crate::restore::{NAME, Node, PORT};

cases! {
    gc_takes_only_what_is_gone, backends;
    gc_takes_what_lives_by_its_name_only, ours;
    a_probe_tells_by_its_status_what_is_missing, ours;
    status_without_privilege_fails, ours;
    lint_names_what_does_not_work, ours;
    lint_has_nothing_to_say_about_what_is_shipped, ours;
    add_warns_of_a_key_that_it_does_not_know, ours;
    show_tells_whose_everything_is, backends;
    purge_takes_out_what_it_is_asked_for, backends;
    purge_leaves_what_others_made, ours;
    purge_after_the_last_container_leaves_no_loopback_open, backends;
    what_a_newer_version_left_is_told_and_left_alone, ours;
    show_tells_what_is_missing_and_who_else_has_a_port, ours;
    show_tells_what_waits_in_the_kernel, backends;
}

/// Status, stdout and stderr.
pub(crate) fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
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
    assert_eq!(stdout.matches("missing from table inet cni_portmap").count(), 1, "{stdout}");
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
    let start = "portmap: ok, backend nftables: the kernel has nf_tables\n";
    assert!(stdout.starts_with(start), "{stdout}");
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

fn lint_names_what_does_not_work(b: &TestBox) {
    let node = Node::new(b);
    let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"firewall","ingressPolicy":"open"},
        {"type":"bridge"},{"type":"portmap","snatt":true,"markMasqBit":77},{"type":"no-such"}]}"#;
    std::fs::write("/run/bad.conflist", list).expect("a file");
    let (status, stdout, _) = outcome(&mut node.cni_chain(&["lint", "/run/bad.conflist"]));
    assert_eq!(status, Some(1));
    for line in [
        "error: plugins[0] (firewall): it needs the interface that a later entry makes: move it behind that\n",
        "error: plugins[2] (portmap): portmap knows no key \"snatt\", which does nothing: do you mean \"snat\"?\n",
        "error: plugins[2] (portmap): no port is ever mapped: declare",
        "markMasqBit",
        "error: plugins[3] (no-such): failed to find plugin",
        "\nnetwork n: 5 errors, 0 warnings\n",
    ] {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
}

fn lint_has_nothing_to_say_about_what_is_shipped(b: &TestBox) {
    let node = Node::new(b);
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/conflists");
    let mut seen = 0;
    for entry in std::fs::read_dir(shipped).expect("conflists").flatten() {
        let path = entry.path().display().to_string();
        let (status, stdout, _) = outcome(&mut node.cni_chain(&["lint", &path]));
        assert_eq!(status, Some(0), "{path}");
        assert!(stdout.ends_with(": 0 errors, 0 warnings\n"), "{stdout}");
        seen += 1;
    }
    assert!(seen > 0);
}

fn add_warns_of_a_key_that_it_does_not_know(b: &TestBox) {
    let list = |key: &str| {
        format!(
            r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"bridge","bridge":"br1","ipam":
            {{"type":"host-local","subnet":"10.88.1.0/24"}}}},{{"type":"tuning","{key}":1400}}]}}"#
        )
    };
    let node = Node::new(b);
    for (key, warns) in [("Mtu", false), ("mtuu", true), ("example.com/mtu", false)] {
        b.container(key.get(..3).expect("long"));
        std::fs::write("/run/n.conflist", list(key)).expect("a file");
        let (status, _, stderr) =
            outcome(&mut node.cni_chain(&["add", "/run/n.conflist", &key[..3]]));
        assert_eq!(status, Some(0));
        let told = stderr
            .contains(&format!("plugin tuning knows no key {key:?} and does nothing about it"));
        assert_eq!(told, warns, "{stderr}");
    }
}

/// What `show --json` prints, as its schema has it.
fn show(node: &Node<'_>, subject: &[&str]) -> Value {
    let printed = run(&mut node.cni_chain(&[&["show", "--json"], subject].concat()));
    let shown: Value = serde_json::from_str(&printed).expect("JSON");
    println!("{shown:#}");
    conforms(&shown, include_str!("../../../docs/schema/show.json"));
    shown
}

/// Whether an answer is what a published schema promises.
#[track_caller]
pub(crate) fn conforms(answer: &Value, schema: &str) {
    let schema: Value = serde_json::from_str(schema).expect("JSON");
    let schema = jsonschema::draft202012::new(&schema).expect("a schema");
    let faults: Vec<String> = schema
        .iter_errors(answer)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert_eq!(faults, [""; 0]);
}

fn show_tells_whose_everything_is(b: &TestBox) {
    let node = Node::new(b);
    node.add("web-1", PORT);
    node.add("db", PORT + 1);
    let all = show(&node, &[]);
    let ids = |list: &Value| -> Vec<String> {
        let mut ids: Vec<String> = list
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one.pointer("/owner/containerID").unwrap_or(&one["containerID"]))
            .map(|id| id.as_str().expect("an ID").to_owned())
            .collect();
        ids.sort();
        ids.dedup();
        ids
    };
    for list in ["ports", "limits", "admitted", "attachments"] {
        assert_eq!(ids(&all[list]), ["db", "web-1"], "{list}");
    }
    assert!(
        all["ports"].as_array().expect("a list").iter().all(|port| port["state"] == "in force")
    );

    let port = show(&node, &[&PORT.to_string()]);
    assert_eq!(ids(&port["ports"]), ["web-1"]);
    assert_eq!(ids(&port["attachments"]), ["web-1"]);
    let by_prefix = show(&node, &["we"]);
    for list in ["ports", "limits", "admitted", "attachments"] {
        assert_eq!(ids(&by_prefix[list]), ["web-1"], "{list}");
    }
    assert_eq!(by_prefix["attachments"][0]["netns"], "/run/netns/web-1");
    assert_eq!(show(&node, &["10.88.1.2"]), by_prefix, "its address");
    assert_eq!(show(&node, &["podnet/web-1/eth0"]), by_prefix);
    assert_eq!(show(&node, &[NAME])["ports"], all["ports"]);
    assert_eq!(show(&node, &["9/sctp"])["ports"], serde_json::json!([]));
    let (status, _, stderr) = outcome(&mut node.cni_chain(&["show", "nobody"]));
    assert_eq!(status, Some(1));
    assert!(stderr.contains("nothing here is called \"nobody\""), "{stderr}");
}

fn show_tells_what_is_missing_and_who_else_has_a_port(b: &TestBox) {
    let node = Node::new(b);
    node.add("old", PORT);
    node.add("new", PORT);
    run(tool("iptables").args([
        "-t",
        "nat",
        "-A",
        "PREROUTING",
        "-p",
        "tcp",
        "--dport",
        "8080",
        "-j",
        "REDIRECT",
        "--to-ports",
        "1",
    ]));
    let _listener = std::net::TcpListener::bind(("0.0.0.0", PORT)).expect("a socket of the host's");
    let shown = show(&node, &["8080/tcp"]);
    let states = |shown: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ports = shown["ports"].as_array().expect("a list").iter();
        let v4 = ports.filter(|port| !text(&port["containerAddress"]).contains(':'));
        v4.map(|port| (text(&port["owner"]["containerID"]), text(&port["state"]))).collect()
    };
    let pair = |id: &str, state: &str| (id.to_owned(), state.to_owned());
    assert_eq!(states(&shown), [pair("old", "waiting"), pair("new", "in force")]);
    assert_eq!(shown["ports"][0]["heldBy"]["containerID"], "new");
    assert_eq!(shown["listeners"][0]["pid"], std::process::id());
    let rule = shown["translations"][0]["rule"].as_str().expect("a rule");
    assert!(rule.starts_with("PREROUTING -p tcp") && rule.ends_with("--to-ports 1"), "{rule}");
    assert_eq!(shown["translations"].as_array().map(Vec::len), Some(1), "none of ours");

    run(tool("nft").args(["delete", "table", "inet", "cni_portmap"]));
    let shown = show(&node, &["8080/tcp"]);
    assert_eq!(states(&shown), [pair("old", "missing"), pair("new", "missing")]);

    run(tool("ip").args(["netns", "del", "new"]));
    std::fs::remove_file(format!("/var/lib/cni/results/{NAME}-old-eth0")).expect("the file");
    let shown = show(&node, &[]);
    let containers: Vec<(&str, &str)> = shown["attachments"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| Some((one["containerID"].as_str()?, one["container"].as_str()?)))
        .collect();
    assert_eq!(containers, [("new", "gone"), ("old", "not in the cache")]);
}

/// Also without the cache, which podman and others have elsewhere.
fn show_tells_what_waits_in_the_kernel(b: &TestBox) {
    let node = Node::new(b);
    for id in ["first", "second", "third"] {
        node.add(id, PORT);
    }
    let standing = |node: &Node| -> Vec<(String, String, String)> {
        let shown = show(node, &["8080/tcp"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ports = shown["ports"].as_array().expect("a list").iter();
        let v4 = ports.filter(|port| !text(&port["containerAddress"]).contains(':'));
        let of = |port: &Value| {
            let [owner, holder] = ["owner", "heldBy"].map(|key| text(&port[key]["containerID"]));
            (owner, text(&port["state"]), holder)
        };
        v4.map(of).collect()
    };
    let row = |owner: &str, state: &str, holder: &str| {
        (owner.to_owned(), state.to_owned(), holder.to_owned())
    };
    let expected = [
        row("first", "waiting", "third"),
        row("second", "waiting", "third"),
        row("third", "in force", ""),
    ];
    assert_eq!(standing(&node), expected);
    for id in ["first", "second", "third"] {
        std::fs::remove_file(format!("/var/lib/cni/results/{NAME}-{id}-eth0")).expect("the file");
    }
    assert_eq!(standing(&node), expected, "the kernel alone");
    let shown = run(&mut node.cni_chain(&["show", "8080/tcp"]));
    assert!(shown.contains("waiting: podnet/third/eth0 has it"), "{shown}");
}

/// What every reader sees of a host that had these plugins.
fn traces(b: &TestBox) -> String {
    let links = run(tool("ip").args(["-o", "link", "show", "type", "ifb"]));
    let state = std::fs::read_dir("/run/cni/tuning").map_or(0, Iterator::count);
    let qdiscs = run(tool("tc").args(["qdisc", "show"]));
    let limits: Vec<&str> =
        qdiscs.lines().filter(|line| line.contains("tbf") || line.contains("clsact")).collect();
    let localnet = std::fs::read_to_string("/proc/sys/net/ipv4/conf/br1/route_localnet");
    format!("{}{links}{limits:?}{state} files, route_localnet {localnet:?}", b.ruleset())
}

fn purge_takes_out_what_it_is_asked_for(b: &TestBox) {
    let node = Node::new(b);
    let (_web, web) = node.add("web", PORT);
    node.add("db", PORT + 1);
    let full = traces(b);
    assert!(full.contains("tbf"), "{full}");

    let (status, _, stderr) = outcome(&mut node.cni_chain(&["purge"]));
    assert_eq!(status, Some(2), "{stderr}");
    let (status, stdout, stderr) = outcome(&mut node.cni_chain(&["purge", "--all"]));
    assert_eq!(status, Some(1));
    assert!(stdout.contains("2 of these live: "), "{stdout}");
    assert!(stdout.contains("`cni-chain restore` gives it all back"), "{stdout}");
    assert!(stderr.contains("no terminal to ask at; add --yes"), "{stderr}");
    for (cache, words) in [
        ("/run/none", "2 of these may live: "),
        ("/run/none", "`cni-chain restore` knows nothing of them"),
        ("/run/one", "1 of these live, and 1 may, which the cache knows nothing of: "),
    ] {
        sh(&format!("mkdir -p {cache}/results"));
        if cache == "/run/one" {
            sh(&format!("cp /var/lib/cni/results/{NAME}-web-eth0 {cache}/results"));
        }
        let (_, stdout, _) =
            outcome(&mut node.cni_chain(&["purge", "--all", "--cache-dir", cache]));
        assert!(stdout.contains(words), "{stdout}");
    }
    let dry = run(&mut node.cni_chain(&["purge", "--all", "--dry-run"]));
    assert!(dry.ends_with("2 attachments would lose all of that\n"), "{dry}");
    assert!(
        dry.contains("podnet/web/eth0: 4 host ports, 2 limits, 2 admitted addresses\n"),
        "{dry}"
    );
    assert_eq!(traces(b), full);
    node.serves("web", PORT);

    run(&mut node.cni_chain(&["purge", "--container-id", "we", "--yes"]));
    assert!(!b.ruleset().contains("podnet/web/eth0"));
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT);
    node.serves("db", PORT + 1);

    // The plugins need not be there any more.
    let mut without = node.cni_chain(&["purge", "--network", NAME, "--yes"]);
    let printed = run(without.env("CNI_PATH", "/nowhere"));
    assert!(printed.ends_with("removed from 1 attachment\n"), "{printed}");
    let left = traces(b);
    assert!(left.ends_with("[]0 files, route_localnet Ok(\"0\\n\")"), "{left}");
    // iptables' own chains stay where its tables have been used.
    let made = ["CNI-", "cni_", NAME];
    assert!(!made.iter().any(|name| left.contains(name)), "{left}");
    assert_eq!(run(&mut node.cni_chain(&["purge", "--all", "-y"])), "removed from 0 attachments\n");

    run(&mut node.cni_chain(&["restore"]));
    node.serves("web", PORT);
    node.serves("db", PORT + 1);
    assert!(node.is_sound(&web));
}

fn what_a_newer_version_left_is_told_and_left_alone(b: &TestBox) {
    const TABLE: &str = "inet cni_portmap";
    let node = Node::new(b);
    node.add("web", PORT);
    newer::renumber_table(TABLE);
    newer::renumber_table("inet cni_firewall");
    for ifb in tc::ifbs() {
        newer::number_alias(&ifb, &format!("{NAME}/web/eth0"));
    }
    let before = b.state();
    for (arguments, status) in
        [(vec!["show"], 1), (vec!["restore"], 1), (vec!["purge", "--all", "--yes"], 1)]
    {
        let (found, stdout, stderr) = outcome(&mut node.cni_chain(&arguments));
        assert_eq!(found, Some(status));
        let said = format!("{stdout}{stderr}");
        assert!(said.contains(TABLE) && said.contains("layout 9"), "{said}");
        assert_eq!(b.state(), before, "{said}");
    }
    node.serves("web", PORT);
}

/// The runtime has deleted it; the bridge and the guard stayed, in case that another comes.
fn purge_after_the_last_container_leaves_no_loopback_open(b: &TestBox) {
    let node = Node::new(b);
    let (_web, web) = node.add("web", PORT);
    let purge = || run(&mut node.cni_chain(&["purge", "--all", "--yes"]));
    node.runner().del(&node.list, &web).expect("DEL");
    cni_testbox::batch(&["link add other type veth", "link set other master br1 up"]);
    assert_eq!(purge(), "removed from 0 attachments\n");
    let left = traces(b);
    assert!(left.ends_with("route_localnet Ok(\"1\\n\")"), "another container's, perhaps: {left}");
    cni_testbox::batch(&["link del other"]);
    assert_eq!(
        purge(),
        "/proc/sys/net/ipv4/conf/br1/route_localnet is 0 again\nremoved from 0 attachments\n"
    );
    let left = traces(b);
    assert!(left.ends_with("route_localnet Ok(\"0\\n\")"), "{left}");
    assert!(!["CNI-", "cni_", NAME].iter().any(|name| left.contains(name)), "{left}");
}

fn purge_leaves_what_others_made(b: &TestBox) {
    let go = Node::with(b, cni_testbox::Implementation::Go, None);
    let others = "table inet mine {\nchain forward { type filter hook forward priority 0; }\n}\n";
    cni_testbox::feed(tool("nft").args(["-f", "-"]), others);
    let node = Node::new(b);
    node.add("web", PORT);
    run(&mut node.cni_chain(&["purge", "--all", "--yes"]));
    assert!(b.ruleset().contains("table inet mine"));
    go.add("go", PORT);
    go.serves("go", PORT);
}
