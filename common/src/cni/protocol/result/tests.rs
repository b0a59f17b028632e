//! Decoding, printing and converting results; T01 to T08 are the conversions libcni documents.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn decode(document: &Value, fallback: CniVersion) -> Result<CniResult, CniError> {
    let json = Json::parse(document.to_string().as_bytes()).expect("test documents are JSON");
    CniResult::from_json(&json, fallback)
}

/// What `document` becomes in `version`; its own version is in it.
fn convert(document: &Value, version: CniVersion) -> Result<Value, CniError> {
    let json = decode(document, CniVersion::V1_1_0)?.to_json(version)?;
    Ok(as_value(&json))
}

fn converted(document: &Value, version: CniVersion) -> Value {
    convert(document, version).expect("this result converts")
}

/// The same document in a type whose objects have no order; a key written twice would be hidden
/// by it and is refused.
fn as_value(json: &Json) -> Value {
    assert_unique_keys(json);
    serde_json::from_str(&json.to_string()).expect("printed results are JSON")
}

fn assert_unique_keys(json: &Json) {
    match json {
        Json::Object(object) => {
            let mut keys: Vec<_> = object.iter().map(|(key, _)| key.to_lowercase()).collect();
            keys.sort();
            let count = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), count, "a key is written twice in {json}");
            object.iter().for_each(|(_, value)| assert_unique_keys(value));
        }
        Json::Array(items) => items.iter().for_each(assert_unique_keys),
        _ => {}
    }
}

fn full() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "br0", "mac": "02:00:00:00:00:01", "mtu": 1400},
            {"name": "eth0", "sandbox": "/run/netns/c", "socketPath": "/s", "pciID": "0000:00:1f.6"}
        ],
        "ips": [
            {"interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.1"},
            {"interface": 1, "address": "10.0.1.2/24"},
            {"interface": 1, "address": "fd00::2/64", "gateway": "fd00::1"}
        ],
        "routes": [
            {"dst": "::/0", "gw": "fd00::1", "priority": 7},
            {"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1300, "advmss": 1260, "table": 0, "scope": 0},
            {"dst": "192.0.2.0/24"}
        ],
        "dns": {"nameservers": ["10.0.0.1"], "domain": "d", "search": ["s"], "options": ["o"]}
    })
}

#[test]
fn t01_newest_to_oldest_keeps_the_first_address_of_each_family() {
    for (version, text) in [(CniVersion::V0_1_0, "0.1.0"), (CniVersion::V0_2_0, "0.2.0")] {
        assert_eq!(
            converted(&full(), version),
            json!({
                "cniVersion": text,
                "ip4": {
                    "ip": "10.0.0.2/24",
                    "gateway": "10.0.0.1",
                    "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "192.0.2.0/24"}]
                },
                "ip6": {
                    "ip": "fd00::2/64",
                    "gateway": "fd00::1",
                    "routes": [{"dst": "::/0", "gw": "fd00::1"}]
                },
                "dns": {"nameservers": ["10.0.0.1"], "domain": "d", "search": ["s"], "options": ["o"]}
            })
        );
    }
}

#[test]
fn t02_the_oldest_form_needs_an_address() {
    for known in
        [json!({"interfaces": [{"name": "eth0"}]}), json!({"routes": [{"dst": "0.0.0.0/0"}]})]
    {
        for version in [CniVersion::V0_1_0, CniVersion::V0_2_0] {
            let error = convert(&known, version).expect_err("no address");
            assert_eq!(error.msg, "cannot convert: no valid IP addresses");
        }
    }
}

#[test]
fn t03_a_route_of_a_family_without_address_is_lost() {
    let document = json!({
        "ips": [{"address": "10.0.0.2/24"}],
        "routes": [{"dst": "::/0", "gw": "fd00::1"}, {"dst": "0.0.0.0/0"}]
    });
    assert_eq!(
        converted(&document, CniVersion::V0_2_0),
        json!({
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.0.0.2/24", "routes": [{"dst": "0.0.0.0/0"}]},
            "dns": {}
        })
    );
}

#[test]
fn t04_oldest_to_newest() {
    let document = json!({
        "cniVersion": "0.2.0",
        "ip6": {"ip": "fd00::2/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
        "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]}
    });
    assert_eq!(
        converted(&document, CniVersion::V1_1_0),
        json!({
            "cniVersion": "1.1.0",
            "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}, {"address": "fd00::2/64"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}]
        })
    );
}

#[test]
fn t05_the_address_version_is_computed_from_the_address() {
    let document = json!({
        "cniVersion": "0.4.0",
        "ips": [{"version": "6", "address": "10.0.0.2/24"}, {"version": "6", "address": "fd00::2/64"}]
    });
    let newer = converted(&document, CniVersion::V1_0_0);
    assert_eq!(newer["ips"], json!([{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]));
    for version in [CniVersion::V0_3_0, CniVersion::V0_3_1, CniVersion::V0_4_0] {
        assert_eq!(
            converted(&newer, version)["ips"],
            json!([
                {"version": "4", "address": "10.0.0.2/24"},
                {"version": "6", "address": "fd00::2/64"}
            ])
        );
    }
}

#[test]
fn t06_oldest_to_middle_and_back_is_lossless() {
    for gateway in [json!({"dst": "0.0.0.0/0", "gw": "10.0.0.1"}), json!({"dst": "0.0.0.0/0"})] {
        let document = json!({
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1", "routes": [gateway]},
            "ip6": {"ip": "fd00::2/64"},
            "dns": {"nameservers": ["192.0.2.53"]}
        });
        let middle = converted(&document, CniVersion::V0_4_0);
        assert_eq!(converted(&middle, CniVersion::V0_2_0), document);
    }
}

#[test]
fn t07_unknown_versions() {
    for version in ["9.9.9", "1.0", "abc", "1.1.0 "] {
        let error = convert(&json!({"cniVersion": version}), CniVersion::V1_0_0)
            .expect_err("unknown source version");
        assert!(error.msg.contains(&format!("{version:?}")), "{error}");
        assert_eq!(CniVersion::from_text(version), None, "unknown target version");
    }
    assert!(convert(&json!({"cniVersion": 1}), CniVersion::V1_0_0).is_err());
}

#[test]
fn t08_what_is_no_address() {
    for (document, place) in [
        (json!({"ips": [{"address": "10.0.0.2"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "10.0.0.2/33"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "10.0.0.2/-1"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "fd00::2/129"}]}), "ips[0].address"),
        (json!({"ips": [{"address": 10}]}), "ips[0].address"),
        (json!({"ips": [{"address": ""}]}), "ips[0].address"),
        (json!({"ips": [{}]}), "ips[0].address"),
        (json!({"ips": [null]}), "ips[0]"),
        (json!({"ips": [[]]}), "ips[0]"),
        (json!({"ips": {}}), "ips"),
        (json!({"ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1/24"}]}), "ips[0].gateway"),
        (json!({"ips": [{"address": "10.0.0.2/24", "gateway": 1}]}), "ips[0].gateway"),
        (json!({"ips": [{"address": "10.0.0.2/24", "interface": "0"}]}), "ips[0].interface"),
        (json!({"ips": [{"address": "10.0.0.2/24", "interface": 0.5}]}), "ips[0].interface"),
        (json!({"routes": [{"dst": "10.0.0.0"}]}), "routes[0].dst"),
        (json!({"routes": [{"gw": "10.0.0.1"}]}), "routes[0].dst"),
        (json!({"routes": [{"dst": "::/0", "gw": "gateway"}]}), "routes[0].gw"),
        (json!({"routes": [{"dst": "::/0", "table": "main"}]}), "routes[0].table"),
        (json!({"interfaces": ["eth0"]}), "interfaces[0]"),
        (json!({"interfaces": [{"name": 5}]}), "interfaces[0].name"),
        (json!({"interfaces": [{"name": "eth0", "mtu": "1500"}]}), "interfaces[0].mtu"),
        (json!({"dns": []}), "dns"),
        (json!({"dns": {"nameservers": "10.0.0.1"}}), "dns.nameservers"),
        (json!({"ip4": {"ip": "10.0.0.2"}}), "ip4.ip"),
        (json!({"ip4": {}}), "ip4.ip"),
        (json!({"ip6": {"ip": "fd00::2/64", "routes": [{"dst": "x"}]}}), "ip6.routes[0].dst"),
    ] {
        let error = decode(&document, CniVersion::V1_1_0).expect_err("a wrong value");
        assert!(error.msg.starts_with(&format!("{place} must be")), "{document}: {error}");
        assert_eq!(error.code.number(), 7);
    }
}

#[test]
fn every_version_prints_itself() {
    for version in CniVersion::ALL {
        assert_eq!(converted(&full(), version)["cniVersion"], version.as_str());
        let empty = converted(&json!({}), version);
        let dns = version <= CniVersion::V0_4_0;
        let expected = if dns {
            json!({"cniVersion": version.as_str(), "dns": {}})
        } else {
            json!({"cniVersion": version.as_str()})
        };
        assert_eq!(empty, expected);
    }
}

#[test]
fn interface_properties_of_one_point_x_are_lost_below() {
    for version in [CniVersion::V1_0_0, CniVersion::V1_1_0] {
        assert_eq!(converted(&full(), version)["interfaces"], full()["interfaces"]);
    }
    assert_eq!(
        converted(&full(), CniVersion::V0_4_0)["interfaces"],
        json!([
            {"name": "br0", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "sandbox": "/run/netns/c"}
        ])
    );
}

#[test]
fn route_attributes_survive_wherever_there_are_routes() {
    for version in [CniVersion::V0_3_0, CniVersion::V0_3_1, CniVersion::V0_4_0, CniVersion::V1_0_0]
    {
        assert_eq!(converted(&full(), version)["routes"], full()["routes"]);
    }
}

#[test]
fn indices_are_kept_whatever_they_mean() {
    for interface in [json!(0), json!(-1), json!(7), json!(i64::MAX), json!(i64::MIN)] {
        let document = json!({"ips": [{"address": "10.0.0.2/24", "interface": interface}]});
        for version in [CniVersion::V0_3_0, CniVersion::V1_1_0] {
            assert_eq!(converted(&document, version)["ips"][0]["interface"], interface);
        }
    }
    let absent = converted(&json!({"ips": [{"address": "10.0.0.2/24"}]}), CniVersion::V1_1_0);
    assert_eq!(absent["ips"], json!([{"address": "10.0.0.2/24"}]));
}

#[test]
fn a_result_without_version_has_the_fallback() {
    let document = json!({"ip4": {"ip": "10.0.0.2/24"}});
    for empty in [json!(null), json!("")] {
        let mut document = document.clone();
        document["cniVersion"] = empty;
        assert_eq!(decode(&document, CniVersion::V0_2_0).map(|r| r.ips.len()), Ok(1));
    }
    // Read by its shape, too: a runtime may stamp its own version on an old plugin's result.
    let stamped = json!({"cniVersion": "1.0.0", "ip4": {"ip": "10.0.0.2/24"}});
    assert_eq!(converted(&stamped, CniVersion::V1_0_0)["ips"], json!([{"address": "10.0.0.2/24"}]));
}

#[test]
fn keys_match_without_case_and_null_is_absent() {
    let document = json!({
        "CNIVersion": "1.0.0",
        "IPS": [{"Address": "10.0.0.2/24", "INTERFACE": 0, "gateway": null}],
        "Interfaces": [{"NAME": "eth0", "SocketPath": "/s", "mac": null}],
        "Routes": null,
        "DNS": {"NameServers": null, "Domain": "d"}
    });
    assert_eq!(
        converted(&document, CniVersion::V1_0_0),
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "socketPath": "/s"}],
            "ips": [{"address": "10.0.0.2/24", "interface": 0}],
            "dns": {"domain": "d"}
        })
    );
}

#[test]
fn addresses_are_printed_canonically() {
    for (written, printed) in [
        ("10.0.0.5/8", "10.0.0.5/8"),
        ("FD00:0:0::0002/64", "fd00::2/64"),
        ("::ffff:10.0.0.1/120", "10.0.0.1/24"),
        // A network that spans more than the mapped range has no IPv4 form.
        ("::ffff:10.0.0.1/90", "::ffff:10.0.0.1/90"),
    ] {
        let document = json!({"ips": [{"address": written, "gateway": ""}]});
        let printed = json!([{"address": printed}]);
        assert_eq!(converted(&document, CniVersion::V1_1_0)["ips"], printed, "{written}");
    }
    let mapped = json!({"ips": [{"address": "::ffff:10.0.0.2/120", "gateway": "::ffff:10.0.0.1"}]});
    assert_eq!(
        converted(&mapped, CniVersion::V0_2_0)["ip4"],
        json!({"ip": "10.0.0.2/24", "gateway": "10.0.0.1"})
    );
}

fn with_unknown_keys() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "vendor": {"deep": [1, {"er": null}]},
        "interfaces": [{"name": "eth0", "vendor": true, "nothing": null}],
        "ips": [{"address": "10.0.0.2/24", "vendor": 18_446_744_073_709_551_615_u64}],
        "routes": [{"dst": "0.0.0.0/0", "vendor": "<&>"}],
        "dns": {"vendor": []}
    })
}

#[test]
fn unknown_keys_are_intact_at_every_level() {
    for version in CniVersion::ALL.into_iter().filter(|v| *v >= CniVersion::V1_0_0) {
        let mut expected = with_unknown_keys();
        expected["cniVersion"] = version.as_str().into();
        assert_eq!(converted(&with_unknown_keys(), version), expected);
    }
    let middle = converted(&with_unknown_keys(), CniVersion::V0_4_0);
    assert_eq!(converted(&middle, CniVersion::V1_1_0), with_unknown_keys());
    let oldest = converted(&with_unknown_keys(), CniVersion::V0_2_0);
    assert_eq!(
        oldest,
        json!({
            "cniVersion": "0.2.0",
            "vendor": {"deep": [1, {"er": null}]},
            "ip4": {
                "ip": "10.0.0.2/24",
                "routes": [{"dst": "0.0.0.0/0", "vendor": "<&>"}],
                "vendor": 18_446_744_073_709_551_615_u64
            },
            "dns": {"vendor": []}
        })
    );
}

#[test]
fn a_key_that_another_version_defines_is_not_unknown() {
    // As an unknown key it would be printed beside the real one and win over it.
    let modern = json!({"ips": [{"address": "10.0.0.2/24", "ip": "evil", "routes": 5}]});
    assert_eq!(converted(&modern, CniVersion::V0_2_0)["ip4"], json!({"ip": "10.0.0.2/24"}));
    let old = json!({"ip4": {"ip": "10.0.0.2/24", "version": "6", "address": "x", "interface": 9}});
    assert_eq!(
        converted(&old, CniVersion::V0_4_0)["ips"],
        json!([{"version": "4", "address": "10.0.0.2/24"}])
    );
}

fn leaf() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        prop::num::f64::NORMAL
            .prop_filter_map("finite", crate::cni::protocol::json::Number::from_f64)
            .prop_map(Json::Number),
        ".{0,8}".prop_map(Json::from),
        prop::collection::vec(any::<bool>(), 0..3).prop_map(Json::from),
    ]
}

/// Members that no version defines.
fn extra() -> impl Strategy<Value = Object> {
    prop::collection::btree_map("x-[a-z]{1,3}", leaf(), 0..3)
        .prop_map(|members| members.into_iter().collect())
}

fn ip_net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, len)| IpNet::V4(Ipv4Net::new_assert(bits.into(), len))),
        // Global unicast, so that no IPv4-mapped address comes up.
        (any::<u128>(), 0..=128_u8)
            .prop_map(|(bits, len)| IpNet::V6(Ipv6Net::new_assert((bits | 1 << 127).into(), len))),
    ]
}

fn text() -> impl Strategy<Value = Option<String>> {
    prop::option::of("[a-z:/<\"\\\\]{1,9}")
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(".{0,5}", 0..3)
}

fn interface() -> impl Strategy<Value = Interface> {
    let mtu = prop::option::of(1..=u64::from(u32::MAX));
    (".{0,5}", text(), mtu, text(), text(), text(), extra()).prop_map(
        |(name, mac, mtu, sandbox, socket_path, pci_id, extra)| Interface {
            name,
            mac,
            mtu,
            sandbox,
            socket_path,
            pci_id,
            extra,
        },
    )
}

fn ip_config() -> impl Strategy<Value = IpConfig> {
    (prop::option::of(any::<i64>()), ip_net(), prop::option::of(ip_net()), extra()).prop_map(
        |(interface, address, gateway, extra)| IpConfig {
            interface,
            address,
            gateway: gateway.map(|net| net.addr()),
            extra,
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    let attribute = || prop::option::of(any::<i64>().prop_filter("0 is absent", |n| *n != 0));
    let attributes = [attribute(), attribute(), attribute(), attribute(), attribute()];
    (ip_net(), prop::option::of(ip_net()), attributes, extra()).prop_map(
        |(dst, gw, attributes, extra)| Route {
            dst,
            gw: gw.map(|net| net.addr()),
            attributes,
            extra,
        },
    )
}

fn result() -> impl Strategy<Value = CniResult> {
    let dns = (texts(), text(), texts(), texts(), extra()).prop_map(
        |(nameservers, domain, search, options, extra)| Dns {
            nameservers,
            domain,
            search,
            options,
            extra,
        },
    );
    (
        prop::collection::vec(interface(), 0..3),
        prop::collection::vec(ip_config(), 0..4),
        prop::collection::vec(route(), 0..4),
        dns,
        extra(),
    )
        .prop_map(|(interfaces, ips, routes, dns, extra)| CniResult {
            interfaces,
            ips,
            routes,
            dns,
            extra,
        })
}

/// Prints, reads the text back as another process would, and decodes.
fn reread(json: &Json) -> CniResult {
    let json = Json::parse(json.to_pretty().as_bytes()).expect("printed results are JSON");
    CniResult::from_json(&json, CniVersion::CURRENT).expect("printed results can be decoded")
}

proptest! {
    #[test]
    fn the_newest_form_loses_nothing(result in result()) {
        let json = result.to_json(CniVersion::V1_1_0).expect("expressible");
        assert_unique_keys(&json);
        prop_assert_eq!(reread(&json), result);
    }

    #[test]
    fn it_is_printed_as_its_tree_is(result in result()) {
        for version in CniVersion::ALL {
            let tree = result.to_json(version).map(|json| json.to_pretty());
            prop_assert_eq!(result.to_pretty(version), tree);
        }
    }

    #[test]
    fn through_the_newest_form_and_back_is_identity(result in result()) {
        for version in CniVersion::ALL {
            let Ok(printed) = result.to_json(version) else {
                prop_assert!(version <= CniVersion::V0_2_0 && result.ips.is_empty());
                continue;
            };
            let newest = reread(&printed).to_json(CniVersion::V1_1_0).expect("expressible");
            prop_assert_eq!(reread(&newest).to_json(version), Ok(printed));
        }
    }

    #[test]
    fn oldest_to_middle_and_back_is_identity(result in result()) {
        if let Ok(printed) = result.to_json(CniVersion::V0_2_0) {
            let middle = reread(&printed).to_json(CniVersion::V0_4_0).expect("expressible");
            prop_assert_eq!(reread(&middle).to_json(CniVersion::V0_2_0), Ok(printed));
        }
    }
}

fn addresses<'a>(ips: impl Iterator<Item = &'a IpConfig>) -> Vec<String> {
    ips.map(|ip| ip.address.addr().to_string()).collect()
}

#[test]
fn which_addresses_are_the_containers() {
    let text = r#"{"cniVersion":"1.0.0",
        "interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/n"},{"name":"net1","sandbox":"/n"}],
        "ips":[{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.2/24","interface":1},
               {"address":"10.0.0.3/24","interface":2},{"address":"10.0.0.4/24"},
               {"address":"10.0.0.5/24","interface":-1},{"address":"10.0.0.6/24","interface":9}]}"#;
    let json = Json::parse(text.as_bytes()).expect("JSON");
    let result = CniResult::from_json(&json, CniVersion::V1_0_0).expect("a result");
    let nowhere = ["10.0.0.4", "10.0.0.5", "10.0.0.6"];
    let all = [&["10.0.0.2", "10.0.0.3"], &nowhere[..]].concat();
    assert_eq!(addresses(result.ips_of_container()), all);
    assert_eq!(addresses(result.ips_of_interface("eth0")), [&["10.0.0.2"], &nowhere[..]].concat());
}

#[test]
fn without_sandboxes_every_address_is_the_containers() {
    let text = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"dummy0"}],
        "ips":[{"address":"10.0.0.2/24","interface":0}]}"#;
    let json = Json::parse(text.as_bytes()).expect("JSON");
    let result = CniResult::from_json(&json, CniVersion::V1_0_0).expect("a result");
    assert_eq!(addresses(result.ips_of_container()), ["10.0.0.2"]);
    assert_eq!(result.ips_of_interface("dummy0").count(), 0);
}
