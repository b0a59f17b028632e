//! Input that nobody should send: each is refused with one error that names the culprit, and the
//! ruleset, which holds another container's mapping and somebody else's table, stays as it was.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use serde_json::json;

use crate::host::{Call, Host, Refusal};

const GOOD_MAPPING: &str = r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp"}"#;
const GOOD_RESULT: &str = r#"{"cniVersion":"1.1.0",
    "interfaces":[{"name":"veth0"},{"name":"eth0","sandbox":"/run/netns/container"}],
    "ips":[{"address":"10.0.0.2/24","interface":1},{"address":"fd00::2/64","interface":1}]}"#;

/// A configuration in text, so that it can hold what no JSON library would write.
struct Document {
    name: String,
    mappings: String,
    result: String,
    more: String,
}

impl Document {
    fn good() -> Self {
        Self {
            name: r#""net""#.to_owned(),
            mappings: format!("[{GOOD_MAPPING}]"),
            result: GOOD_RESULT.to_owned(),
            more: String::new(),
        }
    }

    /// With one port mapping.
    fn mapping(entry: &str) -> String {
        Self { mappings: format!("[{entry}]"), ..Self::good() }.text()
    }

    /// With further top-level members.
    fn with(more: &str) -> String {
        Self { more: format!("{more},"), ..Self::good() }.text()
    }

    fn result(result: &str) -> String {
        Self { result: result.to_owned(), ..Self::good() }.text()
    }

    fn text(&self) -> String {
        let Self { name, mappings, result, more } = self;
        format!(
            r#"{{"cniVersion":"1.1.0","name":{name},"type":"portmap",{more}"runtimeConfig":{{"portMappings":{mappings}}},"prevResult":{result}}}"#
        )
    }
}

/// A host with another container's mapping and a table that is not portmap's.
fn occupied_host() -> Host {
    let host = Host::new();
    host.tool("nft", &["add table ip foreign { comment \"not portmap's\"; }"]);
    host.tool("nft", &["add chain ip foreign nat_in { type nat hook prerouting priority -100; }"]);
    host.tool("nft", &["add rule ip foreign nat_in tcp dport 9999 redirect to :1"]);
    let other = Document {
        mappings: r#"[{"hostPort":9090,"containerPort":90,"protocol":"udp"}]"#.to_owned(),
        result: r#"{"ips":[{"address":"10.0.0.9/24"},{"address":"fd00::9/64"}]}"#.to_owned(),
        ..Document::good()
    };
    let add = Call::new("ADD", other.text()).set("CNI_CONTAINERID", "other");
    host.run(add).result("the other container");
    assert!(host.ruleset().contains("net/other/eth0"));
    host
}

/// Says which lines differ, instead of printing two rulesets.
fn assert_untouched(host: &Host, before: &str, context: &str) {
    let after = host.ruleset();
    let only_in = |one: &str, other: &str| -> Vec<String> {
        one.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect()
    };
    assert!(
        before == after,
        "{context}\nlost: {:#?}\nnew: {:#?}",
        only_in(before, &after),
        only_in(&after, before)
    );
}

/// Runs a call that must be refused without a trace.
fn refuse(host: &Host, call: Call, context: &str) -> Refusal {
    let before = host.ruleset();
    let refusal = host.run(call).refusal(context);
    assert_untouched(host, &before, context);
    refusal
}

/// A configuration that ADD and CHECK refuse with this code, naming this culprit, and with which
/// DEL removes all the same what an earlier ADD made.
fn refuse_config(host: &Host, stdin: &str, code: u64, culprit: &str) {
    let before = host.ruleset();
    for command in ["ADD", "CHECK"] {
        let refusal = refuse(host, Call::new(command, stdin), stdin);
        assert_eq!(refusal.code, code, "{command} {stdin}: {refusal:?}");
        assert!(refusal.msg.contains(culprit), "{culprit} is not named: {refusal:?}");
        assert!(refusal.msg.len() < 400, "{refusal:?}");
    }
    host.run(Call::new("ADD", Document::good().text())).result("a good ADD in between");
    assert!(host.ruleset().contains("net/c1/eth0"));
    host.run(Call::new("DEL", stdin)).silence(stdin);
    assert_untouched(host, &before, stdin);
}

#[test]
fn ports() {
    let host = occupied_host();
    for value in ["0", "65536", "70000", "-1", "\"80\"", "80.5", "null", "true", "[80]", "1e300"] {
        for (key, other) in [("hostPort", "containerPort"), ("containerPort", "hostPort")] {
            let entry = format!(r#"{{"{key}":{value},"{other}":80,"protocol":"tcp"}}"#);
            let culprit = format!("runtimeConfig.portMappings[0].{key} must be");
            refuse_config(&host, &Document::mapping(&entry), 7, &culprit);
        }
    }
    for (missing, present) in [("hostPort", "containerPort"), ("containerPort", "hostPort")] {
        let entry = format!(r#"{{"{present}":80,"protocol":"tcp"}}"#);
        let culprit = format!("portMappings[0].{missing} must be");
        refuse_config(&host, &Document::mapping(&entry), 7, &culprit);
    }
}

#[test]
fn a_number_that_is_none() {
    let host = occupied_host();
    for value in ["1e400", "080", "+80", "0x50", "NaN", "8_0"] {
        let entry = format!(r#"{{"hostPort":{value},"containerPort":80,"protocol":"tcp"}}"#);
        for command in ["ADD", "DEL", "CHECK"] {
            let refusal = refuse(&host, Call::new(command, Document::mapping(&entry)), value);
            assert!(refusal.code == 6 && refusal.details.contains("line 1"), "{refusal:?}");
        }
    }
}

#[test]
fn protocols() {
    let host = occupied_host();
    for value in [
        r#""tcp; drop""#,
        r#""""#,
        "null",
        r#""icmp""#,
        r#""tcp\n""#,
        "6",
        r#"" tcp""#,
        r#"["tcp"]"#,
    ] {
        let entry = format!(r#"{{"hostPort":80,"containerPort":80,"protocol":{value}}}"#);
        refuse_config(&host, &Document::mapping(&entry), 7, "portMappings[0].protocol must be");
    }
    let missing = Document::mapping(r#"{"hostPort":80,"containerPort":80}"#);
    refuse_config(&host, &missing, 7, "portMappings[0].protocol must be");
}

#[test]
fn host_addresses() {
    let host = occupied_host();
    for value in [
        r#""abc""#,
        r#""192.0.2.0/24""#,
        r#""fe80::1%eth0""#,
        r#""localhost""#,
        r#""1.2.3.4; drop""#,
        r#""1.2.3""#,
        r#""01.2.3.4""#,
        r#"" 192.0.2.1""#,
        r#""192.0.2.1\u0000""#,
        "5",
        r#"["192.0.2.1"]"#,
    ] {
        let entry =
            format!(r#"{{"hostPort":80,"containerPort":80,"protocol":"tcp","hostIP":{value}}}"#);
        refuse_config(&host, &Document::mapping(&entry), 7, "portMappings[0].hostIP must be");
    }
}

#[test]
fn a_mapped_host_address_is_its_ipv4_address() {
    let host = occupied_host();
    let entry =
        r#"{"hostPort":80,"containerPort":81,"protocol":"tcp","hostIP":"::ffff:192.0.2.7"}"#;
    let before = host.ruleset();
    host.run(Call::new("ADD", Document::mapping(entry))).result("::ffff:192.0.2.7");
    assert!(host.ruleset().contains("192.0.2.7 . tcp . 80"), "{}", host.ruleset());
    host.run(Call::new("CHECK", Document::mapping(entry))).silence("CHECK");
    host.run(Call::new("DEL", Document::mapping(entry))).silence("DEL");
    assert_untouched(&host, &before, "after DEL");
}

#[test]
fn contradictions_and_wrong_shapes_of_the_mappings() {
    let host = occupied_host();
    let to = |port: u16, host_ip: &str| {
        format!(r#"{{"hostPort":80,"containerPort":{port},"protocol":"tcp","hostIP":"{host_ip}"}}"#)
    };
    for (first, second) in
        [("", ""), ("", "0.0.0.0"), ("::", ""), ("192.0.2.1", "::ffff:192.0.2.1")]
    {
        let both = format!("{},{}", to(1, first), to(2, second));
        refuse_config(&host, &Document::mapping(&both), 7, "portMappings[1] maps host port 80/tcp");
    }
    for mappings in ["{}", r#""80:80""#, "5", "true"] {
        let document = Document { mappings: mappings.to_owned(), ..Document::good() };
        refuse_config(&host, &document.text(), 7, "runtimeConfig.portMappings must be a list");
    }
    for entry in ["null", "[]", r#""80:80/tcp""#, "80"] {
        refuse_config(&host, &Document::mapping(entry), 7, "portMappings[0] must be an object");
    }
    for runtime in ["[]", r#""x""#, "1"] {
        let document = format!(
            r#"{{"cniVersion":"1.1.0","name":"net","runtimeConfig":{runtime},"prevResult":{GOOD_RESULT}}}"#
        );
        refuse_config(&host, &document, 7, "runtimeConfig must be an object");
    }
}

#[test]
fn duplicated_keys_have_their_last_value() {
    let host = occupied_host();
    let last_is_bad = r#"{"hostPort":80,"HOSTPORT":0,"containerPort":80,"protocol":"tcp"}"#;
    refuse_config(&host, &Document::mapping(last_is_bad), 7, "hostPort must be");
    let before = host.ruleset();
    let last_is_good =
        r#"{"hostPort":0,"hostport":8081,"containerPort":"x","containerPort":80,"protocol":"tcp"}"#;
    host.run(Call::new("ADD", Document::mapping(last_is_good))).result("the last value is good");
    assert!(host.ruleset().contains("tcp . 8081"));
    host.run(Call::new("DEL", Document::mapping(last_is_good))).silence("DEL");
    assert_untouched(&host, &before, "after DEL");
}

#[test]
fn container_ids_and_interface_names() {
    let host = occupied_host();
    let good = || Document::good().text();
    let long_and_bad = format!("{}'", "a".repeat(299));
    for id in ["a\"b", "a'b", "a\nb", "a/b", "../c1", "c1;drop", "$(id)", "-c1", "", &long_and_bad]
    {
        for command in ["ADD", "DEL", "CHECK"] {
            let call = Call::new(command, good()).set("CNI_CONTAINERID", id);
            let refusal = refuse(&host, call, id);
            let named = refusal.msg.to_lowercase().contains("containerid");
            assert!(refusal.code == 4 && named, "{id:?}: {refusal:?}");
        }
    }
    for ifname in ["eth0\n", "eth 0", "eth/0", "eth:0", ".", "..", "0123456789abcdef", ""] {
        for command in ["ADD", "DEL", "CHECK"] {
            let call = Call::new(command, good()).set("CNI_IFNAME", ifname);
            let refusal = refuse(&host, call, ifname);
            let named = refusal.msg.contains("interface name") || refusal.msg.contains("IFNAME");
            assert!(refusal.code == 4 && named, "{ifname:?}: {refusal:?}");
        }
    }
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
        let call = Call::new("ADD", good()).set(name, OsString::from_vec(vec![b'a', 0xff]));
        let refusal = refuse(&host, call, name);
        assert!(refusal.code == 4 && refusal.msg.contains(name), "{refusal:?}");
    }
}

#[test]
fn network_names() {
    let host = occupied_host();
    let long_and_bad = json!(format!("{} ", "n".repeat(299))).to_string();
    for name in
        [r#""a\"b""#, r#""a\nb""#, r#""a/b""#, r#""a b""#, r#""n; drop""#, r#""""#, &long_and_bad]
    {
        for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            let document = Document { name: name.to_owned(), ..Document::good() };
            let refusal = refuse(&host, Call::new(command, document.text()), name);
            let named = refusal.msg.contains("network name");
            assert!(refusal.code == 7 && named, "{name}: {refusal:?}");
        }
    }
}

#[test]
fn long_names_work_and_leave_nothing() {
    let host = occupied_host();
    let before = host.ruleset();
    let document = || {
        let name = json!("n".repeat(300)).to_string();
        Document { name, ..Document::good() }.text()
    };
    for id in ["a".repeat(300), format!("{}b", "a".repeat(299))] {
        let call = |command| Call::new(command, document()).set("CNI_CONTAINERID", id.clone());
        host.run(call("ADD")).result("ADD");
        assert!(host.ruleset().contains("tcp . 8080"));
        host.run(call("CHECK")).silence("CHECK");
        host.run(call("DEL")).silence("DEL");
        assert_untouched(&host, &before, "after DEL");
    }
}

#[test]
fn json_that_ends_too_early() {
    let host = occupied_host();
    let before = host.ruleset();
    let document = Document::good().text();
    for end in 0..document.len() {
        let command = ["ADD", "DEL", "CHECK", "GC", "STATUS"][end % 5];
        let refusal = host.run(Call::new(command, &document[..end])).refusal(&document[..end]);
        assert_eq!(refusal.code, 6, "{}: {refusal:?}", &document[..end]);
    }
    assert_untouched(&host, &before, "after DEL");
}

#[test]
fn json_that_is_not_one_document() {
    let host = occupied_host();
    let good = Document::good().text();
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
            let refusal = refuse(&host, Call::new(command, stdin.clone()), context);
            assert_eq!(refusal.code, 6, "{context}: {refusal:?}");
            assert!(refusal.msg.contains("network config"), "{context}: {refusal:?}");
        }
    }
}

#[test]
fn a_huge_unknown_key_is_nobodys_problem() {
    let host = occupied_host();
    let before = host.ruleset();
    let document = Document::with(&format!("\"filler\":{}", json!("x".repeat(10_000_000))));
    let result = host.run(Call::new("ADD", document.clone())).result("10 MB");
    assert_eq!(result["ips"][0]["address"], "10.0.0.2/24");
    host.run(Call::new("CHECK", document.clone())).silence("CHECK");
    host.run(Call::new("DEL", document)).silence("DEL");
    assert_untouched(&host, &before, "after DEL");
}

#[test]
fn previous_results() {
    let host = occupied_host();
    for (result, culprit) in [
        ("null", "must be called as chained plugin"),
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
        refuse_config(&host, &Document::result(result), 7, culprit);
    }
    let missing = r#"{"cniVersion":"1.1.0","name":"net"}"#;
    refuse_config(&host, missing, 7, "must be called as chained plugin");
}

#[test]
fn odd_previous_results_that_are_none_the_worse() {
    let host = occupied_host();
    for result in [
        r#"{"ips":[{"address":"10.0.0.2/24","interface":99}]}"#,
        r#"{"ips":[{"address":"10.0.0.2/24","interface":-5}]}"#,
        r#"{"ips":[{"address":"10.0.0.2/24","interface":9223372036854775807}]}"#,
        r#"{"ips":[{"address":"10.0.0.2/0"}]}"#,
        r#"{"ips":[{"address":"fd00::2/0"}]}"#,
        // Its own network is the one that portmap masquerades for the loopback's sake.
        r#"{"ips":[{"address":"127.0.0.2/8"}]}"#,
        r#"{"ips":[{"address":"10.0.0.2/8"},{"address":"10.0.0.2/8"}]}"#,
    ] {
        let before = host.ruleset();
        let call = |command| Call::new(command, Document::result(result));
        host.run(call("ADD")).result(result);
        assert!(host.ruleset().contains("tcp . 8080"), "{result}");
        host.run(call("ADD")).result("ADD again");
        host.run(call("CHECK")).silence(result);
        host.run(call("DEL")).silence(result);
        assert!(!host.ruleset().contains("net/c1/eth0"), "{result}");
        let kept = |ruleset: &str| ruleset.matches("net/other/eth0").count();
        assert_eq!(kept(&host.ruleset()), kept(&before), "{result}");
    }
}

#[test]
fn namespaces() {
    let host = occupied_host();
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
            let call = Call::new(command, Document::good().text()).set("CNI_NETNS", netns);
            let refusal = refuse(&host, call, netns);
            assert!(refusal.code == 8 && refusal.msg.contains("CNI_NETNS"), "{refusal:?}");
        }
        let before = host.ruleset();
        host.run(Call::new("ADD", Document::good().text())).result("ADD in between");
        let del = Call::new("DEL", Document::good().text()).set("CNI_NETNS", netns);
        host.run(del).silence(netns);
        assert_untouched(&host, &before, "after DEL");
    }
}

#[test]
fn options() {
    let host = occupied_host();
    for (option, code, culprit) in [
        (r#""conditionsV4":["jump evil"]"#, 7, "jump"),
        (r#""conditionsV4":["ip saddr 10.0.0.0/8; drop"]"#, 7, "10.0.0.0/8;"),
        (r#""conditionsV4":["ip saddr 10.0.0.0/8","accept"]"#, 7, "accept"),
        (r#""conditionsV4":["ip6 saddr ::1"]"#, 7, "ip6"),
        (r#""conditionsV6":["ip6 saddr 10.0.0.1"]"#, 7, "10.0.0.1"),
        (r#""conditionsV4":["ip saddr"]"#, 7, "conditionsV4"),
        (r#""conditionsV4":"ip saddr 10.0.0.0/8""#, 7, "conditionsV4 must be"),
        (r#""conditionsV4":[5]"#, 7, "conditionsV4[0] must be"),
        (r#""backend":"nftables","conditionsV4":["-s","10.0.0.1"]"#, 2, "[conditionsV4]"),
        (r#""backend":"iptables","conditionsV6":["ip6","daddr","::1"]"#, 2, "[conditionsV6]"),
        (r#""backend":"foo""#, 2, "\"foo\""),
        (r#""backend":"""#, 2, "backend \"\""),
        (r#""backend":["nftables"]"#, 7, "backend must be"),
        (r#""markMasqBit":32"#, 7, "markMasqBit must be"),
        (r#""markMasqBit":-1"#, 7, "markMasqBit must be"),
        (r#""markMasqBit":"5""#, 7, "markMasqBit must be"),
        (
            r#""markMasqBit":5,"externalSetMarkChain":"X""#,
            7,
            "externalSetMarkChain and markMasqBit",
        ),
        (r#""backend":"nftables","externalSetMarkChain":"X""#, 2, "[externalSetMarkChain]"),
        (r#""externalSetMarkChain":"-j DROP""#, 7, "externalSetMarkChain must be"),
        (r#""externalSetMarkChain":5"#, 7, "externalSetMarkChain must be"),
        (r#""onConflict":"maybe""#, 7, "onConflict must be"),
        (r#""onConflict":true"#, 7, "onConflict must be"),
        (r#""snat":"yes""#, 7, "snat must be"),
        (r#""masqAll":1"#, 7, "masqAll must be"),
        (r#""logFile":"portmap.log""#, 7, "logFile must be"),
        (r#""logFile":5"#, 7, "logFile must be"),
        (r#""logLevel":"loud""#, 7, "logLevel must be"),
        (r#""logLevel":5"#, 7, "logLevel must be"),
        (r#""capabilities":{"portMappings":"true"}"#, 7, "capabilities.portMappings must be"),
        (r#""ipam":[]"#, 7, "ipam must be"),
        (r#""dns":"10.0.0.1""#, 7, "dns must be"),
    ] {
        refuse_config(&host, &Document::with(option), code, culprit);
    }
}

#[test]
fn attachment_lists() {
    let host = occupied_host();
    for (list, culprit) in [
        ("{}", "cni.dev/valid-attachments must be"),
        (r#""all""#, "cni.dev/valid-attachments must be"),
        ("[null]", "cni.dev/valid-attachments[0] must be"),
        (r#"[{"containerID":"other"}]"#, "valid-attachments[0].ifname must be"),
        (r#"[{"containerID":5,"ifname":"eth0"}]"#, "valid-attachments[0].containerID must be"),
    ] {
        let stdin = Document::with(&format!(r#""cni.dev/valid-attachments":{list}"#));
        let refusal = refuse(&host, Call::new("GC", stdin), list);
        assert!(refusal.code == 7 && refusal.msg.contains(culprit), "{refusal:?}");
    }
}

#[test]
fn a_table_of_our_name_that_is_not_ours() {
    // The same names with other types: nothing that portmap could add to.
    for (object, command) in [
        ("attachments", "add set inet cni_portmap attachments { type ipv4_addr; }"),
        ("by_port4", "add set inet cni_portmap by_port4 { type inet_service; }"),
        ("guard", "add chain inet cni_portmap guard { type filter hook input priority 5; }"),
        ("prerouting", "add chain inet cni_portmap prerouting"),
    ] {
        let host = Host::new();
        host.tool("nft", &["add table inet cni_portmap { comment \"cni-chain portmap\"; }"]);
        host.tool("nft", &[command]);
        let refusal = refuse(&host, Call::new("ADD", Document::good().text()), command);
        assert!(refusal.code == 101 && refusal.details.contains(object), "{refusal:?}");
    }
}
