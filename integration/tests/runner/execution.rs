//! Calling plugins: what they get, in which order, and what their answers mean.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use cni_chain::{ExecError, RunError, Runner, RuntimeConf, exec};
use cni_testbox::spy;
use serde_json::{Value, json};

use crate::spies::{Stage, conf, fails, list, object, parse, says, value};

#[test]
fn rs20_stdin_is_the_entry_with_the_lists_name_and_version() {
    let stage = Stage::new(&["a"]);
    let entry = r#"{"type":"a","name":"own","cniVersion":"0.1.0","unknown":{"Deep":[1,null]},
        "big":18446744073709551615,"fraction":1.5,"capabilities":{"mac":true}}"#;
    let text = format!(r#"{{"name":"net","cniVersion":"1.0.0","args":{{}},"plugins":[{entry}]}}"#);
    let list = cni_chain::NetworkList::from_bytes(text.as_bytes()).expect("valid");
    let conf = RuntimeConf { capability_args: object(&json!({"mac": "02::1"})), ..conf() };
    stage.runner().add(&list, &conf).expect("added");
    let call = &stage.calls()[0];
    assert_eq!(
        call.stdin(),
        json!({
            "type": "a", "name": "net", "cniVersion": "1.0.0",
            "unknown": {"Deep": [1, null]}, "big": u64::MAX, "fraction": 1.5,
            "capabilities": {"mac": true}, "runtimeConfig": {"mac": "02::1"},
        })
    );
    assert!(call.stdin_text.contains("18446744073709551615"), "{}", call.stdin_text);
}

#[test]
fn rs20_an_empty_version_is_passed_on_as_it_is() {
    let stage = Stage::new(&["a"]);
    let list = parse(&json!({"name": "net", "plugins": [{"type": "a", "cniVersion": "1.0.0"}]}));
    stage.runner().add(&list, &conf()).expect("added");
    assert_eq!(stage.calls()[0].stdin(), json!({"type": "a", "name": "net", "cniVersion": ""}));
}

#[test]
fn rs21_capabilities_reach_only_those_who_declare_them() {
    let stage = Stage::new(&["both", "one", "off", "stale", "none"]);
    let list = parse(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "both", "capabilities": {"mac": true, "portMappings": true, "ips": true}},
        {"type": "one", "capabilities": {"portMappings": true, "mac": false}},
        {"type": "off", "capabilities": {"mac": false}},
        {"type": "stale", "capabilities": {"ips": true}, "runtimeConfig": {"written": 1}},
        {"type": "none"},
    ]}));
    let ports = json!([{"HostPort": 8080, "ContainerPort": 80}]);
    let conf = RuntimeConf {
        capability_args: object(&json!({"mac": "02::1", "portMappings": ports, "secret": 1})),
        ..conf()
    };
    stage.runner().add(&list, &conf).expect("added");
    let seen: Vec<Value> =
        stage.calls().iter().map(|call| call.stdin()["runtimeConfig"].clone()).collect();
    assert_eq!(
        seen,
        [
            json!({"mac": "02::1", "portMappings": ports}),
            json!({"portMappings": ports}),
            Value::Null,
            json!({"written": 1}),
            Value::Null,
        ]
    );
}

#[test]
fn rs22_the_environment() {
    let stage = Stage::new(&["a"]);
    let second = stage.path("second");
    let runner = Runner::new(vec![stage.plugin_dir(), second.clone()], stage.cache_dir());
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let conf =
        RuntimeConf { args: vec![pair("Z", "1"), pair("A", "x=y"), pair("E", "")], ..conf() };
    runner.add(&list("1.0.0", &["a"]), &conf).expect("added");
    let env = &stage.calls()[0].env;
    for (name, expected) in [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "Z=1;A=x=y;E="),
        ("CNI_PATH", &format!("{}:{}", stage.plugin_dir().display(), second.display())),
    ] {
        assert_eq!(env[name], expected, "{name}");
    }
}

#[test]
fn rs23_add_runs_forward_and_hands_results_on() {
    let stage = Stage::new(&["a", "b", "c"]);
    let first = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.2/24"}],
        "unknown": true});
    let second = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.3/24"}]});
    let third = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]});
    for (plugin, result) in [("a", &first), ("b", &second), ("c", &third)] {
        stage.tell(plugin, &json!({"ADD": says(result)}));
    }
    let result = stage.runner().add(&list("1.0.0", &["a", "b", "c"]), &conf()).expect("added");
    assert_eq!(value(&result), third);
    assert_eq!(stage.order(), ["a ADD", "b ADD", "c ADD"]);
    let seen: Vec<Value> =
        stage.calls().iter().map(|call| call.stdin()["prevResult"].clone()).collect();
    assert_eq!(seen, [Value::Null, first, second], "each as its predecessor printed it");
}

#[test]
fn rs24_add_stops_at_the_first_failure_and_undoes_nothing() {
    let stage = Stage::new(&["a", "b", "c"]);
    stage.tell("b", &json!({"ADD": fails(11, "not now")}));
    let list = parse(&json!({"cniVersion": "1.0.0", "name": "net",
        "plugins": [{"type": "a"}, {"type": "b", "name": "own"}, {"type": "c"}]}));
    let error = stage.runner().add(&list, &conf()).expect_err("b fails");
    assert_eq!(error.to_string(), r#"plugin type="b" name="own" failed (add): not now"#);
    assert_eq!(error.code(), Some(11));
    assert_eq!(stage.order(), ["a ADD", "b ADD"]);
    assert!(stage.remembered().is_empty());
}

#[test]
fn rs25_input_is_judged_before_anything_runs() {
    let stage = Stage::new(&["a"]);
    let good = list("1.0.0", &["a"]);
    let mut bad_name = good.clone();
    bad_name.name = "a/b".into();
    let container = |id: &str| RuntimeConf { container_id: id.into(), ..conf() };
    let ifname = |name: &str| RuntimeConf { ifname: name.into(), ..conf() };
    for (list, conf, code, text) in [
        (&good, container(""), 3, "missing containerID"),
        (&good, container("a/b"), 4, "invalid characters in containerID; a/b"),
        (&good, ifname(""), 4, "interface name is empty"),
        (&good, ifname("0123456789abcdef"), 4, "interface name is too long"),
        (&bad_name, conf(), 7, "invalid characters found in network name; a/b"),
    ] {
        let error = stage.runner().add(list, &conf).expect_err(text);
        assert!(error.to_string().starts_with(r#"plugin type="a" failed (add): "#), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.code(), Some(code), "{error}");
    }
    assert!(stage.order().is_empty());
}

#[test]
fn rs25_a_missing_plugin_is_noticed_when_its_turn_comes() {
    let stage = Stage::new(&["a"]);
    let error = stage.runner().add(&list("1.0.0", &["a", "b"]), &conf()).expect_err("no b");
    assert_eq!(
        error.to_string(),
        format!(
            r#"plugin type="b" failed (add): failed to find plugin "b" in path [{}]"#,
            stage.plugin_dir().display()
        )
    );
    assert_eq!(stage.order(), ["a ADD"]);
}

#[test]
fn rs26_results_without_a_version_have_the_configurations() {
    for (version, stdout, expected) in [
        ("1.0.0", "{}", json!({"cniVersion": "1.0.0"})),
        ("1.0.0", r#"{"cniVersion":""}"#, json!({"cniVersion": "1.0.0"})),
        ("1.0.0", "null", json!({"cniVersion": "1.0.0"})),
        ("", "{}", json!({"cniVersion": "0.1.0"})),
        ("1.0.0", r#"{"cniVersion":"0.3.1"}"#, json!({"cniVersion": "0.3.1"})),
        // An error object that comes with success is an empty result.
        ("1.0.0", r#"{"code":7,"msg":"m"}"#, json!({"cniVersion": "1.0.0", "code": 7, "msg": "m"})),
    ] {
        let stage = Stage::new(&["a"]);
        stage.tell("a", &json!({"ADD": {"stdout": stdout}}));
        let result = stage.runner().add(&list(version, &["a"]), &conf()).expect(stdout);
        assert_eq!(value(&result), expected, "{stdout}");
    }
}

#[test]
fn rs26_results_that_cannot_be_used() {
    for (version, stdout, reason) in [
        ("1.0.0", r#"{"cniVersion":"5.0.0"}"#, r#"unsupported CNI result version "5.0.0""#),
        ("7.0.0", "{}", r#"unsupported CNI result version "7.0.0""#),
        ("1.0.0", "[]", "failed to unmarshal raw result: it is a list"),
        ("1.0.0", "", "failed to unmarshal raw result: no output"),
        ("1.0.0", "{} {}", "failed to unmarshal raw result: trailing"),
        ("1.0.0", r#"{"cniVersion":1}"#, "failed to unmarshal raw result: cniVersion is a number"),
        ("1.0.0", r#"{"ips":[{"address":"10.0.0.1"}]}"#, "ips[0].address"),
    ] {
        let stage = Stage::new(&["a", "b"]);
        stage.tell("a", &json!({"ADD": {"stdout": stdout}}));
        let error =
            stage.runner().add(&list(version, &["a", "b"]), &conf()).expect_err(stdout).to_string();
        assert!(error.starts_with(r#"plugin type="a" failed (add): "#), "{error}");
        assert!(error.contains(reason), "{error}");
        assert_eq!(stage.order(), ["a ADD"]);
    }
}

#[test]
fn rs27_how_plugins_fail() {
    let details = r#"{"code":7,"msg":"bad thing","details":"very"}"#;
    for (action, code, text) in [
        (json!({"stdout": details, "exit": 1}), Some(7), "bad thing; very"),
        (
            json!({"stdout": r#"{"code":100,"msg":"m"}"#, "stderr": "log", "exit": 2}),
            Some(100),
            "m",
        ),
        (
            json!({"stdout": "oops", "exit": 1}),
            None,
            r#"netplugin failed but error parsing its diagnostic message "oops": "#,
        ),
        (
            json!({"stdout": format!("{details}{details}"), "exit": 1}),
            None,
            "netplugin failed but error parsing its diagnostic message ",
        ),
        (
            json!({"stdout": "[]", "exit": 1}),
            None,
            r#"netplugin failed but error parsing its diagnostic message "[]": it is a list"#,
        ),
        (
            json!({"stdout": "", "exit": 3}),
            None,
            "netplugin failed with no error message: exit status 3",
        ),
        (
            json!({"stdout": "", "stderr": "went\nwrong", "exit": 3}),
            None,
            r#"netplugin failed: "went\nwrong": exit status 3"#,
        ),
    ] {
        let stage = Stage::new(&["a"]);
        stage.tell("a", &json!({"ADD": action}));
        let error = stage.runner().add(&list("1.0.0", &["a"]), &conf()).expect_err(text);
        let expected = format!(r#"plugin type="a" failed (add): {text}"#);
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(error.code(), code, "{error}");
    }
}

/// A copy of the spy, because the file behind the links must not be opened for writing.
fn busy_plugin(stage: &Stage) -> fs::File {
    let path = stage.plugin_dir().join("busy");
    fs::copy(spy::program(), &path).expect("a copy of the spy");
    OpenOptions::new().append(true).open(&path).expect("an open file")
}

#[test]
fn rs29_a_plugin_that_is_being_written_is_retried() {
    let stage = Stage::new(&[]);
    let writer = busy_plugin(&stage);
    let installer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1500));
        drop(writer);
    });
    stage.runner().add(&list("1.0.0", &["busy"]), &conf()).expect("added in the end");
    installer.join().expect("the writer is closed");
    assert_eq!(stage.order(), ["busy ADD"]);
}

#[test]
fn rs29_the_last_attempt_is_an_error() {
    let stage = Stage::new(&[]);
    let writer = busy_plugin(&stage);
    let error = stage.runner().add(&list("1.0.0", &["busy"]), &conf()).expect_err("busy");
    drop(writer);
    assert!(error.to_string().contains("Text file busy"), "{error}");
    assert!(matches!(error, RunError::Plugin { error: ExecError::Spawn { .. }, .. }), "{error:?}");
    assert!(stage.order().is_empty() && stage.remembered().is_empty());
}

#[test]
fn rs30_stdin_need_not_be_read() {
    let stage = Stage::new(&["a"]);
    stage.tell("a", &json!({"ADD": {"ignoreStdin": true}}));
    // More than a pipe holds.
    let list = parse(&json!({"cniVersion": "1.0.0", "name": "net",
        "plugins": [{"type": "a", "long": "x".repeat(1 << 20)}]}));
    stage.runner().add(&list, &conf()).expect("added");
}

#[test]
fn rs30_more_than_a_pipe_holds_in_both_directions() {
    let stage = Stage::new(&["a"]);
    let long = "x".repeat(1 << 20);
    stage.tell(
        "a",
        &json!({"ADD": {"stdout": json!({"long": long}).to_string(), "ignoreStdin": true}}),
    );
    let list = parse(&json!({"cniVersion": "1.0.0", "name": "net",
        "plugins": [{"type": "a", "long": long}]}));
    let result = stage.runner().add(&list, &conf()).expect("added");
    assert_eq!(value(&result)["long"], long);
}

#[test]
fn rs30_a_plugin_that_does_not_answer_is_killed() {
    let stage = Stage::new(&["slow"]);
    stage.tell("slow", &json!({"ADD": {"sleepMs": 3_600_000}}));
    let mut runner = stage.runner();
    runner.deadline = Some(Duration::from_millis(300));
    let error = runner.add(&list("1.0.0", &["slow"]), &conf()).expect_err("too slow").to_string();
    assert!(error.contains("netplugin failed with no error message: signal: killed"), "{error}");
    runner.deadline = Some(Duration::from_mins(10));
    stage.tell("slow", &json!({"ADD": {"sleepMs": 1}}));
    runner.add(&list("1.0.0", &["slow"]), &conf()).expect("in time");
}

#[test]
fn rs31_finding_a_plugin() {
    let stage = Stage::new(&["a"]);
    let (first, second) = (stage.path("first"), stage.path("second"));
    fs::create_dir_all(first.join("a")).expect("a directory called like the plugin");
    fs::create_dir(&second).expect("a directory");
    let dirs = [first.clone(), second.clone(), stage.plugin_dir()];
    let find = |name: &str, dirs: &[PathBuf]| exec::find(name, dirs).map_err(|e| e.to_string());
    assert_eq!(find("a", &dirs), Ok(stage.plugin_dir().join("a")), "no directory, links followed");
    fs::write(second.join("a"), "").expect("a file");
    assert_eq!(find("a", &dirs), Ok(second.join("a")), "the first one wins");
    assert_eq!(
        find("b", &dirs[..2]),
        Err(format!(
            r#"failed to find plugin "b" in path [{} {}]"#,
            first.display(),
            second.display()
        ))
    );
    assert_eq!(find("../bin/a", &dirs), Err("invalid plugin name: ../bin/a".into()));
    assert_eq!(find("", &dirs), Err("no plugin name provided".into()));
    assert_eq!(find("a", &[]), Err("no paths provided".into()));
    // The execute bit is not looked at before the call.
    let runner = Runner::new(vec![second], stage.cache_dir());
    let error = runner.add(&list("1.0.0", &["a"]), &conf()).expect_err("not executable");
    assert!(error.to_string().contains("Permission denied"), "{error}");
}

#[test]
fn rs32_asking_for_versions() {
    let stage = Stage::new(&["a"]);
    assert_eq!(stage.runner().version("a").expect("versions").len(), 7);
    let call = &stage.calls()[0];
    assert_eq!(call.stdin(), json!({"cniVersion": "1.1.0"}));
    for (name, expected) in [
        ("CNI_COMMAND", "VERSION"),
        ("CNI_CONTAINERID", ""),
        ("CNI_NETNS", "dummy"),
        ("CNI_IFNAME", "dummy"),
        ("CNI_ARGS", ""),
        ("CNI_PATH", "dummy"),
    ] {
        assert_eq!(call.env[name], expected, "{name}");
    }
}

#[test]
fn rs32_answers_of_old_plugins() {
    let stage = Stage::new(&["a"]);
    let answer = |action: Value| {
        stage.tell("a", &json!({"VERSION": action}));
        stage.runner().version("a").map_err(|error| error.to_string())
    };
    assert_eq!(
        answer(says(&json!({"cniVersion": "0.2.0"}))),
        Ok(vec!["0.1.0".into(), "0.2.0".into()])
    );
    assert_eq!(answer(fails(4, "unknown CNI_COMMAND: VERSION")), Ok(vec!["0.1.0".into()]));
    assert_eq!(
        answer(says(&json!({"cniVersion": "9.9.9", "supportedVersions": ["1.0.0"]}))),
        Ok(vec!["1.0.0".into()])
    );
    for (action, reason) in [
        (says(&json!({"cniVersion": "1.0.0"})), "missing field supportedVersions"),
        (says(&json!({"supportedVersions": ["1.0.0"]})), "missing field cniVersion"),
        (says(&json!({"cniVersion": "1.0.0", "supportedVersions": [1]})), "a list of strings"),
        (says(&json!([])), "it is no object"),
        (json!({"stdout": ""}), "decoding version info"),
        (fails(4, "other"), "other"),
    ] {
        let error = answer(action).expect_err(reason);
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn rs33_validating_a_list() {
    let stage = Stage::new(&["new", "old"]);
    stage.tell(
        "old",
        &json!({"VERSION": says(&json!({"cniVersion": "0.3.1", "supportedVersions": ["0.3.1"]}))}),
    );
    let entries = |version: &str, plugins: Value| {
        parse(&json!({"cniVersion": version, "name": "net", "plugins": plugins}))
    };
    let good = entries(
        "1.0.0",
        json!([
            {"type": "new", "capabilities": {"mac": true, "ips": false}},
            {"type": "new", "capabilities": {"mac": true, "portMappings": true}},
        ]),
    );
    let capabilities = stage.runner().validate(&good).expect("valid");
    assert_eq!(Vec::from_iter(capabilities), ["mac", "portMappings"]);
    assert!(stage.runner().validate(&entries("", json!([{"type": "new"}]))).is_ok(), "0.1.0");

    let bad = entries("1.0.0", json!([{"type": "old"}, {"type": "missing"}, {"type": "new"}]));
    let error = stage.runner().validate(&bad).expect_err("two of three").to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert_eq!(lines[0], r#"plugin old does not support config version "1.0.0""#);
    assert!(lines[1].starts_with(r#"failed to find plugin "missing""#), "{error}");
}
