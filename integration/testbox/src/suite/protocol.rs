//! The plugin's side of the CNI protocol; the numbers are those of the conformance list.

#![expect(missing_docs, reason = "what a case shows is its name")]

use std::fs::File;
use std::process::Stdio;

use serde_json::{Map, Value, json};

use super::Subject;
use crate::{Call, Outcome};

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";
const ALL_COMMANDS: [&str; 5] = ["ADD", "DEL", "CHECK", "GC", "STATUS"];

fn assert_banner(s: &Subject<'_>, outcome: &Outcome) {
    assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(0), ""));
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            concat!("CNI NAME plugin v", env!("CARGO_PKG_VERSION"))
                .replace("NAME", s.sample.plugin)
                .as_str(),
            "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
        ]
    );
}

pub fn ps01_ps02_without_a_command_it_says_what_it_is(s: &Subject<'_>) {
    assert_banner(s, &s.bare().run(s.b));
    assert_banner(s, &s.bare().env("CNI_COMMAND", "").run(s.b));
    assert_banner(s, &s.call("", s.config(&json!({}))).run(s.b));
}

pub fn ps03_ps04_version_needs_neither_stdin_nor_variables(s: &Subject<'_>) {
    let expected = json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS});
    for stdin in ["", "{{{", "garbage", &s.config(&json!({}))] {
        assert_eq!(s.call("VERSION", stdin).run(s.b).expect_result(), expected);
    }
    let bare = s.bare().env("CNI_COMMAND", "VERSION");
    assert_eq!(bare.clone().run(s.b).expect_result(), expected);

    // An open and silent pipe; timeout(1) ends a plugin that waits for it.
    let mut process = bare.under(&["timeout", "20"]).process(&s.binary());
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process.spawn().expect("the plugin can be run");
    let open_end = child.stdin.take().expect("piped");
    let output = child.wait_with_output().expect("it ends with stdin still open");
    let outcome = Outcome::new("VERSION with silent stdin".to_owned(), b"", output);
    assert_eq!(outcome.expect_result(), expected);
    drop(open_end);
}

pub fn ps05_ps06_ps08_ps15_missing_variables_are_named_in_order(s: &Subject<'_>) {
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
            let call = s.call(command, s.config(&json!({})));
            assert_eq!(s.refused(&call.clone().unset(name)), expected);
            assert_eq!(s.refused(&call.env(name, "")), expected);
        }
        let all = needed(command).join(",");
        let call = s.bare().env("CNI_COMMAND", command);
        let expected = (4, format!("required env variables [{all}] missing"), String::new());
        assert_eq!(s.refused(&call), expected);
    }
}

pub fn ps07_args_are_optional(s: &Subject<'_>) {
    let call = s.call("ADD", s.config(&json!({}))).unset("CNI_ARGS");
    call.run(s.b).expect_result();
}

pub fn ps09_gc_and_status_ignore_the_attachments_variables(s: &Subject<'_>) {
    for command in ["GC", "STATUS"] {
        let stdin = s.config(&json!({VALID_ATTACHMENTS: []}));
        let odd = s
            .call(command, stdin.clone())
            .env("CNI_CONTAINERID", "a/b")
            .env("CNI_IFNAME", "a b")
            .env("CNI_NETNS", "");
        odd.run(s.b).expect_silence();
        let least = s.bare().env("CNI_COMMAND", command).env("CNI_PATH", "/opt/cni/bin");
        let refusal = least.run(s.b).expect_refusal();
        assert_eq!(refusal.code, 6);
    }
}

pub fn ps10_ps11_unknown_commands(s: &Subject<'_>) {
    for command in ["NOPE", "add", "ADD ", "DEL\n"] {
        let call = s.call(command, s.config(&json!({})));
        let expected = (4, format!("unknown CNI_COMMAND: {command}"), String::new());
        assert_eq!(s.refused(&call), expected);
        assert_eq!(s.refused(&s.call(command, "")).0, 6);
        assert_eq!(s.refused(&s.call(command, "{}")).0, 7);
    }
}

pub fn ps12_container_ids(s: &Subject<'_>) {
    for bad in ["a/b", "-a", ".a", "_a", "a b", "a\n", "a:b", "é"] {
        for command in ["ADD", "DEL", "CHECK"] {
            let call = s.call(command, s.config(&json!({}))).env("CNI_CONTAINERID", bad);
            let expected = (4, "invalid characters in containerID".to_owned(), bad.to_owned());
            assert_eq!(s.refused(&call), expected);
        }
    }
    for good in ["a", "A0_.-"] {
        s.call("ADD", s.config(&json!({}))).env("CNI_CONTAINERID", good).run(s.b).expect_result();
    }
}

pub fn ps13_interface_names(s: &Subject<'_>) {
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
            let call = s.call(command, s.config(&json!({}))).env("CNI_IFNAME", bad);
            let (code, said, _) = s.refused(&call);
            assert_eq!((code, said.as_str()), (4, msg), "{bad:?}");
        }
    }
    let longest = s.call("ADD", s.config(&json!({}))).env("CNI_IFNAME", "0123456789abcde");
    longest.run(s.b).expect_result();
}

pub fn ps14_a_bad_value_is_reported_before_a_missing_one(s: &Subject<'_>) {
    let call = s
        .call("ADD", s.config(&json!({})))
        .unset("CNI_CONTAINERID")
        .unset("CNI_PATH")
        .env("CNI_IFNAME", "a/b");
    let (code, msg, _) = s.refused(&call);
    assert_eq!((code, msg.starts_with("interface name contains")), (4, true), "{msg}");
}

pub fn ps20_stdin_that_is_no_json_object(s: &Subject<'_>) {
    for stdin in ["", "  \n", "{{{", "[]", "\"x\"", "5", "{} x", "{\"name\":\"n\"}{}", "// c\n{}"] {
        for command in ALL_COMMANDS {
            let (code, msg, _) = s.refused(&s.call(command, stdin));
            assert_eq!((code, msg.contains("network config")), (6, true), "{stdin}: {msg}");
        }
    }
}

pub fn ps21_ps22_network_names(s: &Subject<'_>) {
    for stdin in ["null", "{}", r#"{"name":""}"#, r#"{"name":null}"#] {
        let expected = (7, "missing network name".to_owned(), String::new());
        assert_eq!(s.refused(&s.call("ADD", stdin)), expected);
    }
    for name in ["te%%st", "a b", "n\n", "-n", "a/b"] {
        let (code, msg, details) = s.refused(&s.call("DEL", s.config(&json!({"name": name}))));
        let said = "invalid characters found in network name";
        assert_eq!((code, msg.as_str(), details.as_str()), (7, said, name));
    }
    for wrong in [json!(5), json!(["n"]), json!({}), json!(true)] {
        let stdin = s.config(&json!({"name": wrong}));
        assert_eq!(s.refused(&s.call("ADD", stdin.clone())).0, 6);
    }
}

pub fn ps23_a_stdin_that_cannot_be_read(s: &Subject<'_>) {
    let call = s.call("ADD", "").env("CNI_NETNS", "/proc/self/ns/net");
    let directory = File::open("/").expect("the root directory");
    let output = call.process(&s.binary()).stdin(directory).output().expect("it can be run");
    let refusal = Outcome::new("a directory as stdin".to_owned(), b"", output).expect_refusal();
    assert_eq!((refusal.code, refusal.msg.as_str()), (5, "error reading from stdin"));
}

pub fn ps24_no_version_means_the_first(s: &Subject<'_>) {
    for version in [json!(null), json!("")] {
        let stdin = s.config(&json!({"cniVersion": version}));
        let result = s.call("ADD", stdin).run(s.b).expect_result();
        assert_eq!(result["cniVersion"], "0.1.0");
        assert_eq!(result["ip4"]["ip"], "10.0.0.2/24");
    }
}

pub fn ps25_versions_match_exactly(s: &Subject<'_>) {
    for version in ["9.9.9", "1.0", " 1.0.0", "abc", "1.2.0", "1.1.0-rc1"] {
        for command in ["ADD", "DEL"] {
            let stdin = s.config(&json!({"cniVersion": version}));
            let supported: Vec<_> = VERSIONS.iter().map(|v| format!("{v:?}")).collect();
            let details =
                format!("config is {version:?}, plugin supports [{}]", supported.join(" "));
            let expected = (1, "incompatible CNI versions".to_owned(), details);
            assert_eq!(s.refused(&s.call(command, stdin)), expected);
        }
    }
    for command in ALL_COMMANDS {
        let stdin = s.config(&json!({"cniVersion": 1}));
        let (code, msg, _) = s.refused(&s.call(command, stdin));
        assert_eq!((code, msg.starts_with("decoding version from network config")), (6, true));
    }
}

pub fn ps26_the_name_is_judged_first(s: &Subject<'_>) {
    for command in ALL_COMMANDS {
        let stdin = s.config(&json!({"name": "a b", "cniVersion": "9.9.9"}));
        assert_eq!(s.refused(&s.call(command, stdin)).0, 7);
    }
}

pub fn ps27_ps28_younger_commands_need_younger_versions(s: &Subject<'_>) {
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
            let stdin = s.config(&json!({"cniVersion": version}));
            let (got, said, _) = s.refused(&s.call(command, stdin));
            assert!(got == code && said.contains(msg), "{command} {version}: {got} {said}");
        }
    }
    for command in ["GC", "STATUS"] {
        let stdin = s.config(&json!({VALID_ATTACHMENTS: null}));
        s.call(command, stdin).run(s.b).expect_silence();
    }
}

pub fn ps29_keys_match_without_case_and_the_last_one_wins(s: &Subject<'_>) {
    let stdin = r#"{"CNIVersion":"0.1.0","cniversion":"1.0.0","NAME":"net",
        "PREVRESULT":{"CniVersion":"1.0.0","IPS":[{"Address":"10.0.0.9/24","address":"10.0.0.2/24"}]}}"#;
    let result = s.call("ADD", stdin).run(s.b).expect_result();
    assert_eq!(result, json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}));
}

pub fn ps30_nulls_and_unknown_keys(s: &Subject<'_>) {
    let everybodys =
        ["type", "capabilities", "ipam", "dns", "args", "runtimeConfig", "logFile", "logLevel"];
    let keys = everybodys.iter().chain(s.sample.optional_keys).chain(&[VALID_ATTACHMENTS]);
    let nulls: Map<_, _> = keys.map(|key| ((*key).to_owned(), Value::Null)).collect();
    s.call("ADD", s.config(&nulls.into())).run(s.b).expect_result();
    let odd = s.config(&json!({
        "ipam": {}, "dns": {}, "args": {"cni": {"labels": []}}, "someone's": [{"else's": 1}],
        "runtimeConfig": {"portMappings": null, "bandwidth": null, "mac": null, "other": 5}
    }));
    s.call("ADD", odd).run(s.b).expect_result();
}

pub fn ps31_capabilities_are_booleans(s: &Subject<'_>) {
    let good = s.config(&json!({"capabilities": {"snat": true, "portMappings": true, "x": null}}));
    s.call("ADD", good).run(s.b).expect_result();
    for bad in [json!({"portMappings": "yes"}), json!({"portMappings": 1}), json!([])] {
        let stdin = s.config(&json!({"capabilities": bad}));
        let refusal = s.call("ADD", stdin).run(s.b).expect_refusal();
        assert!(refusal.code == 7 && refusal.msg.starts_with("capabilities"), "{refusal:?}");
    }
}

pub fn ps32_ps33_odd_and_large_strings(s: &Subject<'_>) {
    let mut stdin = s.config(&json!({"comment": "@@"})).into_bytes();
    let at = stdin.windows(2).position(|w| w == b"@@").expect("the comment");
    stdin[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
    s.call("ADD", stdin).run(s.b).expect_result();
    let large = s.config(&json!({"comment": "x".repeat(5_000_000)}));
    s.call("ADD", large).run(s.b).expect_result();
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

pub fn ps40_to_ps43_ps49_ps51_results_pass_through_in_every_version(s: &Subject<'_>) {
    for version in VERSIONS {
        let previous = rich_result(version);
        let stdin = s.config(&json!({"cniVersion": version, "prevResult": previous}));
        assert_eq!(s.call("ADD", stdin).run(s.b).expect_result(), previous);
    }
    // 0.4.0 always prints dns; 1.0.0 and newer only when there is something in it.
    for (version, dns) in [("0.2.0", true), ("0.4.0", true), ("1.0.0", false), ("1.1.0", false)] {
        let previous = json!({"ips": [{"address": "10.0.0.2/24"}], "dns": {}});
        let stdin = s.config(&json!({"cniVersion": version, "prevResult": previous}));
        let result = s.call("ADD", stdin).run(s.b).expect_result();
        assert_eq!(result.get("dns"), dns.then(|| json!({})).as_ref(), "{version}");
    }
    let stdin = s.config(&json!({"cniVersion": "0.4.0", "prevResult": rich_result("1.1.0")}));
    let lowered = s.call("ADD", stdin).run(s.b).expect_result();
    assert_eq!(lowered, {
        let mut expected = rich_result("0.4.0");
        expected["cniVersion"] = "0.4.0".into();
        expected
    });
}

pub fn ps44_to_ps46_any_known_version_of_prev_result(s: &Subject<'_>) {
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
        let stdin = s.config(&json!({"cniVersion": asked, "prevResult": previous}));
        let context = format!("{asked} with prevResult {given}");
        let result = s.call("ADD", stdin).run(s.b).expect_result();
        assert_eq!(result["cniVersion"], asked, "{context}");
        let address =
            if asked < "0.3.0" { &result["ip4"]["ip"] } else { &result["ips"][0]["address"] };
        assert_eq!(*address, "10.0.0.2/24", "{context}");
    }
}

pub fn ps47_ps48_empty_missing_and_broken_prev_results(s: &Subject<'_>) {
    for version in ["1.0.0", "1.1.0"] {
        let stdin = s.config(&json!({"cniVersion": version, "prevResult": {}}));
        let result = s.call("ADD", stdin).run(s.b).expect_result();
        assert_eq!(result, json!({"cniVersion": version}));
    }
    for command in ["ADD", "CHECK"] {
        let stdin = s.config(&json!({"prevResult": null}));
        let refusal = s.call(command, stdin).run(s.b).expect_refusal();
        assert!(refusal.code == 7 && refusal.msg.contains(s.sample.no_prev_result), "{refusal:?}");
        let stdin = s.config(&json!({"prevResult": {"ips": [{"address": "10.0.0.2"}]}}));
        let refusal = s.call(command, stdin).run(s.b).expect_refusal();
        let place = "could not parse prevResult: ips[0].address must be";
        assert!(refusal.code == 7 && refusal.msg.starts_with(place), "{refusal:?}");
    }
}

pub fn ps52_ps53_ps54_a_result_that_cannot_be_written_is_a_failure(s: &Subject<'_>) {
    let succeeding = [s.call("ADD", s.config(&json!({}))), s.bare().env("CNI_COMMAND", "VERSION")];
    let failing = [s.call("ADD", "{{{"), s.call("ADD", "").unset("CNI_PATH")];
    for call in succeeding.into_iter().chain(failing) {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let (reader, closed) = std::io::pipe().expect("a pipe");
        drop(reader);
        for stdout in [Stdio::from(full), Stdio::from(closed)] {
            let mut process = call.process(&s.binary());
            process.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
            let child = call.feed(process.spawn().expect("the plugin can be run"));
            let output = child.wait_with_output().expect("it ends");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{call:?}: {stderr}");
            assert!(stderr.contains("cannot write to stdout"), "{call:?}: {stderr}");
        }
    }
}

pub fn ps60_to_ps62_del_succeeds_with_little_to_go_by(s: &Subject<'_>) {
    let made = || s.call("ADD", s.working(&json!({}))).run(s.b).expect_result();
    made();
    s.call("DEL", s.working(&json!({}))).run(s.b).expect_silence();
    let before = s.b.state();
    let del = |stdin: String| s.call("DEL", stdin);
    let good = || s.working(&json!({}));
    for (context, needs_netns, call) in [
        ("no netns variable", true, del(good()).unset("CNI_NETNS")),
        ("empty netns", true, del(good()).env("CNI_NETNS", "")),
        ("netns is gone", true, del(good()).env("CNI_NETNS", "/run/netns/gone")),
        ("no prevResult, no keys", false, del(s.config(&json!({"prevResult": null})))),
        ("unusable prevResult", false, del(s.config(&json!({"prevResult": "?"})))),
    ] {
        call.run(s.b).expect_silence();
        assert_eq!(s.b.state(), before, "{context}, before any ADD");
        if needs_netns && s.sample.del_needs_netns {
            continue;
        }
        made();
        assert_ne!(s.b.state(), before, "ADD of the sample makes something");
        for _ in 0..2 {
            call.run(s.b).expect_silence();
            assert_eq!(s.b.state(), before, "{context}");
        }
    }
}

pub fn ps68_the_plugins_own_namespace_is_refused(s: &Subject<'_>) {
    let own =
        |command| s.call(command, s.working(&json!({}))).env("CNI_NETNS", "/proc/self/ns/net");
    let said = "plugin's netns and netns from CNI_NETNS should not be the same";
    let before = s.b.state();
    for overriding in ["", "yes", "0", "false"] {
        for command in ["ADD", "DEL"] {
            let refusal =
                own(command).env("CNI_NETNS_OVERRIDE", overriding).run(s.b).expect_refusal();
            assert_eq!((refusal.code, refusal.msg.as_str()), (8, said));
            assert_eq!(s.b.state(), before, "{command} must not act");
        }
    }
}

/// What a file or socket that took stdout's number would be sent instead.
pub fn closed_descriptors_are_not_taken_by_others(s: &Subject<'_>) {
    let call = s.call("STATUS", s.config(&json!({ "prevResult": null })));
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let script = format!("exec strace -f -o /dev/fd/9 \"$@\" 9>&2 {closed}");
        let mut process = call.clone().under(&["sh", "-c", &script, "sh"]).process(&s.binary());
        let output = process.stdin(Stdio::null()).output().expect("strace (apt package strace)");
        let own = String::from_utf8_lossy(&output.stderr);
        assert!(own.contains("exited with") && own.contains("/dev/null"), "{closed}: {own}");
        let taken = |line: &&str| {
            let opens = line.contains("socket(")
                || [" open(", "openat("].iter().any(|call| line.contains(call));
            opens
                && !line.contains("/dev/null")
                && [" = 0", " = 1", " = 2"].iter().any(|end| line.ends_with(end))
        };
        assert_eq!(own.lines().find(taken), None, "{closed}");
    }
}

/// A runtime that has gone away must not end a plugin half way.
pub fn a_broken_pipe_is_no_signal_and_no_panic(s: &Subject<'_>) {
    let broken = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let run = |call: &Call, stdout: Stdio| {
        let mut process = call.process(&s.binary());
        process.stdin(Stdio::piped()).stdout(stdout).stderr(broken());
        call.feed(process.spawn().expect("the plugin can be run")).wait().expect("it ends").code()
    };
    let stdin = || s.config(&json!({ "prevResult": null }));
    // Some say on stderr which backend they would use.
    assert_eq!(run(&s.call("STATUS", stdin()), Stdio::null()), Some(0));
    // An error that nobody can read.
    assert_eq!(run(&s.call("ADD", stdin()), broken().into()), Some(1));
}
