//! The protocol around a plugin: what is validated in which order, and what is written where.

use std::cell::RefCell;
use std::ffi::OsString;

use super::*;

const OWN_NETNS: &str = "/proc/self/ns/net";

/// A plugin that writes down what it was asked.
#[derive(Default)]
struct Recorder {
    calls: RefCell<Vec<String>>,
    valid: RefCell<Option<Vec<ValidAttachment>>>,
    failure: Option<CniError>,
}

impl Recorder {
    fn call(&self, text: String) -> Result<(), CniError> {
        self.calls.borrow_mut().push(text);
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn calls(&self) -> Vec<String> {
        self.calls.borrow().clone()
    }
}

impl Plugin for Recorder {
    const NAME: &'static str = "recorder";
    const ABOUT: &'static str = "Writes down what it is called for";
    const KEYS: &'static [&'static str] = &[];

    fn validate(_: &NetworkConfig) -> Result<(), CniError> {
        Ok(())
    }

    fn add(&self, request: &AttachmentRequest) -> Result<CniResult, CniError> {
        self.call(format!("add {} {} {}", request.attachment.tag(), request.netns, request.args))?;
        request.config.prev_result().map(Option::unwrap_or_default)
    }
    fn del(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        request.log.warn("on the way");
        self.call(format!("del {}", request.attachment.tag()))
    }
    fn check(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        self.call(format!("check {}", request.attachment.tag()))
    }
    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        *self.valid.borrow_mut() = Some(request.valid.clone());
        self.call(format!("gc {}", request.config.name))
    }
    fn status(&self, request: &StatusRequest) -> Result<(), CniError> {
        self.call(format!("status {}", request.config.name))
    }
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    let defaults =
        [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_PATH", "/opt/cni/bin")];
    let lookup = |name: &str| {
        let all = variables.iter().chain(&defaults);
        all.into_iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    };
    Environment::read(lookup).expect("valid environment").expect("a command")
}

/// Runs a command whose namespace is, by permission, the test's own.
fn run_command(plugin: &Recorder, command: &str, stdin: &str) -> Result<String, CniError> {
    let variables =
        [("CNI_COMMAND", command), ("CNI_NETNS", OWN_NETNS), ("CNI_NETNS_OVERRIDE", "1")];
    dispatch(plugin, environment(&variables), &mut stdin.as_bytes())
}

fn code(outcome: Result<String, CniError>) -> u32 {
    outcome.expect_err("must be refused").code.number()
}

/// A stdin that must not be touched, or cannot be read.
struct Untouchable {
    readable: bool,
}

impl Read for Untouchable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        assert!(self.readable, "stdin was read");
        Err(io::Error::other("it is a directory"))
    }
}

#[test]
fn version_never_reads_stdin() {
    let environment = environment(&[("CNI_COMMAND", "VERSION")]);
    let text = dispatch(&Recorder::default(), environment, &mut Untouchable { readable: false });
    assert_eq!(
        text.expect("version"),
        "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\
         \"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
    );
}

#[test]
fn an_unreadable_stdin_is_an_io_failure() {
    for command in ["ADD", "NOPE"] {
        let environment = environment(&[("CNI_COMMAND", command), ("CNI_NETNS", OWN_NETNS)]);
        let outcome =
            dispatch(&Recorder::default(), environment, &mut Untouchable { readable: true });
        assert_eq!(code(outcome), 5, "{command}");
    }
}

#[test]
fn stdin_is_judged_before_the_command_is_known() {
    let plugin = Recorder::default();
    for (stdin, expected) in [
        ("", 6),
        ("{{{", 6),
        ("[]", 6),
        ("null", 7),
        (r#"{"name":"a b"}"#, 7),
        (r#"{"name":"n"}"#, 4),
    ] {
        assert_eq!(code(run_command(&plugin, "NOPE", stdin)), expected, "{stdin}");
    }
    let error = run_command(&plugin, "add", r#"{"name":"n"}"#).expect_err("lower case");
    assert_eq!(error.msg, "unknown CNI_COMMAND: add");
    assert!(plugin.calls().is_empty());
}

#[test]
fn the_name_is_judged_before_the_version_and_the_version_before_the_rest() {
    let plugin = Recorder::default();
    let odd = r#""cniVersion":"9.9.9","capabilities":5"#;
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        assert_eq!(code(run_command(&plugin, command, &format!("{{{odd}}}"))), 7, "{command}");
        let named = format!(r#"{{"name":"n",{odd}}}"#);
        assert_eq!(code(run_command(&plugin, command, &named)), 1, "{command}");
    }
    let known = r#"{"name":"n","cniVersion":"1.1.0","capabilities":5}"#;
    assert_eq!(code(run_command(&plugin, "ADD", known)), 7);
    assert_eq!(code(run_command(&plugin, "CHECK", known)), 7);
    assert!(plugin.calls().is_empty());
    assert_eq!(run_command(&plugin, "DEL", known), Ok(String::new()));
}

#[test]
fn every_command_reaches_its_method() {
    let plugin = Recorder::default();
    let stdin = r#"{"name":"n","cniVersion":"1.1.0","cni.dev/valid-attachments":[]}"#;
    for command in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
        let printed = run_command(&plugin, command, stdin).expect("served");
        assert_eq!(printed.is_empty(), command != "ADD", "{command} printed {printed}");
    }
    assert_eq!(
        plugin.calls(),
        [
            "add n/c1/eth0 /proc/self/ns/net ",
            "check n/c1/eth0",
            "del n/c1/eth0",
            "gc n",
            "status n"
        ]
    );
}

#[test]
fn the_result_is_printed_in_the_version_asked_for() {
    for (asked, printed) in [("1.1.0", "1.1.0"), ("0.3.1", "0.3.1"), ("", "0.1.0")] {
        let stdin = format!(
            r#"{{"name":"n","cniVersion":"{asked}","prevResult":{{"cniVersion":"1.0.0","ips":[{{"address":"10.0.0.2/24"}}]}}}}"#
        );
        let text = run_command(&Recorder::default(), "ADD", &stdin).expect("added");
        let json = Json::parse(text.as_bytes()).expect("one JSON document");
        let version = json.as_object().and_then(|top| top.get("cniVersion")).cloned();
        assert_eq!(version, Some(printed.into()), "{text}");
        assert!(text.contains("10.0.0.2/24"), "{text}");
    }
}

#[test]
fn add_looks_at_the_namespace_before_it_acts() {
    let plugin = Recorder::default();
    for netns in [OWN_NETNS, "/does/not/exist", "/etc/passwd"] {
        let environment = environment(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", netns)]);
        let stdin = r#"{"name":"n","cniVersion":"1.1.0"}"#;
        assert_eq!(code(dispatch(&plugin, environment, &mut stdin.as_bytes())), 8, "{netns}");
    }
    assert!(plugin.calls().is_empty());
}

#[test]
fn del_acts_and_then_reports_its_own_namespace() {
    let stdin = r#"{"name":"n","cniVersion":"1.1.0"}"#;
    for (netns, refused) in [(OWN_NETNS, true), ("", false), ("/does/not/exist", false)] {
        let plugin = Recorder::default();
        let environment = environment(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", netns)]);
        let outcome = dispatch(&plugin, environment, &mut stdin.as_bytes());
        assert_eq!(plugin.calls(), ["del n/c1/eth0"], "{netns}");
        assert_eq!(outcome.err().map(|e| e.code.number()), refused.then_some(8), "{netns}");
    }
}

#[test]
fn check_does_not_mind_its_own_namespace() {
    let plugin = Recorder::default();
    let environment = environment(&[("CNI_COMMAND", "CHECK"), ("CNI_NETNS", OWN_NETNS)]);
    let stdin = r#"{"name":"n","cniVersion":"1.1.0"}"#;
    assert_eq!(dispatch(&plugin, environment, &mut stdin.as_bytes()), Ok(String::new()));
    assert_eq!(plugin.calls(), ["check n/c1/eth0"]);
}

#[test]
fn what_gc_must_keep() {
    let list = r#"[{"containerID":"c1","ifname":"eth0"}]"#;
    let one =
        || Some(vec![ValidAttachment { container_id: "c1".to_owned(), ifname: "eth0".to_owned() }]);
    for (keys, expected) in [
        (format!(r#","cni.dev/valid-attachments":{list}"#), one()),
        (format!(r#","cni.dev/attachments":{list}"#), one()),
        (format!(r#","cni.dev/valid-attachments":{list},"cni.dev/attachments":[]"#), one()),
        (r#","cni.dev/valid-attachments":[]"#.to_owned(), Some(vec![])),
        (r#","cni.dev/valid-attachments":null"#.to_owned(), Some(vec![])),
        (r#","cni.dev/attachments":null"#.to_owned(), Some(vec![])),
        (String::new(), None),
    ] {
        let plugin = Recorder::default();
        let stdin = format!(r#"{{"name":"n","cniVersion":"1.1.0"{keys}}}"#);
        assert_eq!(run_command(&plugin, "GC", &stdin), Ok(String::new()), "{keys}");
        assert_eq!(plugin.valid.take(), expected, "{keys}");
    }
}

#[test]
fn gc_refuses_a_list_it_cannot_read() {
    for (list, place) in [
        ("{}", "cni.dev/valid-attachments"),
        ("[5]", "cni.dev/valid-attachments[0]"),
        (r#"[{"containerID":"c1"}]"#, "cni.dev/valid-attachments[0].ifname"),
        (r#"[{"containerID":1,"ifname":"eth0"}]"#, "cni.dev/valid-attachments[0].containerID"),
    ] {
        let plugin = Recorder::default();
        let stdin =
            format!(r#"{{"name":"n","cniVersion":"1.1.0","cni.dev/valid-attachments":{list}}}"#);
        let error = run_command(&plugin, "GC", &stdin).expect_err(list);
        assert!(error.msg.starts_with(&format!("{place} must be")), "{error}");
        // What is still valid is not known: nothing may be removed.
        assert!(plugin.calls().is_empty());
    }
}

/// Runs a command with a log file and returns the log's lines.
fn logged_lines(plugin: &Recorder, command: &str, version: &str, more: &str) -> Vec<Object> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    let stdin =
        format!(r#"{{"name":"n","cniVersion":"{version}","logFile":"{}"{more}}}"#, path.display());
    // The outcome is what the log is compared with by each caller.
    let _ = run_command(plugin, command, &stdin);
    let text = std::fs::read_to_string(&path).expect("a log was written");
    let parse = |line: &str| match Json::parse(line.as_bytes()) {
        Ok(Json::Object(object)) => object,
        other => panic!("{line}: {other:?}"),
    };
    text.lines().map(parse).collect()
}

fn members(line: &Object, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| line.get(key).map_or("-".to_owned(), ToString::to_string)).collect()
}

const CONTEXT: [&str; 6] = ["plugin", "command", "network", "containerID", "ifname", "outcome"];

#[test]
fn each_command_leaves_a_line_in_the_log() {
    for command in ["ADD", "CHECK", "GC", "STATUS"] {
        let more = r#","cni.dev/valid-attachments":[]"#;
        let lines = logged_lines(&Recorder::default(), command, "1.1.0", more);
        assert_eq!(lines.len(), 1, "{command}: {lines:?}");
        let command = format!("{command:?}");
        let expected = [r#""recorder""#, &command, r#""n""#, r#""c1""#, r#""eth0""#, r#""ok""#];
        assert_eq!(members(&lines[0], &CONTEXT), expected);
        assert!(matches!(lines[0].get("durationMicros"), Some(Json::Number(n)) if n.is_u64()));
        assert!(lines[0].get("time").is_some() && lines[0].get("level").is_some());
    }
}

#[test]
fn failures_and_warnings_are_logged_with_their_context() {
    let failure = CniError::new(ErrorCode::Kernel, "no room").with_details("ENOSPC");
    let plugin = Recorder { failure: Some(failure), ..Recorder::default() };
    let lines = logged_lines(&plugin, "DEL", "1.0.0", "");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(
        members(&lines[0], &["level", "msg", "outcome", "containerID"]),
        [r#""warn""#, r#""on the way""#, "-", r#""c1""#]
    );
    assert_eq!(
        members(&lines[1], &["level", "msg", "outcome", "code"]),
        [r#""error""#, r#""no room; ENOSPC""#, r#""error""#, "101"]
    );
}

#[test]
fn commands_refused_for_their_version_or_list_are_logged() {
    for (command, version, more, code) in [
        ("ADD", "9.9.9", "", "1"),
        ("DEL", "9.9.9", "", "1"),
        ("CHECK", "0.3.1", "", "1"),
        ("STATUS", "1.0.0", "", "1"),
        ("GC", "1.1.0", r#","cni.dev/valid-attachments":5"#, "7"),
    ] {
        let lines = logged_lines(&Recorder::default(), command, version, more);
        assert_eq!(lines.len(), 1, "{command}: {lines:?}");
        assert_eq!(members(&lines[0], &["outcome", "code"]), [r#""error""#, code], "{command}");
    }
}

#[test]
fn the_level_decides_what_is_written() {
    let lines = logged_lines(&Recorder::default(), "DEL", "1.0.0", r#","logLevel":"error""#);
    assert!(lines.is_empty(), "{lines:?}");
    let lines = logged_lines(&Recorder::default(), "DEL", "1.0.0", r#","logLevel":"warn""#);
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn wrong_log_settings_stop_what_makes_and_not_what_cleans_up() {
    for (setting, field) in [
        (r#""logFile":"relative/path""#, "logFile"),
        (r#""logFile":5"#, "logFile"),
        (r#""logLevel":"loud""#, "logLevel"),
        (r#""logLevel":["info"]"#, "logLevel"),
    ] {
        let valid = r#""cni.dev/valid-attachments":[]"#;
        let stdin = format!(r#"{{"name":"n","cniVersion":"1.1.0",{setting},{valid}}}"#);
        for command in ["ADD", "CHECK", "STATUS"] {
            let error =
                run_command(&Recorder::default(), command, &stdin).expect_err("wrong setting");
            assert!(error.code.number() == 7 && error.msg.starts_with(field), "{error}");
        }
        for command in ["DEL", "GC"] {
            let plugin = Recorder::default();
            assert_eq!(run_command(&plugin, command, &stdin), Ok(String::new()), "{setting}");
            assert_eq!(plugin.calls().len(), 1);
        }
    }
}

#[test]
fn a_log_that_cannot_be_opened_fails_nothing() {
    for path in ["/does/not/exist/log", "/proc", "/"] {
        let stdin = format!(r#"{{"name":"n","cniVersion":"1.1.0","logFile":"{path}"}}"#);
        assert!(run_command(&Recorder::default(), "ADD", &stdin).is_ok(), "{path}");
    }
}

#[test]
fn a_configuration_has_an_end() {
    let read = |length| read_all(&mut io::repeat(b' ').take(length)).map(|text| text.len());
    assert_eq!(read(64 << 20), Ok(64 << 20));
    let plugin = Recorder::default();
    let variables = [("CNI_COMMAND", "DEL"), ("CNI_NETNS", OWN_NETNS)];
    let error = dispatch(&plugin, environment(&variables), &mut io::repeat(b'{'));
    let error = error.expect_err("a stdin without an end");
    assert_eq!((error.code.number(), plugin.calls().len()), (6, 0));
    assert!(error.to_string().contains("too long") && error.details.contains("64 MiB"));
}

#[test]
fn a_configuration_of_very_many_values_is_too_large() {
    let text = format!(r#"{{"cniVersion":"1.0.0","name":"net","x":[{}0]}}"#, "0,".repeat(1 << 23));
    let error = NetworkConfig::from_stdin(text.as_bytes()).expect_err("more than 8 million");
    assert_eq!(error.code.number(), 6);
    assert!(error.msg.contains("too large") && error.details.contains("8388608 values"), "{error}");
}
