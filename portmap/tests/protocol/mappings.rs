//! Port mappings and options that nobody should send; see [`cni_testbox::suite::hostile`].

use cni_testbox::suite::hostile::{Document, Occupied};
use cni_testbox::{Subject, TestBox, cases};

use crate::SAMPLE;

cases! {
    ports, ours;
    a_number_that_is_none, ours;
    protocols, ours;
    host_addresses, ours;
    a_mapped_host_address_is_its_ipv4_address, ours;
    contradictions_and_wrong_shapes_of_the_mappings, ours;
    duplicated_keys_have_their_last_value, ours;
    odd_previous_results_that_are_none_the_worse, ours;
    options, ours;
    a_table_of_our_name_that_is_not_ours, ours;
}

/// A configuration with this list of mappings.
fn with_mappings(s: &Subject, mappings: &str) -> String {
    Document::good(s).with(&format!(r#""runtimeConfig":{{"portMappings":{mappings}}}"#)).text()
}

/// A configuration with one mapping, or several between commas.
fn mapping(s: &Subject, entry: &str) -> String {
    with_mappings(s, &format!("[{entry}]"))
}

fn ports(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    let host = Occupied::new(s);
    for value in ["0", "65536", "70000", "-1", "\"80\"", "80.5", "null", "true", "[80]", "1e300"] {
        for (key, other) in [("hostPort", "containerPort"), ("containerPort", "hostPort")] {
            let entry = format!(r#"{{"{key}":{value},"{other}":80,"protocol":"tcp"}}"#);
            let culprit = format!("runtimeConfig.portMappings[0].{key} must be");
            host.refuse_config(&mapping(s, &entry), 7, &culprit);
        }
    }
    for (missing, present) in [("hostPort", "containerPort"), ("containerPort", "hostPort")] {
        let entry = format!(r#"{{"{present}":80,"protocol":"tcp"}}"#);
        let culprit = format!("portMappings[0].{missing} must be");
        host.refuse_config(&mapping(s, &entry), 7, &culprit);
    }
}

fn a_number_that_is_none(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    let host = Occupied::new(s);
    for value in ["1e400", "080", "+80", "0x50", "NaN", "8_0"] {
        let entry = format!(r#"{{"hostPort":{value},"containerPort":80,"protocol":"tcp"}}"#);
        for command in ["ADD", "DEL", "CHECK"] {
            let refusal = host.refuse(&s.call(command, mapping(s, &entry)));
            assert!(refusal.code == 6 && refusal.details.contains("line 1"), "{refusal:?}");
        }
    }
}

fn protocols(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    let host = Occupied::new(s);
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
        host.refuse_config(&mapping(s, &entry), 7, "portMappings[0].protocol must be");
    }
    let missing = mapping(s, r#"{"hostPort":80,"containerPort":80}"#);
    host.refuse_config(&missing, 7, "portMappings[0].protocol must be");
}

fn host_addresses(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    let host = Occupied::new(s);
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
        host.refuse_config(&mapping(s, &entry), 7, "portMappings[0].hostIP must be");
    }
}

fn a_mapped_host_address_is_its_ipv4_address(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    let entry =
        r#"{"hostPort":80,"containerPort":81,"protocol":"tcp","hostIP":"::ffff:192.0.2.7"}"#;
    // The first mapping of one address makes the map for it, which stays with the table.
    s.call("ADD", mapping(s, entry)).run(b).expect_result();
    s.call("DEL", mapping(s, entry)).run(b).expect_silence();
    let host = Occupied::new(s);
    s.call("ADD", mapping(s, entry)).run(b).expect_result();
    assert!(b.ruleset().contains("192.0.2.7 . tcp . 80"), "{}", b.ruleset());
    s.call("CHECK", mapping(s, entry)).run(b).expect_silence();
    s.call("DEL", mapping(s, entry)).run(b).expect_silence();
    host.is_untouched();
}

fn contradictions_and_wrong_shapes_of_the_mappings(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    let host = Occupied::new(s);
    let to = |port: u16, host_ip: &str| {
        format!(r#"{{"hostPort":80,"containerPort":{port},"protocol":"tcp","hostIP":"{host_ip}"}}"#)
    };
    for (first, second) in
        [("", ""), ("", "0.0.0.0"), ("::", ""), ("192.0.2.1", "::ffff:192.0.2.1")]
    {
        let both = format!("{},{}", to(1, first), to(2, second));
        host.refuse_config(&mapping(s, &both), 7, "portMappings[1] maps host port 80/tcp");
    }
    for mappings in ["{}", r#""80:80""#, "5", "true"] {
        host.refuse_config(
            &with_mappings(s, mappings),
            7,
            "runtimeConfig.portMappings must be a list",
        );
    }
    for entry in ["null", "[]", r#""80:80/tcp""#, "80"] {
        host.refuse_config(&mapping(s, entry), 7, "portMappings[0] must be an object");
    }
    for runtime in ["[]", r#""x""#, "1"] {
        let document = Document::good(s).with(&format!(r#""runtimeConfig":{runtime}"#));
        host.refuse_config(&document.text(), 7, "runtimeConfig must be an object");
    }
}

fn duplicated_keys_have_their_last_value(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    let host = Occupied::new(s);
    let last_is_bad = r#"{"hostPort":80,"HOSTPORT":0,"containerPort":80,"protocol":"tcp"}"#;
    host.refuse_config(&mapping(s, last_is_bad), 7, "hostPort must be");
    let last_is_good =
        r#"{"hostPort":0,"hostport":8081,"containerPort":"x","containerPort":80,"protocol":"tcp"}"#;
    s.call("ADD", mapping(s, last_is_good)).run(b).expect_result();
    assert!(b.ruleset().contains("tcp . 8081"));
    s.call("DEL", mapping(s, last_is_good)).run(b).expect_silence();
    host.is_untouched();
}

fn odd_previous_results_that_are_none_the_worse(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    Occupied::new(s);
    let kept = || b.ruleset().matches("net/other/eth0").count();
    let before = kept();
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
        let call = |command| s.call(command, Document::good(s).result(result).text());
        call("ADD").run(b).expect_result();
        assert!(b.ruleset().contains("tcp . 8080"), "{result}");
        call("ADD").run(b).expect_result();
        call("CHECK").run(b).expect_silence();
        call("DEL").run(b).expect_silence();
        assert!(!b.ruleset().contains("net/c1/eth0"), "{result}");
        assert_eq!(kept(), before, "{result}");
    }
}

fn options(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    let host = Occupied::new(s);
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
    ] {
        host.refuse_config(&Document::good(s).with(option).text(), code, culprit);
    }
}

fn a_table_of_our_name_that_is_not_ours(b: &TestBox) {
    let s = &Subject::new(b, &SAMPLE);
    // The same names with other types: nothing that portmap could add to.
    for (object, command) in [
        ("attachments", "add set inet cni_portmap attachments { type ipv4_addr; }"),
        ("by_port4", "add set inet cni_portmap by_port4 { type inet_service; }"),
    ] {
        b.nft("flush ruleset; add table inet cni_portmap { comment \"cni-chain portmap\"; }");
        b.nft(command);
        let before = b.state();
        let refusal = s.call("ADD", Document::good(s).text()).run(b).expect_refusal();
        assert!(refusal.code == 101 && refusal.details.contains(object), "{refusal:?}");
        assert_eq!(b.state(), before);
    }
}
