//! Hostile input: each gives exactly one error with the right code, names the culprit and changes
//! nothing; what only looks odd is served.

use serde_json::{Value, json};

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST_V6, Network, Outcome, TestBox, Transport, cases, portmap,
};

cases! {
    ports_out_of_range, ours;
    protocols_that_do_not_exist, ours;
    a_protocol_in_capitals_is_served;
    a_protocol_by_number_is_served;
    host_addresses_that_are_none, ours;
    mappings_of_the_wrong_type, ours;
    network_names_outside_the_alphabet, ours;
    a_long_network_name_is_served;
    stdin_that_is_no_configuration, ours;
    a_duplicated_key_counts_as_last_written;
    ten_megabytes_of_unknown_keys_are_ignored;
    prev_results_that_are_none, ours;
    no_prev_result, ours;
    namespaces_that_are_none, ours;
    a_namespace_of_another_kind, ours;
    versions_that_do_not_exist;
    environment_that_is_missing;
    del_goes_on_with_a_bad_configuration, go_defect(
        "DEL validates the mappings as ADD does and can then never succeed"
    );
}

/// The JSON of one mapping with one key replaced.
fn mapping_with(key: &str, value: Value) -> Value {
    let mut mapping = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" });
    mapping[key] = value;
    mapping
}

fn add(web: &Attachment, mapping: &Value) -> Call {
    portmap("ADD", web).set("runtimeConfig", json!({ "portMappings": [mapping] }))
}

/// Calls that must all be refused with `code`, each error naming its word, changing nothing.
#[track_caller]
fn refused(b: &TestBox, code: u64, calls: Vec<(Call, &str)>) {
    let before = b.ruleset();
    for (call, word) in calls {
        let refusal: Outcome = call.run(b);
        refusal.expect_error_with(code, &[word]);
        assert_eq!(b.ruleset(), before, "{refusal:?}");
    }
}

fn ports_out_of_range(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    for key in ["hostPort", "containerPort"] {
        let values = [json!(0), json!(-1), json!(65536), json!(70000), json!("80"), json!(80.5)];
        let calls = values.map(|value| (add(&web, &mapping_with(key, value)), key));
        refused(b, 7, calls.into());
        let mut without = mapping_with(key, json!(null));
        without.as_object_mut().expect("an object").remove(key);
        refused(b, 7, vec![(add(&web, &without), key)]);
    }
}

fn protocols_that_do_not_exist(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let values = ["tcp; drop", "", "icmp", "tcp,udp", "all", "tcp\n", "-1", "256"];
    let calls = values.map(|v| (add(&web, &mapping_with("protocol", json!(v))), "protocol"));
    refused(b, 7, calls.into());
    let without = json!({ "hostPort": 8080, "containerPort": 80 });
    refused(b, 7, vec![(add(&web, &without), "protocol")]);
}

fn a_protocol_in_capitals_is_served(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    add(&web, &mapping_with("protocol", json!("TCP"))).run(b).expect_result();
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.out.reach(Transport::Tcp, HOST_V6, 8080).by("web");
}

/// `iptables -p 6` works, and so do mappings that rely on it.
fn a_protocol_by_number_is_served(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    add(&web, &mapping_with("protocol", json!("6"))).run(b).expect_result();
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.out.reach(Transport::Tcp, HOST_V6, 8080).by("web");
}

fn host_addresses_that_are_none(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let values = [
        "garbage",
        "198.51.100.1/24",
        "fe80::1%eth0",
        "localhost",
        "host.example",
        "1.2.3",
        "1.2.3.4.5",
        "198.51.100.1\n",
        "::g",
        "0x7f.1",
        "[::1]",
    ];
    let calls = values.map(|v| (add(&web, &mapping_with("hostIP", json!(v))), "hostIP"));
    refused(b, 7, calls.into());
}

fn mappings_of_the_wrong_type(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let with = |value: Value| portmap("ADD", &web).set("runtimeConfig", value);
    refused(
        b,
        7,
        vec![
            (with(json!({ "portMappings": "8080:80" })), "portMappings"),
            (with(json!({ "portMappings": { "hostPort": 8080 } })), "portMappings"),
            (with(json!({ "portMappings": [8080] })), "portMappings"),
            (with(json!([])), "runtimeConfig"),
            (add(&web, &mapping_with("protocol", json!(6))), "protocol"),
            (add(&web, &mapping_with("hostIP", json!(0))), "hostIP"),
        ],
    );
}

fn network_names_outside_the_alphabet(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let mapping = mapping_with("hostPort", json!(8080));
    let names =
        ["", "a b", "a\"b", "a'b", "a\nb", "a/b", "../x", "-a", ".a", "é", "a;drop", "$(id)"];
    let calls = names.map(|name| (add(&web, &mapping).set("name", json!(name)), "network name"));
    refused(b, 7, calls.into());
}

fn a_long_network_name_is_served(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    let names = ["n".repeat(300), "n".repeat(301)];
    let call = |command: &str, web: &Attachment, name: &str, port: u16| {
        portmap(command, web).set("name", json!(name)).set(
            "runtimeConfig",
            json!({ "portMappings": [mapping_with("hostPort", json!(port))] }),
        )
    };
    call("ADD", &web, &names[0], 8080).run(b).expect_result();
    call("ADD", &other, &names[1], 8081).run(b).expect_result();
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    call("DEL", &web, &names[0], 8080).run(b).expect_silence();
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
    b.out.reach(Transport::Tcp, HOST_V4, 8081).by("other");
}

fn stdin_that_is_no_configuration(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let big = vec![b'['; 10 << 20];
    let texts: [&[u8]; 9] = [
        b"",
        b" ",
        br#"{"cniVersion":"1.0.0","name":"net1","#,
        br#"{"cniVersion":"1.0.0","name":"net1"}{"name":"again"}"#,
        br#"[{"cniVersion":"1.0.0","name":"net1"}]"#,
        b"\"text\"",
        b"not json",
        &deep,
        &big,
    ];
    let calls = texts.map(|text| (portmap("ADD", &web).stdin(text), "config"));
    refused(b, 6, calls.into());
    let wrong = |key| portmap("ADD", &web).set(key, json!(1));
    refused(b, 6, vec![(wrong("name"), "name"), (wrong("cniVersion"), "version")]);
}

fn raw_add(web: &Attachment, more: &str) -> Call {
    let text = format!(
        r#"{{"cniVersion":"1.0.0","name":"net1","type":"portmap","prevResult":{},{more}}}"#,
        web.result
    );
    portmap("ADD", web).stdin(text)
}

fn a_duplicated_key_counts_as_last_written(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let mapping = r#"{"hostPort":1,"hostPort":8080,"containerPort":80,"protocol":"tcp"}"#;
    let config = format!(r#""runtimeConfig":{{"portMappings":[{mapping}]}}"#);
    raw_add(&web, &config).run(b).expect_result();
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 1);
}

fn ten_megabytes_of_unknown_keys_are_ignored(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let mapping = mapping_with("hostPort", json!(8080));
    let config = format!(
        r#""runtimeConfig":{{"portMappings":[{mapping}]}},"noise":[{}0]"#,
        "0,".repeat(5 << 20)
    );
    raw_add(&web, &config).run(b).expect_result();
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
}

fn prev_results_that_are_none(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let mapping = mapping_with("hostPort", json!(8080));
    let values = [
        json!([]),
        json!("text"),
        json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.88.1.2" }] }),
        json!({ "cniVersion": "1.0.0", "ips": [{ "address": "garbage/24" }] }),
        json!({ "cniVersion": "1.0.0", "ips": "10.88.1.2/24" }),
    ];
    let calls = values.map(|value| (add(&web, &mapping).set("prevResult", value), "prevResult"));
    refused(b, 7, calls.into());
    let foreign = json!({ "cniVersion": "9.9.9" });
    refused(b, 7, vec![(add(&web, &mapping).set("prevResult", foreign), "9.9.9")]);
}

fn no_prev_result(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let call = add(&web, &mapping_with("hostPort", json!(8080))).without("prevResult");
    refused(b, 7, vec![(call, "must be called as chained plugin")]);
}

fn namespaces_that_are_none(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    std::fs::write("/run/file", "").expect("a file in the box");
    let paths = ["/run/netns", "/run/file", "/run/netns/gone", "relative"];
    let calls = paths.map(|path| {
        (add(&web, &mapping_with("hostPort", json!(8080))).env("CNI_NETNS", path), path)
    });
    refused(b, 8, calls.into());
}

fn a_namespace_of_another_kind(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let path = "/proc/self/ns/uts";
    let call = add(&web, &mapping_with("hostPort", json!(8080))).env("CNI_NETNS", path);
    refused(b, 8, vec![(call, path)]);
}

fn versions_that_do_not_exist(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let calls = ["9.9.9", "1.0", " 1.0.0", "abc"].map(|version| {
        let call = add(&web, &mapping_with("hostPort", json!(8080)));
        (call.set("cniVersion", json!(version)), "incompatible CNI versions")
    });
    refused(b, 1, calls.into());
}

fn environment_that_is_missing(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let mapping = mapping_with("hostPort", json!(8080));
    let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
    refused(b, 4, names.map(|name| (add(&web, &mapping).env(name, ""), name)).into());
    let odd = ["a/b", "a b", "a\"b", "$(id)", "-a"].map(|id| {
        (add(&web, &mapping).env("CNI_CONTAINERID", id), "invalid characters in containerID")
    });
    refused(b, 4, odd.into());
    let odd = ["a/b", "a:b", "0123456789abcdef", ".."]
        .map(|name| (add(&web, &mapping).env("CNI_IFNAME", name), "interface name"));
    refused(b, 4, odd.into());
}

fn del_goes_on_with_a_bad_configuration(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    add(&web, &mapping_with("hostPort", json!(8080))).run(b).expect_result();
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    let bad = json!({ "portMappings": [mapping_with("hostPort", json!(65536))] });
    portmap("DEL", &web)
        .set("runtimeConfig", bad)
        .set("prevResult", json!({ "ips": "garbage" }))
        .run(b)
        .expect_success();
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
}
