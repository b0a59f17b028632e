//! The published schemas of the plugins' configuration, judged against what the plugins accept and refuse.

use std::fs;
use std::path::{Path, PathBuf};

use cni_bandwidth::Bandwidth;
use cni_common::cni::Plugin;
use cni_common::cni::log::LogConfig;
use cni_common::cni::plugin::COMMON_KEYS;
use cni_common::cni::protocol::NetworkConfig;
use cni_firewall::Firewall;
use cni_portmap::Portmap;
use cni_tuning::Tuning;
use jsonschema::Validator;
use serde_json::{Map, Value, json};

/// A plugin as its schema and its code have it.
struct Judges {
    name: &'static str,
    schema: Value,
    validator: Validator,
    keys: &'static [&'static str],
    accepts: fn(&Value) -> Result<(), String>,
}

impl Judges {
    fn of<P: Plugin>() -> Self {
        let path = format!("docs/schema/{}.json", P::NAME);
        let schema: Value =
            serde_json::from_str(&fs::read_to_string(repository().join(path)).expect("a schema"))
                .expect("JSON");
        jsonschema::meta::validate(&schema).expect("a schema by its meta-schema");
        let validator = jsonschema::draft202012::new(&schema).expect("a schema");
        Self { name: P::NAME, schema, validator, keys: P::KEYS, accepts: accepts::<P> }
    }

    fn all() -> [Self; 4] {
        [
            Self::of::<Portmap>(),
            Self::of::<Bandwidth>(),
            Self::of::<Tuning>(),
            Self::of::<Firewall>(),
        ]
    }

    /// What both say of an entry, which has to be the same.
    fn disagreement(&self, entry: &Value) -> Option<String> {
        let by_schema: Vec<String> =
            self.validator.iter_errors(entry).map(|e| e.to_string()).collect();
        let by_plugin = (self.accepts)(entry);
        (by_schema.is_empty() != by_plugin.is_ok()).then(|| {
            format!("{}: {entry}\n    schema: {by_schema:?}\n    plugin: {by_plugin:?}", self.name)
        })
    }

    fn entry(&self, members: &[(&str, &Value)]) -> Value {
        let mut entry = Map::from_iter([("type".to_owned(), json!(self.name))]);
        for (key, value) in members {
            entry.insert((*key).to_owned(), (*value).clone());
        }
        entry.into()
    }
}

/// The plugin's reading of an entry, with what a list and a runtime add, and what `lint` says of its keys.
fn accepts<P: Plugin>(entry: &Value) -> Result<(), String> {
    let mut config = entry.as_object().ok_or("no object")?.clone();
    for (key, value) in [("name", "n"), ("cniVersion", "1.0.0")] {
        // An empty one is no version of a call, but in an entry it leaves that to the list.
        if config.get(key).is_none_or(|found| found.is_null() || found == "") {
            config.insert(key.to_owned(), json!(value));
        }
    }
    let known = |key: &str| P::KEYS.contains(&key) || COMMON_KEYS.contains(&key);
    if let Some(unknown) =
        entry.as_object().and_then(|e| e.keys().find(|key| !known(key) && !key.contains('.')))
    {
        return Err(format!("unknown key {unknown}"));
    }
    let text = Value::from(config).to_string();
    let config = NetworkConfig::from_stdin(text.as_bytes()).map_err(|error| error.to_string())?;
    let read = || {
        config.version()?;
        config.validate_common()?;
        config.prev_result()?;
        config.with_fields(LogConfig::read)?;
        P::validate(&config)
    };
    read().map_err(|error| error.to_string())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[track_caller]
fn assert_agreement(disagreements: impl Iterator<Item = String>) {
    let all: Vec<String> = disagreements.collect();
    let first: Vec<_> = all.iter().take(40).map(String::as_str).collect();
    assert!(all.is_empty(), "{} disagreements:\n{}", all.len(), first.join("\n"));
}

/// Values that nobody should write, and those that some key has.
fn values() -> Vec<Value> {
    let mut values = vec![
        Value::Null,
        json!(true),
        json!(false),
        json!({}),
        json!([]),
        json!([null]),
        json!([[]]),
        json!([{}]),
        json!([1]),
        json!([""]),
        json!(["10.0.0.0/8"]),
        json!(["fd00::/8", "10.0.0.1/32"]),
        json!(["999.0.0.0/8"]),
        json!(["10.0.0.0/33"]),
        json!(["10.0.0.0"]),
        json!(["ip", "saddr", "10.0.0.0/8"]),
        json!(["-s", "10.0.0.0/8"]),
        json!(["! -s 10.0.0.0/8"]),
        json!({ "a": 1 }),
        json!({ "a": true, "b": null }),
        json!({ "type": 1 }),
        json!({ "type": "static" }),
        json!({ "net.core.somaxconn": "1" }),
        json!({ "net/ipv4/conf/IFNAME/arp_filter": 1, "net.core.x": null }),
        json!({ "kernel.msgmax": "1" }),
        json!({ "net": "1" }),
        json!({ "net.x": true }),
        json!({ "net.x": "1\n2" }),
        json!({ "net.x": "1\t2" }),
        json!({ "net.x": [] }),
        json!({ "mac": "zz" }),
        json!({ "cni": { "mac": "02:00:00:00:00:01", "mtu": 1400 } }),
        json!({ "cni": { "mtu": 10 } }),
        json!({ "cni": 1 }),
        json!([{ "family": "inet", "table": "site", "chain": "forward" }]),
        json!([{ "family": "ip", "table": "filter", "chain": "FORWARD" }]),
        json!([{ "family": "ip6", "table": "filter", "chain": "FORWARD" }]),
        json!([{ "family": "inet", "table": "filter", "chain": "FORWARD" }]),
        json!([{ "family": "inet", "table": "cni_firewall", "chain": "x" }]),
        json!([{ "family": "ip", "table": "cni_firewall", "chain": "x" }]),
        json!([{ "family": "ip", "table": "x", "chain": "cni_firewall" }]),
        json!([{ "family": "arp", "table": "x", "chain": "y" }]),
        json!([{ "family": "ip", "table": "a b", "chain": "y" }]),
        json!([{ "family": "ip", "table": "x" }]),
    ];
    values.extend(from_runtimes());
    values.extend(numbers_and_texts());
    values
}

/// Bounds of some key, and beyond; words of some key, and what only looks like one.
fn numbers_and_texts() -> Vec<Value> {
    let numbers = [0_i64, 1, 7, 8, 13, 31, 32, 67, 68, 1500, 60_000, 60_001, 65_535, 65_536, -1];
    let mut values: Vec<Value> = numbers.map(Value::from).into();
    values.extend(
        [2_147_483_647_u64, 2_147_483_648, 34_359_738_359, 34_359_738_360, u64::MAX]
            .map(Value::from),
    );
    values.extend([1.5, 31.0, 1e19, 1e300].map(Value::from));
    let texts = [
        "",
        " ",
        "x",
        "0",
        "true",
        "nftables",
        "iptables",
        "firewalld",
        "NFTABLES",
        "replace",
        "wait",
        "fail",
        "open",
        "same-bridge",
        "isolated",
        "closed",
        "CNI-ADMIN",
        "CNI-FORWARD",
        "REJECT",
        "ip",
        "-A",
        "a b",
        "1st",
        "ä",
        "KUBE-MARK-MASQ",
        "quo\"te",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "line\nend",
        "/var/log/x",
        "relative",
        "debug",
        "trace",
        "1.0.0",
        "0.4.0",
        "2.0.0",
        "02:00:00:00:00:01",
        "02-AB-00-00-00-01",
        "02ab.0000.0001",
        "01:00:5e:00:00:01",
        "00:00:00:00:00:00",
        "02:00:00:00:00",
        "02:00-00:00:00:01",
        "trusted",
        "../x",
    ];
    values.extend(texts.map(Value::from));
    values
}

/// What runtimes hand over, or should not.
fn from_runtimes() -> Vec<Value> {
    vec![
        json!({ "portMappings": null }),
        json!({ "portMappings": {} }),
        json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "TCP" }] }),
        json!({ "portMappings": [{ "hostPort": 0, "containerPort": 80, "protocol": "tcp" }] }),
        json!({ "portMappings": [{ "hostPort": 80, "containerPort": 65536, "protocol": "tcp" }] }),
        json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "icmp" }] }),
        json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80 }] }),
        json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "udp", "hostIP": "::" }] }),
        json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "sctp", "hostIP": "1.2.3" }] }),
        json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "sctp", "hostIP": "10.0.0.1/8" }] }),
        json!({ "bandwidth": { "ingressRate": 8, "ingressBurst": 8 } }),
        json!({ "bandwidth": { "ingressRate": 8 } }),
        json!({ "bandwidth": { "egressRate": "8" } }),
        json!({ "bandwidth": { "shapedSubnets": ["10.0.0.0/8"], "unshapedSubnets": ["fd00::/8"] } }),
    ]
}

#[test]
fn schemas_have_the_keys_that_plugins_read() {
    for judges in Judges::all() {
        let mut by_schema: Vec<&str> = judges.schema["properties"]
            .as_object()
            .expect("keys")
            .keys()
            .map(String::as_str)
            .collect();
        let mut by_plugin: Vec<&str> = judges.keys.iter().chain(&COMMON_KEYS).copied().collect();
        by_schema.sort_unstable();
        by_plugin.sort_unstable();
        assert_eq!(by_schema, by_plugin, "{}", judges.name);
    }
}

#[test]
fn schema_and_plugin_agree_on_every_value_of_every_key() {
    let values = values();
    let all = Judges::all();
    let of_key = all.iter().flat_map(|judges| {
        let keys = judges.keys.iter().chain(COMMON_KEYS.iter().filter(|key| **key != "type"));
        keys.chain(&["snatt", "cni.dev/attachments"]).flat_map(|key| {
            values.iter().filter_map(|value| judges.disagreement(&judges.entry(&[(key, value)])))
        })
    });
    assert_agreement(of_key);
}

/// Keys that decide about each other, with values that are right by themselves, and one that is not.
#[test]
fn schema_and_plugin_agree_on_every_two_keys() {
    let (values, wrong) = (values(), json!({ "a": [] }));
    for judges in Judges::all() {
        let keys: Vec<&str> = judges.keys.iter().copied().chain(["runtimeConfig"]).collect();
        let right = |key: &str| -> Vec<&Value> {
            let accepted =
                |value: &&Value| (judges.accepts)(&judges.entry(&[(key, value)])).is_ok();
            values.iter().filter(accepted).chain([&wrong]).collect()
        };
        let values: Vec<Vec<&Value>> = keys.iter().map(|key| right(key)).collect();
        let pairs =
            (0..keys.len()).flat_map(|one| (one + 1..keys.len()).map(move |other| (one, other)));
        let disagreements = pairs.flat_map(|(one, other)| {
            let (ones, others) = (&values[one], &values[other]);
            let both = ones.iter().flat_map(move |a| others.iter().map(move |b| (*a, *b)));
            let (keys, judges) = (&keys, &judges);
            both.filter_map(move |(a, b)| {
                judges.disagreement(&judges.entry(&[(keys[one], a), (keys[other], b)]))
            })
        });
        assert_agreement(disagreements);
    }
}

/// The lists that are shipped, and those that documents show.
#[test]
fn what_is_shipped_is_valid() {
    let mut lists = Vec::new();
    for file in fs::read_dir(repository().join("deploy/conflists")).expect("lists").flatten() {
        lists.push(fs::read_to_string(file.path()).expect("a list"));
    }
    for plugin in ["portmap", "bandwidth", "tuning", "firewall"] {
        let text =
            fs::read_to_string(repository().join(format!("docs/{plugin}.md"))).expect("a document");
        let blocks = text.split("```json\n").skip(1);
        lists.extend(blocks.filter_map(|block| Some(block.split_once("```")?.0.to_owned())));
    }
    let all = Judges::all();
    let mut seen = 0;
    for text in lists {
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let entries = list["plugins"].as_array().map_or(std::slice::from_ref(&list), Vec::as_slice);
        for entry in entries {
            let Some(judges) = all.iter().find(|judges| entry["type"] == judges.name) else {
                continue;
            };
            let faults: Vec<String> =
                judges.validator.iter_errors(entry).map(|fault| fault.to_string()).collect();
            assert_eq!(faults, [""; 0], "{text}");
            assert_agreement(judges.disagreement(entry).into_iter());
            seen += 1;
        }
    }
    assert!(seen > 6, "{seen}");
}

/// What a schema's language cannot say, or says in another way: known, and nothing else.
#[test]
fn what_only_the_plugin_knows() {
    let [portmap, bandwidth, tuning, _] = Judges::all();
    let mapping = |to: u16| json!({ "hostPort": 80, "containerPort": to, "protocol": "tcp" });
    let contradiction = json!({ "portMappings": [mapping(1), mapping(2)] });
    for (judges, key, value) in [
        (&portmap, "runtimeConfig", contradiction),
        (
            &portmap,
            "runtimeConfig",
            json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80,
            "protocol": "tcp", "hostIP": "1:2" }] }),
        ),
        (&bandwidth, "shapedSubnets", json!(["1:2/64"])),
        (&tuning, "sysctl", json!({ "net.a.a": "1", "net/a/a": "2" })),
        (&tuning, "sysctl", json!({ "net.a.a": 1.0 })),
    ] {
        let entry = judges.entry(&[(key, &value)]);
        assert!(judges.validator.is_valid(&entry), "{entry}");
        assert!((judges.accepts)(&entry).is_err(), "{entry}");
    }
    let entry = json!({ "type": "portmap", "SNAT": true });
    assert!(!portmap.validator.is_valid(&entry), "one spelling of a key");
}
