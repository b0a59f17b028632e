//! The plugin's side of the CNI protocol; the numbers are those of the conformance list.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::host::{Answer, Call, Host};

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const ALL_COMMANDS: [&str; 5] = ["ADD", "DEL", "CHECK", "GC", "STATUS"];

/// A valid configuration of the newest version, changed by `changes`.
fn config(changes: Value) -> String {
    let mut config = json!({
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "portmap",
        "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]}
    });
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    config.as_object_mut().expect("object").extend(changes);
    config.to_string()
}

fn refused_here(call: Call, context: &str) -> (u64, String, String) {
    let refusal = call.run_here().refusal(context);
    (refusal.code, refusal.msg, refusal.details)
}

fn assert_banner(answer: &Answer) {
    assert_eq!((answer.status, answer.stdout.as_str()), (Some(0), ""));
    let lines: Vec<&str> = answer.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            concat!("CNI portmap plugin v", env!("CARGO_PKG_VERSION")),
            "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
        ]
    );
}

#[test]
fn ps01_ps02_without_a_command_it_says_what_it_is() {
    assert_banner(&Call::bare().run_here());
    assert_banner(&Call::bare().set("CNI_COMMAND", "").run_here());
    assert_banner(&Call::new("", config(json!({}))).run_here());
}

#[test]
fn ps03_ps04_version_needs_neither_stdin_nor_variables() {
    let expected = json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS});
    for stdin in ["", "{{{", "garbage", &config(json!({}))] {
        assert_eq!(Call::new("VERSION", stdin).run_here().result("VERSION"), expected);
    }
    let bare = Call::bare().set("CNI_COMMAND", "VERSION");
    assert_eq!(bare.clone().run_here().result("bare VERSION"), expected);

    // An open and silent pipe; timeout(1) ends a plugin that waits for it.
    let mut guarded = Command::new("timeout");
    guarded.args(["20", "env"]);
    let mut command = bare.command(guarded);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("the plugin can be run");
    let open_end = child.stdin.take().expect("piped");
    let answer = Answer::from(child.wait_with_output().expect("it ends with stdin still open"));
    assert_eq!(answer.result("VERSION with silent stdin"), expected);
    drop(open_end);
}

#[test]
fn ps05_ps06_ps08_ps15_missing_variables_are_named_in_order() {
    let needed = |command: &str| -> Vec<&'static str> {
        match command {
            "ADD" | "CHECK" => vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            "DEL" => vec!["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            _ => vec!["CNI_PATH"],
        }
    };
    for command in ALL_COMMANDS {
        for name in needed(command) {
            let expected = (4, format!("required env variables [{name}] missing"), String::new());
            let call = Call::new(command, config(json!({})));
            assert_eq!(refused_here(call.clone().unset(name), command), expected);
            assert_eq!(refused_here(call.set(name, ""), command), expected);
        }
        let all = needed(command).join(",");
        let call = Call::bare().set("CNI_COMMAND", command);
        let expected = (4, format!("required env variables [{all}] missing"), String::new());
        assert_eq!(refused_here(call, command), expected);
    }
}

#[test]
fn ps07_args_are_optional() {
    let host = Host::new();
    let call = Call::new("ADD", config(json!({}))).unset("CNI_ARGS");
    host.run(call).result("without CNI_ARGS");
}

#[test]
fn ps09_gc_and_status_ignore_the_attachments_variables() {
    let host = Host::new();
    for command in ["GC", "STATUS"] {
        let stdin = config(json!({"cni.dev/valid-attachments": []}));
        let odd = Call::new(command, stdin.clone())
            .set("CNI_CONTAINERID", "a/b")
            .set("CNI_IFNAME", "a b")
            .set("CNI_NETNS", "");
        host.run(odd).silence(command);
        let least = Call::bare().set("CNI_COMMAND", command).set("CNI_PATH", "/opt/cni/bin");
        let refusal = host.run(least).refusal("empty stdin");
        assert_eq!(refusal.code, 6);
    }
}

#[test]
fn ps10_ps11_unknown_commands() {
    for command in ["NOPE", "add", "ADD ", "DEL\n"] {
        let call = Call::new(command, config(json!({})));
        let expected = (4, format!("unknown CNI_COMMAND: {command}"), String::new());
        assert_eq!(refused_here(call, command), expected);
        assert_eq!(refused_here(Call::new(command, ""), command).0, 6);
        assert_eq!(refused_here(Call::new(command, "{}"), command).0, 7);
    }
}

#[test]
fn ps12_container_ids() {
    for bad in ["a/b", "-a", ".a", "_a", "a b", "a\n", "a:b", "é"] {
        for command in ["ADD", "DEL", "CHECK"] {
            let call = Call::new(command, config(json!({}))).set("CNI_CONTAINERID", bad);
            let expected = (4, "invalid characters in containerID".to_owned(), bad.to_owned());
            assert_eq!(refused_here(call, bad), expected);
        }
    }
    let host = Host::new();
    for good in ["a", "A0_.-"] {
        host.run(Call::new("ADD", config(json!({}))).set("CNI_CONTAINERID", good)).result(good);
    }
}

#[test]
fn ps13_interface_names() {
    let characters = "interface name contains / or : or whitespace characters";
    for (bad, msg) in [
        ("0123456789abcdef", "interface name is too long"),
        ("éééééééé", "interface name is too long"),
        (".", "interface name is . or .."),
        ("..", "interface name is . or .."),
        ("a/b", characters),
        ("a:b", characters),
        ("a b", characters),
        ("a\u{a0}b", characters),
        ("a\n", characters),
    ] {
        for command in ["ADD", "DEL", "CHECK"] {
            let call = Call::new(command, config(json!({}))).set("CNI_IFNAME", bad);
            let (code, said, _) = refused_here(call, bad);
            assert_eq!((code, said.as_str()), (4, msg), "{bad:?}");
        }
    }
    let longest = Call::new("ADD", config(json!({}))).set("CNI_IFNAME", "0123456789abcde");
    Host::new().run(longest).result("15 bytes");
}

#[test]
fn ps14_a_bad_value_is_reported_before_a_missing_one() {
    let call = Call::new("ADD", config(json!({})))
        .unset("CNI_CONTAINERID")
        .unset("CNI_PATH")
        .set("CNI_IFNAME", "a/b");
    let (code, msg, _) = refused_here(call, "both");
    assert_eq!((code, msg.starts_with("interface name contains")), (4, true), "{msg}");
}

#[test]
fn ps20_stdin_that_is_no_json_object() {
    for stdin in ["", "  \n", "{{{", "[]", "\"x\"", "5", "{} x", "{\"name\":\"n\"}{}", "// c\n{}"] {
        for command in ALL_COMMANDS {
            let (code, msg, _) = refused_here(Call::new(command, stdin), stdin);
            assert_eq!((code, msg.contains("network config")), (6, true), "{stdin}: {msg}");
        }
    }
}

#[test]
fn ps21_ps22_network_names() {
    for stdin in ["null", "{}", r#"{"name":""}"#, r#"{"name":null}"#] {
        let expected = (7, "missing network name".to_owned(), String::new());
        assert_eq!(refused_here(Call::new("ADD", stdin), stdin), expected);
    }
    for name in ["te%%st", "a b", "n\n", "-n", "a/b"] {
        let (code, msg, details) =
            refused_here(Call::new("DEL", config(json!({"name": name}))), name);
        let said = "invalid characters found in network name";
        assert_eq!((code, msg.as_str(), details.as_str()), (7, said, name));
    }
    for wrong in [json!(5), json!(["n"]), json!({}), json!(true)] {
        let stdin = config(json!({"name": wrong}));
        assert_eq!(refused_here(Call::new("ADD", stdin.clone()), &stdin).0, 6);
    }
}

#[test]
fn ps23_a_stdin_that_cannot_be_read() {
    let call = Call::new("ADD", "").set("CNI_NETNS", "/proc/self/ns/net");
    let mut command = call.command(Command::new("env"));
    let directory = File::open("/").expect("the root directory");
    let output = command.stdin(directory).output().expect("the plugin can be run");
    let refusal = Answer::from(output).refusal("stdin is a directory");
    assert_eq!((refusal.code, refusal.msg.as_str()), (5, "error reading from stdin"));
}

#[test]
fn ps24_no_version_means_the_first() {
    let host = Host::new();
    for version in [json!(null), json!("")] {
        let stdin = config(json!({"cniVersion": version}));
        let result = host.run(Call::new("ADD", stdin)).result("no version");
        assert_eq!(result["cniVersion"], "0.1.0");
        assert_eq!(result["ip4"]["ip"], "10.0.0.2/24");
    }
}

#[test]
fn ps25_versions_match_exactly() {
    for version in ["9.9.9", "1.0", " 1.0.0", "abc", "1.2.0", "1.1.0-rc1"] {
        for command in ["ADD", "DEL"] {
            let stdin = config(json!({"cniVersion": version}));
            let supported: Vec<_> = VERSIONS.iter().map(|v| format!("{v:?}")).collect();
            let details =
                format!("config is {version:?}, plugin supports [{}]", supported.join(" "));
            let expected = (1, "incompatible CNI versions".to_owned(), details);
            assert_eq!(refused_here(Call::new(command, stdin), version), expected);
        }
    }
    for command in ALL_COMMANDS {
        let stdin = config(json!({"cniVersion": 1}));
        let (code, msg, _) = refused_here(Call::new(command, stdin), "a number");
        assert_eq!((code, msg.starts_with("decoding version from network config")), (6, true));
    }
}

#[test]
fn ps26_the_name_is_judged_first() {
    for command in ALL_COMMANDS {
        let stdin = config(json!({"name": "a b", "cniVersion": "9.9.9"}));
        assert_eq!(refused_here(Call::new(command, stdin), command).0, 7);
    }
}

#[test]
fn ps27_ps28_younger_commands_need_younger_versions() {
    for command in ["CHECK", "GC", "STATUS"] {
        let old = format!("config version does not allow {command}");
        let new = format!("plugin version does not allow {command}");
        let middle = if command == "CHECK" { "incompatible CNI versions" } else { &old };
        let fourth = if command == "CHECK" { "0.3.1" } else { "1.0.0" };
        for (version, code, msg) in [
            (json!(null), 1, old.as_str()),
            (json!("0.3.0"), 1, &old),
            (json!("0.3.1"), 1, &old),
            (json!(fourth), 1, &old),
            (json!("0.5.0"), 1, middle),
            (json!("1.2.0"), 1, &new),
            (json!("9.9.9"), 1, &new),
            (json!("abc"), 6, "failed to convert major version part"),
            (json!("1.0.0.0"), 6, "more than three parts"),
        ] {
            let stdin = config(json!({"cniVersion": version}));
            let (got, said, _) = refused_here(Call::new(command, stdin), command);
            assert!(got == code && said.contains(msg), "{command} {version}: {got} {said}");
        }
    }
    let host = Host::new();
    for command in ["GC", "STATUS"] {
        let stdin = config(json!({"cni.dev/valid-attachments": null}));
        host.run(Call::new(command, stdin)).silence(command);
    }
}

#[test]
fn ps29_keys_match_without_case_and_the_last_one_wins() {
    let host = Host::new();
    let stdin = r#"{"CNIVersion":"0.1.0","cniversion":"1.0.0","NAME":"net",
        "PREVRESULT":{"CniVersion":"1.0.0","IPS":[{"Address":"10.0.0.9/24","address":"10.0.0.2/24"}]}}"#;
    let result = host.run(Call::new("ADD", stdin)).result("other case");
    assert_eq!(result, json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}));
}

#[test]
fn ps30_nulls_and_unknown_keys() {
    let host = Host::new();
    let nulls = config(json!({
        "type": null, "capabilities": null, "ipam": null, "dns": null, "args": null,
        "runtimeConfig": null, "snat": null, "masqAll": null, "markMasqBit": null,
        "conditionsV4": null, "conditionsV6": null, "externalSetMarkChain": null,
        "backend": null, "onConflict": null, "logFile": null, "logLevel": null,
        "cni.dev/valid-attachments": null
    }));
    host.run(Call::new("ADD", nulls)).result("nulls");
    let odd = config(json!({
        "ipam": {}, "dns": {}, "args": {"cni": {"labels": []}}, "someone's": [{"else's": 1}],
        "runtimeConfig": {"portMappings": null, "bandwidth": {"IngressRate": 1}, "other": 5}
    }));
    host.run(Call::new("ADD", odd)).result("unknown keys");
}

#[test]
fn ps31_capabilities_are_booleans() {
    let host = Host::new();
    let good = config(json!({"capabilities": {"snat": true, "portMappings": true, "x": null}}));
    host.run(Call::new("ADD", good)).result("booleans");
    for bad in [json!({"portMappings": "yes"}), json!({"portMappings": 1}), json!([])] {
        let stdin = config(json!({"capabilities": bad}));
        let refusal = host.run(Call::new("ADD", stdin)).refusal("not a boolean");
        assert!(refusal.code == 7 && refusal.msg.starts_with("capabilities"), "{refusal:?}");
    }
}

#[test]
fn ps32_ps33_odd_and_large_strings() {
    let host = Host::new();
    let mut stdin = config(json!({"comment": "@@"})).into_bytes();
    let at = stdin.windows(2).position(|w| w == b"@@").expect("the comment");
    stdin[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
    host.run(Call::new("ADD", stdin)).result("invalid UTF-8");
    let large = config(json!({"comment": "x".repeat(5_000_000)}));
    host.run(Call::new("ADD", large)).result("5 MB");
}

/// A prevResult as rich as version `text` allows.
fn rich_result(version: &str) -> Value {
    let dns = json!({"nameservers": ["10.0.0.1"], "search": ["example"]});
    if version < "0.3.0" {
        return json!({
            "cniVersion": version,
            "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1",
                    "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]},
            "ip6": {"ip": "fd00::2/64"},
            "dns": dns
        });
    }
    let mut result = json!({
        "cniVersion": version,
        "interfaces": [{"name": "cni0", "mac": "02:00:00:00:00:01"},
                       {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/c"}],
        "ips": [{"interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.1"},
                {"interface": 0, "address": "fd00::2/64"},
                {"interface": -1, "address": "fd00::3/64"},
                {"address": "fd00::4/64"},
                {"interface": 99, "address": "fd00::5/64"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "table": 0, "scope": 0},
                   {"dst": "192.0.2.0/24", "mtu": 1400, "advmss": 1360, "priority": 5}],
        "dns": dns
    });
    if version < "1.0.0" {
        for (index, family) in [(0, "4"), (1, "6"), (2, "6"), (3, "6"), (4, "6")] {
            result["ips"][index]["version"] = family.into();
        }
    } else {
        result["interfaces"][1]["mtu"] = 1400.into();
        result["interfaces"][1]["socketPath"] = "/run/s".into();
        result["interfaces"][1]["pciID"] = "0000:00:1f.6".into();
    }
    result
}

#[test]
fn ps40_to_ps43_ps49_ps51_results_pass_through_in_every_version() {
    let host = Host::new();
    for version in VERSIONS {
        let previous = rich_result(version);
        let stdin = config(json!({"cniVersion": version, "prevResult": previous}));
        assert_eq!(host.run(Call::new("ADD", stdin)).result(version), previous);
    }
    // 0.4.0 always prints dns; 1.0.0 and newer only when there is something in it.
    for (version, dns) in [("0.2.0", true), ("0.4.0", true), ("1.0.0", false), ("1.1.0", false)] {
        let previous = json!({"ips": [{"address": "10.0.0.2/24"}], "dns": {}});
        let stdin = config(json!({"cniVersion": version, "prevResult": previous}));
        let result = host.run(Call::new("ADD", stdin)).result(version);
        assert_eq!(result.get("dns"), dns.then(|| json!({})).as_ref(), "{version}");
    }
    let stdin = config(json!({"cniVersion": "0.4.0", "prevResult": rich_result("1.1.0")}));
    let lowered = host.run(Call::new("ADD", stdin)).result("1.1.0 to 0.4.0");
    assert_eq!(lowered, {
        let mut expected = rich_result("0.4.0");
        expected["cniVersion"] = "0.4.0".into();
        expected
    });
}

#[test]
fn ps44_to_ps46_any_known_version_of_prev_result() {
    let host = Host::new();
    for (asked, given) in [
        ("1.1.0", Value::Null),
        ("0.2.0", Value::Null),
        ("1.1.0", json!("1.0.0")),
        // Go's plugins refuse these; a chain of mixed ages works with ours.
        ("0.4.0", json!("1.0.0")),
        ("1.0.0", json!("0.4.0")),
        ("1.0.0", json!("0.2.0")),
        ("0.1.0", json!("1.1.0")),
        ("1.0.0", json!("")),
    ] {
        let form = given.as_str().filter(|text| !text.is_empty()).unwrap_or(asked);
        let mut previous = rich_result(form);
        previous["cniVersion"] = given.clone();
        let stdin = config(json!({"cniVersion": asked, "prevResult": previous}));
        let context = format!("{asked} with prevResult {given}");
        let result = host.run(Call::new("ADD", stdin)).result(&context);
        assert_eq!(result["cniVersion"], asked, "{context}");
        let address =
            if asked < "0.3.0" { &result["ip4"]["ip"] } else { &result["ips"][0]["address"] };
        assert_eq!(*address, "10.0.0.2/24", "{context}");
    }
}

#[test]
fn ps47_ps48_empty_missing_and_broken_prev_results() {
    let host = Host::new();
    for version in ["1.0.0", "1.1.0"] {
        let stdin = config(json!({"cniVersion": version, "prevResult": {}}));
        let result = host.run(Call::new("ADD", stdin)).result("empty");
        assert_eq!(result, json!({"cniVersion": version}));
    }
    for command in ["ADD", "CHECK"] {
        let stdin = config(json!({"prevResult": null}));
        let refusal = host.run(Call::new(command, stdin)).refusal("none");
        assert!(refusal.code == 7 && refusal.msg.starts_with("must be called as chained plugin"));
        let stdin = config(json!({"prevResult": {"ips": [{"address": "10.0.0.2"}]}}));
        let refusal = host.run(Call::new(command, stdin)).refusal("bad CIDR");
        let place = "could not parse prevResult: ips[0].address must be";
        assert!(refusal.code == 7 && refusal.msg.starts_with(place), "{refusal:?}");
    }
}

/// The elements of portmap's map `name`, or nothing where there is no such map.
fn elements(host: &Host, name: &str) -> String {
    let ruleset = host.ruleset();
    let map = ruleset.split(&format!("map {name} {{")).nth(1).unwrap_or_default();
    map.split('}').take(2).collect()
}

#[test]
fn ps49_ps72_old_results_and_gos_key_spelling_are_mapped() {
    let host = Host::new();
    let mapping = json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
    let stdin = config(json!({
        "cniVersion": "0.2.0",
        "prevResult": rich_result("0.2.0"),
        "RuntimeConfig": {"PortMappings": mapping}
    }));
    let result = host.run(Call::new("ADD", stdin.clone())).result("0.2.0");
    assert_eq!(result, rich_result("0.2.0"));
    assert!(elements(&host, "by_port4").contains("tcp . 8080"), "{}", host.ruleset());
    assert!(elements(&host, "by_port4").contains("10.0.0.2 . 80"), "{}", host.ruleset());
    assert!(elements(&host, "by_port6").contains("fd00::2 . 80"), "{}", host.ruleset());
    host.run(Call::new("DEL", stdin)).silence("DEL");
    assert!(!host.ruleset().contains("8080"));
}

#[test]
fn ps52_ps53_ps54_a_result_that_cannot_be_written_is_a_failure() {
    let host = Host::new();
    let succeeding =
        [Call::new("ADD", config(json!({}))), Call::bare().set("CNI_COMMAND", "VERSION")];
    let failing = [Call::new("ADD", "{{{"), Call::new("ADD", "").unset("CNI_PATH")];
    for call in succeeding.into_iter().chain(failing) {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let (reader, closed) = std::io::pipe().expect("a pipe");
        drop(reader);
        for stdout in [Stdio::from(full), Stdio::from(closed)] {
            let mut command = call.command(host.inside("env"));
            command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
            let mut child = command.spawn().expect("the plugin can be run");
            let mut stdin = child.stdin.take().expect("piped");
            std::io::Write::write_all(&mut stdin, config(json!({})).as_bytes()).ok();
            drop(stdin);
            let output = child.wait_with_output().expect("it ends");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{call:?}: {stderr}");
            assert!(stderr.contains("cannot write to stdout"), "{call:?}: {stderr}");
        }
    }
}

#[test]
fn ps60_to_ps62_del_succeeds_with_little_to_go_by() {
    let host = Host::new();
    let mapped = config(json!({
        "runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "udp"}]}
    }));
    let bare = config(json!({"prevResult": null}));
    for (context, call) in [
        ("no netns variable", Call::new("DEL", mapped.clone()).unset("CNI_NETNS")),
        ("empty netns", Call::new("DEL", mapped.clone()).set("CNI_NETNS", "")),
        ("netns is gone", Call::new("DEL", mapped.clone()).set("CNI_NETNS", "/run/netns/gone")),
        ("no prevResult, no runtimeConfig", Call::new("DEL", bare)),
        ("unusable prevResult", Call::new("DEL", config(json!({"prevResult": "?"})))),
    ] {
        host.run(call.clone()).silence(&format!("{context}, before any ADD"));
        assert_eq!(host.ruleset(), "", "{context}");
        host.run(Call::new("ADD", mapped.clone())).result(context);
        assert!(host.ruleset().contains("net/c1/eth0"), "{context}");
        for _ in 0..2 {
            host.run(call.clone()).silence(context);
            assert!(!host.ruleset().contains("net/c1/eth0"), "{context}");
        }
        host.tool("nft", &["flush", "ruleset"]);
    }
}

#[test]
fn ps68_the_plugins_own_namespace_is_refused() {
    let host = Host::new();
    let stdin = || {
        config(json!({
            "runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "tcp"}]}
        }))
    };
    let own = |command| Call::new(command, stdin()).set("CNI_NETNS", "/proc/self/ns/net");
    let said = "plugin's netns and netns from CNI_NETNS should not be the same";
    for overriding in ["", "yes", "0", "false"] {
        for command in ["ADD", "DEL"] {
            let refusal =
                host.run(own(command).set("CNI_NETNS_OVERRIDE", overriding)).refusal(command);
            assert_eq!((refusal.code, refusal.msg.as_str()), (8, said));
            assert_eq!(host.ruleset(), "", "{command} must not act");
        }
    }
    for overriding in ["1", "true", "TRUE"] {
        host.run(own("ADD").set("CNI_NETNS_OVERRIDE", overriding)).result(overriding);
        host.run(own("CHECK")).silence("CHECK does not mind");
        host.run(own("DEL").set("CNI_NETNS_OVERRIDE", overriding)).silence(overriding);
    }
    // DEL releases the host's side even then.
    host.run(Call::new("ADD", stdin())).result("ADD");
    host.run(own("DEL")).refusal("DEL");
    assert!(!host.ruleset().contains("net/c1/eth0"));
}

/// What a file or socket that took stdout's number would be sent instead.
#[test]
fn closed_descriptors_are_not_taken_by_others() {
    let call = Call::new("STATUS", config(json!({ "prevResult": null })));
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            &format!("exec strace -f -o /dev/fd/9 \"$@\" 9>&2 {closed}"),
            "sh",
            "env",
        ]);
        let mut command = call.command(shell);
        let output = command.stdin(Stdio::null()).output().expect("strace (apt package strace)");
        let trace = String::from_utf8_lossy(&output.stderr);
        // env(1) comes first.
        let own = trace.rsplit_once("/portmap\"").map(|(_, own)| own).unwrap_or_default();
        assert!(own.contains("exited with") && own.contains("/dev/null"), "{closed}: {trace}");
        let taken = |line: &&str| {
            let opens = line.contains("socket(") || line.contains("openat(");
            opens
                && !line.contains("/dev/null")
                && [" = 0", " = 1", " = 2"].iter().any(|end| line.ends_with(end))
        };
        assert_eq!(own.lines().find(taken), None, "{closed}");
    }
}

/// A runtime that has gone away must not end a plugin half way.
#[test]
fn a_broken_pipe_is_no_signal_and_no_panic() {
    let host = Host::new();
    let broken = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let run = |call: &Call, stdout: Stdio| {
        let mut command = call.command(host.inside("env"));
        command.stdin(Stdio::piped()).stdout(stdout).stderr(broken());
        let mut child = command.spawn().expect("the plugin can be run");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(config(json!({ "prevResult": null })).as_bytes()).expect("it reads");
        drop(stdin);
        child.wait().expect("it ends").code()
    };
    // It says on stderr which backend it would use.
    assert_eq!(run(&Call::new("STATUS", ""), Stdio::null()), Some(0));
    // An error that nobody can read.
    assert_eq!(run(&Call::new("ADD", ""), broken().into()), Some(1));
}
