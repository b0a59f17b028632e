//! Input that nobody should send: each is refused with one error that names the culprit, and
//! everything stays as it was on a host where another container is served and somebody else has a
//! table.

#![expect(missing_docs, reason = "what a case shows is its name")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use serde_json::{Value, json};

use super::Subject;
use crate::{Call, Refusal};

/// The sample's configuration in text, so that it can hold what no JSON library would write.
#[derive(Clone, Debug)]
pub struct Document {
    name: String,
    members: String,
    result: String,
}

impl Document {
    /// What ADD accepts.
    pub fn good(s: &Subject<'_>) -> Self {
        let Value::Object(keys) = (s.sample.keys)(1) else { panic!("keys are an object") };
        let members = keys.iter().map(|(key, value)| format!("{}:{value},", json!(key)));
        Self {
            name: r#""net""#.to_owned(),
            members: members.collect(),
            result: s.container.result.to_string(),
        }
    }

    /// With further members, the last of which counts.
    #[must_use]
    pub fn with(mut self, more: &str) -> Self {
        self.members.extend([more, ","]);
        self
    }

    /// With this JSON as the network's name.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// With this JSON as prevResult.
    #[must_use]
    pub fn result(self, result: &str) -> Self {
        Self { result: result.to_owned(), ..self }
    }

    /// The JSON.
    pub fn text(&self) -> String {
        let Self { name, members, result } = self;
        format!(r#"{{"cniVersion":"1.1.0","name":{name},{members}"prevResult":{result}}}"#)
    }
}

/// A host with another container that the plugin serves, and a table that is not the plugin's.
#[derive(Debug)]
pub struct Occupied<'a> {
    s: &'a Subject<'a>,
    before: String,
}

impl<'a> Occupied<'a> {
    /// Where the plugin has been called for the subject's container before, so that only what its
    /// calls leave can differ.
    pub fn new(s: &'a Subject<'a>) -> Self {
        s.b.nft(
            "add table ip foreign { comment \"not the plugin's\"; }
             add chain ip foreign nat_in { type nat hook prerouting priority -100; }
             add rule ip foreign nat_in tcp dport 9999 redirect to :1",
        );
        let other = s.b.pair("other", 2);
        let config = s.working_for(&other, 2).to_string();
        Call::new(s.sample.plugin, "ADD", &other).stdin(config).run(s.b).expect_result();
        let good = |command| s.call(command, Document::good(s).text()).run(s.b);
        good("ADD").expect_result();
        good("DEL").expect_silence();
        Self { s, before: s.b.state() }
    }

    /// Everything is as it was.
    #[track_caller]
    pub fn is_untouched(&self) {
        let (before, after) = (&self.before, &self.s.b.state());
        // Says which lines differ, instead of printing two rulesets.
        let only_in = |one: &str, other: &str| -> Vec<String> {
            one.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect()
        };
        assert!(
            before == after,
            "lost: {:#?}\nnew: {:#?}",
            only_in(before, after),
            only_in(after, before)
        );
    }

    /// Something is not as it was.
    #[track_caller]
    pub fn is_touched(&self) {
        assert_ne!(self.before, self.s.b.state());
    }

    /// Runs a call that must be refused without a trace.
    #[track_caller]
    pub fn refuse(&self, call: &Call) -> Refusal {
        let refusal = call.run(self.s.b).expect_refusal();
        self.is_untouched();
        refusal
    }

    /// A configuration that ADD and CHECK refuse with this code, naming this culprit, and with which
    /// DEL removes all the same what an earlier ADD made.
    #[track_caller]
    pub fn refuse_config(&self, stdin: &str, code: u64, culprit: &str) {
        let s = self.s;
        for command in ["ADD", "CHECK"] {
            let refusal = s.call(command, stdin).run(s.b).expect_refusal();
            assert_eq!(refusal.code, code, "{command} {stdin}: {refusal:?}");
            assert!(refusal.msg.contains(culprit), "{culprit} is not named: {refusal:?}");
            assert!(refusal.msg.len() < 400, "{refusal:?}");
        }
        self.is_untouched();
        self.deletes_with(&s.call("DEL", stdin));
    }

    /// What a good ADD makes, this DEL removes.
    #[track_caller]
    pub fn deletes_with(&self, del: &Call) {
        let s = self.s;
        s.call("ADD", Document::good(s).text()).run(s.b).expect_result();
        del.run(s.b).expect_silence();
        self.is_untouched();
    }
}

pub fn a_number_that_is_none(s: &Subject<'_>) {
    let host = Occupied::new(s);
    for value in ["1e400", "080", "+80", "0x50", "NaN", "8_0"] {
        let stdin = Document::good(s).with(&format!(r#""whatever":{value}"#)).text();
        for command in ["ADD", "DEL", "CHECK"] {
            let refusal = host.refuse(&s.call(command, stdin.clone()));
            assert!(refusal.code == 6 && refusal.details.contains("line 1"), "{refusal:?}");
        }
    }
}

pub fn container_ids_and_interface_names(s: &Subject<'_>) {
    let host = Occupied::new(s);
    let good = || Document::good(s).text();
    let long_and_bad = format!("{}'", "a".repeat(299));
    for id in ["a\"b", "a'b", "a\nb", "a/b", "../c1", "c1;drop", "$(id)", "-c1", "", &long_and_bad]
    {
        for command in ["ADD", "DEL", "CHECK"] {
            let call = s.call(command, good()).env("CNI_CONTAINERID", id);
            let refusal = host.refuse(&call);
            let named = refusal.msg.to_lowercase().contains("containerid");
            assert!(refusal.code == 4 && named, "{id:?}: {refusal:?}");
        }
    }
    for ifname in ["eth0\n", "eth 0", "eth/0", "eth:0", ".", "..", "0123456789abcdef", ""] {
        for command in ["ADD", "DEL", "CHECK"] {
            let call = s.call(command, good()).env("CNI_IFNAME", ifname);
            let refusal = host.refuse(&call);
            let named = refusal.msg.contains("interface name") || refusal.msg.contains("IFNAME");
            assert!(refusal.code == 4 && named, "{ifname:?}: {refusal:?}");
        }
    }
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
        let call = s.call("ADD", good()).env(name, OsString::from_vec(vec![b'a', 0xff]));
        let refusal = host.refuse(&call);
        assert!(refusal.code == 4 && refusal.msg.contains(name), "{refusal:?}");
    }
}

/// Linux takes such names. DEL has nothing of theirs to find, and says so by silence.
pub fn interface_names_that_no_ruleset_can_hold_are_refused(s: &Subject<'_>) {
    let host = Occupied::new(s);
    let good = || Document::good(s).text();
    for ifname in ["a\"b", "\"", "a\u{1}b", "\u{1b}[31m", "a\u{7f}"] {
        for command in ["ADD", "CHECK"] {
            let refusal = host.refuse(&s.call(command, good()).env("CNI_IFNAME", ifname));
            let named = refusal.msg.contains("a quote or a control character");
            assert!(refusal.code == 4 && named, "{ifname:?}: {refusal:?}");
        }
        s.call("DEL", good()).env("CNI_IFNAME", ifname).run(s.b).expect_silence();
        host.is_untouched();
    }
}

pub fn network_names(s: &Subject<'_>) {
    let host = Occupied::new(s);
    let long_and_bad = json!(format!("{} ", "n".repeat(299))).to_string();
    for name in
        [r#""a\"b""#, r#""a\nb""#, r#""a/b""#, r#""a b""#, r#""n; drop""#, r#""""#, &long_and_bad]
    {
        for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            let document = Document::good(s).name(name);
            let refusal = host.refuse(&s.call(command, document.text()));
            let named = refusal.msg.contains("network name");
            assert!(refusal.code == 7 && named, "{name}: {refusal:?}");
        }
    }
}

pub fn long_names_work_and_leave_nothing(s: &Subject<'_>) {
    let host = Occupied::new(s);
    let document = || {
        let name = json!("n".repeat(300)).to_string();
        Document::good(s).name(&name).text()
    };
    for id in ["a".repeat(300), format!("{}b", "a".repeat(299))] {
        let call = |command| s.call(command, document()).env("CNI_CONTAINERID", id.clone());
        call("ADD").run(s.b).expect_result();
        host.is_touched();
        call("CHECK").run(s.b).expect_silence();
        call("DEL").run(s.b).expect_silence();
        host.is_untouched();
    }
}

pub fn json_that_ends_too_early(s: &Subject<'_>) {
    let host = Occupied::new(s);
    let document = Document::good(s).text();
    for end in 0..document.len() {
        let command = ["ADD", "DEL", "CHECK", "GC", "STATUS"][end % 5];
        let refusal = s.call(command, &document[..end]).run(s.b).expect_refusal();
        assert_eq!(refusal.code, 6, "{}: {refusal:?}", &document[..end]);
    }
    host.is_untouched();
}

pub fn json_that_is_not_one_document(s: &Subject<'_>) {
    let host = Occupied::new(s);
    let good = Document::good(s).text();
    let nested = format!("{{\"name\":\"net\",\"x\":{}", "[".repeat(100_000));
    let closed = format!("{nested}{}}}", "]".repeat(100_000));
    for (context, stdin) in [
        ("two documents", format!("{good}{good}")),
        ("a document and a bracket", format!("{good}]")),
        ("a byte order mark", format!("\u{feff}{good}")),
        ("UTF-16", good.chars().flat_map(|character| ['\0', character]).collect()),
        ("a NUL behind it", format!("{good}\0")),
        ("a comment", format!("/* */{good}")),
        ("a trailing comma", good.replace("}]}", "},]}")),
        ("100,000 open brackets", nested),
        ("100,000 nested lists", closed),
        ("a list of 10 MB", format!("[{}0]", "0,".repeat(5_000_000))),
        ("a string of 10 MB", json!("x".repeat(10_000_000)).to_string()),
    ] {
        for command in ["ADD", "DEL"] {
            let refusal = host.refuse(&s.call(command, stdin.clone()));
            assert_eq!(refusal.code, 6, "{context}: {refusal:?}");
            assert!(refusal.msg.contains("network config"), "{context}: {refusal:?}");
        }
    }
}

pub fn a_configuration_without_an_end(s: &Subject<'_>) {
    let host = Occupied::new(s);
    let padding = " ".repeat(64 << 20);
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let refusal = host.refuse(&s.call(command, Document::good(s).text() + &padding));
        assert!(refusal.code == 6 && refusal.msg.contains("too long"), "{refusal:?}");
        assert!(refusal.details.contains("64 MiB"), "{refusal:?}");
    }
}

/// Whatever makes it so long; and a result is printed as it came.
pub fn the_longest_configuration_takes_ten_times_its_length_of_memory(s: &Subject<'_>) {
    const LONGEST: usize = 64 << 20;
    let host = Occupied::new(s);
    let limit = format!("--as={}", 10 * LONGEST);
    let strings = format!(r#""strings":[{}0]"#, r#""short","#.repeat(8_000_000));
    let lists = format!(r#"{{"lists":[{}0],"#, "[0],".repeat(4_000_000));
    let result = s.container.result.to_string().replacen('{', &lists, 1);
    for document in [Document::good(s).with(&strings), Document::good(s).result(&result)] {
        let mut stdin = document.text();
        stdin.extend(std::iter::repeat_n(' ', LONGEST - stdin.len()));
        let call = |command| s.call(command, stdin.clone()).under(&["prlimit", &limit]).run(s.b);
        call("ADD").expect_success();
        call("CHECK").expect_silence();
        call("DEL").expect_silence();
        host.is_untouched();
    }
}

pub fn a_huge_unknown_key_is_nobodys_problem(s: &Subject<'_>) {
    let host = Occupied::new(s);
    let document =
        Document::good(s).with(&format!("\"filler\":{}", json!("x".repeat(10_000_000)))).text();
    let result = s.call("ADD", document.clone()).run(s.b).expect_result();
    assert_eq!(result["ips"][0]["address"], "10.9.1.2/24");
    s.call("CHECK", document.clone()).run(s.b).expect_silence();
    s.call("DEL", document).run(s.b).expect_silence();
    host.is_untouched();
}

pub fn previous_results(s: &Subject<'_>) {
    let host = Occupied::new(s);
    for (result, culprit) in [
        ("null", s.sample.no_prev_result),
        (r#""x""#, "could not parse prevResult"),
        ("[]", "could not parse prevResult"),
        ("5", "could not parse prevResult"),
        (r#"{"ips":[{"address":"10.0.0.2"}]}"#, "prevResult: ips[0].address must be"),
        (r#"{"ips":[{"address":"10.0.0.2/33"}]}"#, "prevResult: ips[0].address must be"),
        (r#"{"ips":[{"address":"10.0.0.2/24; drop"}]}"#, "prevResult: ips[0].address must be"),
        (r#"{"ips":{"address":"10.0.0.2/24"}}"#, "prevResult: ips must be"),
        (r#"{"ips":[{"address":"10.0.0.2/24","interface":"1"}]}"#, "ips[0].interface must be"),
        (r#"{"interfaces":[{"name":["eth0"]}]}"#, "interfaces[0].name must be"),
        (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
        (r#"{"cniVersion":1}"#, "cniVersion must be"),
    ] {
        host.refuse_config(&Document::good(s).result(result).text(), 7, culprit);
    }
    let missing = r#"{"cniVersion":"1.1.0","name":"net"}"#;
    host.refuse_config(missing, 7, s.sample.no_prev_result);
}

pub fn namespaces(s: &Subject<'_>) {
    let host = Occupied::new(s);
    let long = format!("/{}", "x".repeat(5000));
    for netns in [
        "/run",
        "/",
        "/etc/passwd",
        "/dev/null",
        "/run/netns/vanished",
        "/proc/999999999/ns/net",
        "relative",
        "container\n",
        &long,
    ] {
        for command in ["ADD", "CHECK"] {
            let call = s.call(command, Document::good(s).text()).env("CNI_NETNS", netns);
            let refusal = host.refuse(&call);
            assert!(refusal.code == 8 && refusal.msg.contains("CNI_NETNS"), "{refusal:?}");
        }
        let del = s.call("DEL", Document::good(s).text()).env("CNI_NETNS", netns);
        if s.sample.del_needs_netns {
            del.run(s.b).expect_silence();
            host.is_untouched();
        } else {
            host.deletes_with(&del);
        }
    }
}

pub fn options_of_every_plugin(s: &Subject<'_>) {
    let host = Occupied::new(s);
    for (option, culprit) in [
        (r#""logFile":"plugin.log""#, "logFile must be"),
        (r#""logFile":5"#, "logFile must be"),
        (r#""logLevel":"loud""#, "logLevel must be"),
        (r#""logLevel":5"#, "logLevel must be"),
        (r#""capabilities":{"portMappings":"true"}"#, "capabilities.portMappings must be"),
        (r#""ipam":[]"#, "ipam must be"),
        (r#""dns":"10.0.0.1""#, "dns must be"),
    ] {
        host.refuse_config(&Document::good(s).with(option).text(), 7, culprit);
    }
}

pub fn attachment_lists(s: &Subject<'_>) {
    let host = Occupied::new(s);
    for (list, culprit) in [
        ("{}", "cni.dev/valid-attachments must be"),
        (r#""all""#, "cni.dev/valid-attachments must be"),
        ("[null]", "cni.dev/valid-attachments[0] must be"),
        (r#"[{"containerID":"other"}]"#, "valid-attachments[0].ifname must be"),
        (r#"[{"containerID":5,"ifname":"eth0"}]"#, "valid-attachments[0].containerID must be"),
    ] {
        let stdin =
            Document::good(s).with(&format!(r#""cni.dev/valid-attachments":{list}"#)).text();
        let refusal = host.refuse(&s.call("GC", stdin));
        assert!(refusal.code == 7 && refusal.msg.contains(culprit), "{refusal:?}");
    }
}
