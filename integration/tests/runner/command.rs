//! The `cni-chain` command.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::spies::{Stage, fails, says};

/// The command on a stage, in an environment without any CNI variable.
fn command(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cni-chain"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CNI_")) {
        command.env_remove(name);
    }
    command.env_remove("CAP_ARGS");
    command.env("NETCONFPATH", stage.conf_dir()).env("CNI_PATH", stage.plugin_dir());
    command.args(arguments);
    if arguments[0] != "version" {
        command.arg("--cache-dir").arg(stage.cache_dir());
    }
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("cni-chain can be executed");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

fn succeed(command: &mut Command) -> String {
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    stdout
}

fn fail(command: &mut Command) -> String {
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.starts_with("cni-chain: "), "{stderr}");
    stderr
}

/// A stage with a network `net` of `a` and of `b`, which takes port mappings.
fn stage() -> Stage {
    let stage = Stage::new(&["a", "b"]);
    let plugins = json!([{"type": "a"}, {"type": "b", "capabilities": {"portMappings": true}}]);
    let list = json!({"cniVersion": "1.1.0", "name": "net", "plugins": plugins});
    stage.configure("net.conflist", &list.to_string());
    stage
}

#[test]
fn rs28_a_successful_plugins_stderr_is_forwarded() {
    let stage = stage();
    stage.tell("a", &json!({"ADD": {"stdout": "{}", "stderr": "a warning\n"}}));
    let (status, _, stderr) = run(&mut command(&stage, &["add", "net", "x"]));
    assert_eq!((status, stderr.as_str()), (Some(0), "a warning\n"));
}

#[test]
fn rs22_inherited_variables_are_overridden() {
    let stage = stage();
    let mut command = command(&stage, &["add", "net", "x", "--container-id", "c1"]);
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS"] {
        command.env(name, "inherited");
    }
    command.env("SPY_INHERITED", "yes");
    succeed(&mut command);
    let env = &stage.calls()[0].env;
    assert_eq!(env["CNI_COMMAND"], "ADD");
    assert_eq!(env["CNI_CONTAINERID"], "c1");
    assert_eq!(env["CNI_NETNS"], "/run/netns/x");
    assert_eq!(env["CNI_ARGS"], "");
    assert_eq!(env["SPY_INHERITED"], "yes");
}

#[test]
fn rs51_a_life_of_an_attachment() {
    let stage = stage();
    let result = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]});
    stage.tell("b", &json!({"ADD": says(&result)}));
    let netns = "/var/run/netns/testing";
    let printed = succeed(&mut command(&stage, &["add", "net", netns]));
    assert!(printed.starts_with("{\n    \"cniVersion\": \"1.1.0\",\n"), "{printed}");
    assert!(printed.ends_with("}\n"), "{printed}");
    assert_eq!(serde_json::from_str::<Value>(&printed).expect("JSON"), result);
    assert_eq!(stage.remembered(), ["net-cnitool-77383ca0a0715733ca6f-eth0"]);
    assert_eq!(succeed(&mut command(&stage, &["check", "net", netns])), "");
    assert_eq!(succeed(&mut command(&stage, &["status", "net", netns])), "a: ok\nb: ok\n");
    assert_eq!(succeed(&mut command(&stage, &["del", "net", netns])), "");
    assert!(stage.remembered().is_empty());
    assert_eq!(
        stage.order(),
        ["a ADD", "b ADD", "a CHECK", "b CHECK", "a STATUS", "b STATUS", "b DEL", "a DEL"]
    );
    assert_eq!(stage.calls()[0].env["CNI_NETNS"], netns);
    assert_eq!(stage.calls()[0].env["CNI_IFNAME"], "eth0");
}

#[test]
fn rs51_settings_from_the_environment_and_from_options() {
    let stage = stage();
    let mut by_environment = command(&stage, &["add", "net", "x"]);
    by_environment
        .env("CNI_IFNAME", "net1")
        .env("CNI_ARGS", "A=1;B=2")
        .env("CAP_ARGS", r#"{"portMappings":[{"hostPort":1}]}"#);
    succeed(&mut by_environment);
    let mut by_option = command(&stage, &["add", "net", "x", "-i", "net2", "--args", "C=3"]);
    by_option.args(["--cap-args", r#"{"portMappings":[]}"#]).env("CNI_IFNAME", "net1");
    succeed(&mut by_option);
    let mut empty = command(&stage, &["add", "net", "x"]);
    empty.env("CNI_IFNAME", "").env("CNI_ARGS", "").env("CAP_ARGS", "");
    succeed(&mut empty);
    let calls = stage.calls();
    let seen: Vec<(&str, &str, Value)> = calls
        .iter()
        .filter(|call| call.plugin == "b")
        .map(|call| {
            let ports = call.stdin()["runtimeConfig"]["portMappings"].clone();
            (call.env["CNI_IFNAME"].as_str(), call.env["CNI_ARGS"].as_str(), ports)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("net1", "A=1;B=2", json!([{"hostPort": 1}])),
            ("net2", "C=3", json!([])),
            ("eth0", "", Value::Null)
        ]
    );
}

#[test]
fn rs51_bad_arguments() {
    let stage = stage();
    for (arguments, text) in [
        (&["--args", "A"][..], r#"invalid CNI_ARGS pair "A""#),
        (&["--args", "A=1;"], r#"invalid CNI_ARGS pair """#),
        (&["--args", "A=B=C"], r#"invalid CNI_ARGS pair "A=B=C""#),
        (&["--args", "A="], r#"invalid CNI_ARGS pair "A=""#),
        (&["--cap-args", "{"], "CAP_ARGS must be a JSON object: "),
        (&["--cap-args", "[]"], "CAP_ARGS must be a JSON object, but is a list"),
        (
            &["--cap-args", r#"{"portMappings":{}}"#, "-p", "1:1"],
            "portMappings in CAP_ARGS must be a list",
        ),
    ] {
        let error = fail(command(&stage, &["add", "net", "x"]).args(arguments));
        assert!(error.contains(text), "{error}");
    }
    for arguments in [&["add"][..], &["add", "net"], &["frob"], &["add", "net", "x", "-p", "80"]] {
        let (status, _, stderr) = run(&mut command(&stage, arguments));
        assert_eq!(status, Some(2), "{stderr}");
    }
    assert!(stage.order().is_empty());
}

#[test]
fn rs51_failures_are_one_message_and_status_1() {
    let stage = stage();
    stage.tell("a", &json!({"ADD": fails(7, "bad"), "CHECK": fails(100, "gone")}));
    assert_eq!(
        fail(&mut command(&stage, &["add", "net", "x"])),
        "cni-chain: plugin type=\"a\" failed (add): bad\n"
    );
    assert_eq!(fail(&mut command(&stage, &["check", "net", "x"])), "cni-chain: gone\n");
    assert_eq!(
        fail(&mut command(&stage, &["add", "unknown", "x"])),
        format!(
            "cni-chain: no net configuration with name \"unknown\" in {}; choose the directory \
             with --conf-dir or NETCONFPATH, or name a file\n",
            stage.conf_dir().display()
        )
    );
    let error = fail(&mut command(&stage, &["del", "net", ""]));
    assert!(error.contains("--container-id is needed"), "{error}");
}

#[test]
fn a_network_by_path() {
    let stage = stage();
    let path = stage.configure("elsewhere/my.conf", r#"{"name":"mine","type":"a"}"#);
    let path = path.to_str().expect("UTF-8");
    succeed(&mut command(&stage, &["add", path, "x", "--container-id", "c1"]));
    assert_eq!(stage.remembered(), ["mine-c1-eth0"]);
    let mut relative = command(&stage, &["del", "my.conf", "x", "--container-id", "c1"]);
    succeed(relative.current_dir(stage.conf_dir().join("elsewhere")));
    assert!(stage.remembered().is_empty());
}

#[test]
fn published_ports_are_port_mappings() {
    let stage = stage();
    let mut add = command(&stage, &["add", "net", "x", "-p", "[::1]:53-54:1053-1054/udp"]);
    succeed(add.args(["--cap-args", r#"{"portMappings":[{"hostPort":1,"containerPort":1}]}"#]));
    let ports = json!([
        {"hostPort": 1, "containerPort": 1},
        {"hostPort": 53, "containerPort": 1053, "protocol": "udp", "hostIP": "::1"},
        {"hostPort": 54, "containerPort": 1054, "protocol": "udp", "hostIP": "::1"},
    ]);
    let calls = stage.calls();
    assert_eq!(calls[0].stdin().get("runtimeConfig"), None, "a takes none");
    assert_eq!(calls[1].stdin()["runtimeConfig"]["portMappings"], ports);

    let plain = json!({"cniVersion": "1.0.0", "name": "plain", "plugins": [{"type": "a"}]});
    stage.configure("plain.conflist", &plain.to_string());
    let error = fail(&mut command(&stage, &["add", "plain", "x", "-p", "1:1"]));
    assert!(error.contains("no plugin of network \"plain\" declares the capability"), "{error}");
}

#[test]
fn check_and_del_see_what_add_was_given() {
    let stage = stage();
    let add = ["add", "net", "x", "-p", "8080:80", "--args", "A=1"];
    succeed(&mut command(&stage, &add));
    succeed(&mut command(&stage, &["check", "net", "x"]));
    succeed(&mut command(&stage, &["check", "net", "x", "-p", "1:1", "--args", "B=2"]));
    succeed(&mut command(&stage, &["del", "net", "x"]));
    let calls = stage.calls();
    let seen: Vec<(&str, &str, Value)> = calls
        .iter()
        .filter(|call| call.plugin == "b")
        .map(|call| {
            let port = call.stdin()["runtimeConfig"]["portMappings"][0]["hostPort"].clone();
            (call.command.as_str(), call.env["CNI_ARGS"].as_str(), port)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("ADD", "A=1", json!(8080)),
            ("CHECK", "A=1", json!(8080)),
            ("CHECK", "B=2", json!(1)),
            ("DEL", "A=1", json!(8080)),
        ]
    );
}

#[test]
fn a_namespace_that_is_gone() {
    let stage = stage();
    succeed(&mut command(&stage, &["del", "net", "", "--container-id", "c1"]));
    assert_eq!(stage.calls()[0].env["CNI_NETNS"], "");
}

#[test]
fn gc_keeps_what_it_is_told_to_keep() {
    let stage = stage();
    for id in ["c1", "c2"] {
        succeed(&mut command(&stage, &["add", "net", "x", "--container-id", id]));
    }
    stage.forget_calls();
    let printed = succeed(&mut command(&stage, &["gc", "net", "--keep", "c2/eth0"]));
    let why = "there is no network namespace at /run/netns/x";
    assert_eq!(printed, format!("net/c1/eth0: deleted: {why}\nnetwork net: 1 deleted, 1 kept\n"));
    assert_eq!(stage.remembered(), ["net-c2-eth0"]);
    assert_eq!(stage.order(), ["b DEL", "a DEL", "a GC", "b GC"]);
    let kept = json!([{"containerID": "c2", "ifname": "eth0"}]);
    assert_eq!(stage.calls()[2].stdin()["cni.dev/valid-attachments"], kept);

    stage.forget_calls();
    let would = succeed(&mut command(&stage, &["gc", "net", "--dry-run"]));
    assert_eq!(would, format!("net/c2/eth0: would delete: {why}\nnetwork net: 1 to delete\n"));
    assert!(stage.order().is_empty());
    succeed(&mut command(&stage, &["gc", "net", "/run/netns/ignored"]));
    assert!(stage.remembered().is_empty());
    assert_eq!(stage.order(), ["b DEL", "a DEL"], "nobody said what is valid");

    stage.forget_calls();
    let would = succeed(&mut command(&stage, &["gc", "net", "--keep-none", "-n"]));
    assert!(would.starts_with("a: would be asked to remove all that is not kept\n"), "{would}");
    succeed(&mut command(&stage, &["gc", "net", "--keep-none"]));
    assert_eq!(stage.order(), ["a GC", "b GC"]);
    assert_eq!(stage.calls()[0].stdin()["cni.dev/valid-attachments"], json!([]));
}

#[test]
fn gc_goes_on_after_a_failure_and_tells_everything() {
    let stage = stage();
    for id in ["c1", "c2"] {
        succeed(&mut command(&stage, &["add", "net", "x", "--container-id", id]));
    }
    let unreadable = stage.remember("net-c3-eth0", "{");
    stage.tell("a", &json!({"DEL": fails(11, "busy")}));
    let (status, stdout, stderr) = run(&mut command(&stage, &["gc", "net"]));
    assert_eq!(status, Some(1));
    let lines: Vec<&str> = stdout.lines().collect();
    for (line, start) in lines.iter().zip([
        "net/c1/eth0: failed: plugin type=\"a\" failed (delete): busy",
        "net/c2/eth0: failed: plugin type=\"a\" failed (delete): busy",
        &format!("{}: kept, but not looked at: ", unreadable.display()),
        "network net: 3 failed",
    ]) {
        assert!(line.starts_with(start), "{stdout}");
    }
    assert_eq!(lines.len(), 4);
    assert!(stderr.starts_with("cni-chain: not everything could be"), "{stderr}");
    assert_eq!(stage.remembered().len(), 3);
}

#[test]
fn gc_that_is_disabled_deletes_nothing() {
    let stage = stage();
    succeed(&mut command(&stage, &["add", "net", "x", "--container-id", "c1"]));
    let list = json!({"cniVersion": "1.1.0", "name": "net", "disableGC": true,
        "plugins": [{"type": "a"}]});
    stage.configure("net.conflist", &list.to_string());
    let printed = succeed(&mut command(&stage, &["gc", "net"]));
    assert_eq!(printed, "network net has \"disableGC\": nothing is deleted\n");
    assert_eq!(stage.remembered().len(), 1);
}

#[test]
fn what_to_delete_must_be_there() {
    let stage = stage();
    let error = fail(&mut command(&stage, &["gc", "net", "--delete", "c1/eth0"]));
    assert!(error.contains("--delete c1/eth0: no such attachment to network net"), "{error}");
}

#[test]
fn without_its_configuration_the_cache_has_it() {
    let stage = stage();
    for id in ["3f2a9c", "3f77"] {
        succeed(&mut command(&stage, &["add", "net", "x", "--container-id", id]));
    }
    fs::remove_file(stage.conf_dir().join("net.conflist")).expect("a configuration");
    stage.forget_calls();
    succeed(&mut command(&stage, &["check", "net", "x", "--container-id", "3f2"]));
    succeed(&mut command(&stage, &["del", "net", "", "--container-id", "3f2"]));
    assert_eq!(stage.remembered(), ["net-3f77-eth0"]);
    assert_eq!(stage.order(), ["a CHECK", "b CHECK", "b DEL", "a DEL"]);
    assert_eq!(stage.calls()[0].env["CNI_CONTAINERID"], "3f2a9c");

    let printed = succeed(&mut command(&stage, &["gc", "net", "--keep", "3f77/eth0"]));
    assert_eq!(
        printed,
        "the plugins were not asked: the network's configuration is not there\n\
         network net: 1 kept\n"
    );
    succeed(&mut command(&stage, &["gc", "net"]));
    assert!(stage.remembered().is_empty());
    let error = fail(&mut command(&stage, &["del", "net", "x"]));
    assert!(error.contains("no net configurations found"), "{error}");
}

#[test]
fn an_id_that_begins_two_is_refused() {
    let stage = stage();
    for id in ["3f2a9c", "3f77"] {
        succeed(&mut command(&stage, &["add", "net", "x", "--container-id", id]));
    }
    stage.forget_calls();
    for arguments in [
        &["del", "net", "", "--container-id", "3f"][..],
        &["check", "net", "", "--container-id", "3f"],
        &["gc", "net", "--keep", "3f/eth0"],
        &["restore", "--container-id", "3f"],
    ] {
        let error = fail(&mut command(&stage, arguments));
        assert!(error.contains("2 container IDs begin with \"3f\": 3f2a9c, 3f77"), "{error}");
    }
    assert!(stage.order().is_empty());
    // A runtime may name a container that nobody remembers.
    succeed(&mut command(&stage, &["del", "net", "", "--container-id", "9"]));
    assert_eq!(stage.calls()[0].env["CNI_CONTAINERID"], "9");
}

#[test]
fn status_tells_of_every_plugin() {
    let stage = Stage::new(&["a", "b", "portmap"]);
    let ours = "CNI portmap plugin v2.0.0\nPart of cni-chain\n";
    let backend = "backend nftables: it works";
    let status = json!({"stderr": format!("{backend}\n")});
    stage.tell("portmap", &json!({"": {"stdout": ours}, "STATUS": status}));
    stage.tell("b", &json!({"STATUS": fails(50, "no backend")}));
    let list = |version: &str| {
        let plugins =
            json!([{"type": "a"}, {"type": "b"}, {"type": "nobody"}, {"type": "portmap"}]);
        let list = json!({"cniVersion": version, "name": "net", "plugins": plugins});
        stage.configure("net.conflist", &list.to_string());
    };
    list("1.1.0");
    let (status, stdout, stderr) = run(&mut command(&stage, &["status", "net"]));
    assert_eq!(status, Some(1));
    let missing = format!(
        "nobody: failed: failed to find plugin \"nobody\" in path [{}]\n",
        stage.plugin_dir().display()
    );
    assert_eq!(stdout, format!("a: ok\nb: failed: no backend\n{missing}portmap: ok, {backend}\n"));
    assert_eq!(stderr, "cni-chain: 2 of the 4 plugins of network net could not serve add\n");

    // A plugin that does not know the question answers something else.
    let known = r#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}"#;
    let answers = json!({"STATUS": fails(4, "missing containerID"), "VERSION": {"stdout": known}});
    stage.tell("b", &answers);
    let (_, stdout, _) = run(&mut command(&stage, &["status", "net"]));
    let words = "b does not know cniVersion \"1.1.0\" of this list: it knows 0.4.0, 1.0.0\n";
    assert!(
        stdout.contains(&format!("b: failed: {}/{words}", stage.plugin_dir().display())),
        "{stdout}"
    );

    list("1.0.0");
    stage.forget_calls();
    let (status, stdout, _) = run(&mut command(&stage, &["status", "net"]));
    assert_eq!(status, Some(1));
    let why = "that needs cniVersion 1.1.0, and the list has 1.0.0";
    assert_eq!(
        stdout,
        format!(
            "a: not asked: {why}\nb: not asked: {why}\n{missing}portmap: ok, {backend}\n\
             Runtimes do not ask: the list's cniVersion is \"1.0.0\", and STATUS came with 1.1.0.\n"
        )
    );
    let asked: Vec<String> =
        stage.order().into_iter().filter(|call| call.contains("STATUS")).collect();
    assert_eq!(asked, ["portmap STATUS"]);
    let call = stage.calls().pop().expect("a call");
    assert_eq!(call.stdin()["cniVersion"], "1.1.0");
}

#[test]
fn versions_of_the_plugins() {
    let stage = Stage::new(&["portmap", "tuning"]);
    let banner = "CNI portmap plugin v1.9.1\nCNI protocol versions supported: 1.0.0\n";
    // Without a command, the instructions are those of the empty one.
    stage.tell("portmap", &json!({"": {"stderr": banner}}));
    stage.tell("tuning", &json!({"": {"stderr": "broken", "exit": 3}}));
    let path = stage.plugin_dir().display().to_string();
    assert_eq!(
        succeed(&mut command(&stage, &["version"])),
        format!(
            "cni-chain v{}\n\
             portmap: {path}/portmap\n    \
                 CNI portmap plugin v1.9.1\n    \
                 CNI protocol versions supported: 1.0.0\n\
             bandwidth: failed to find plugin \"bandwidth\" in path [{path}]\n\
             tuning: {path}/tuning\n    \
                 netplugin failed: \"broken\": exit status 3\n\
             firewall: failed to find plugin \"firewall\" in path [{path}]\n",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn plugins_beside_the_command_are_found_without_a_path() {
    let stage = stage();
    let copy = stage.plugin_dir().join("cni-chain");
    // By another process: what this one writes, a child that another test starts at that moment has open, too, and
    // a program that is open for writing cannot be run.
    let status = Command::new("cp").arg(env!("CARGO_BIN_EXE_cni-chain")).arg(&copy).status();
    assert!(status.expect("cp").success());
    let mut installed = Command::new(copy);
    installed.args(["status", "net"]).env("NETCONFPATH", stage.conf_dir()).env("CNI_PATH", "");
    succeed(&mut installed);
    assert_eq!(stage.order(), ["a STATUS", "b STATUS"]);
}
