//! Whether the Go plugin's iptables rules for an attachment are all there. Pure.

use cni_common::kernel::iptables::{SavedRule, TableDump};
use cni_common::kernel::nft::L4Protocol;

use crate::backend::iptables::{ChainRule, GoRules, TOP_CHAIN};

/// What is missing of the Go plugin's rules; `None` if it has none for the attachment.
pub(super) fn mismatches(dump: &TableDump, rules: &GoRules) -> Option<Vec<String>> {
    let chain = &rules.names.go_chain;
    if !dump.has_chain(chain) {
        return None;
    }
    let mut mismatches = Vec::new();
    for ChainRule { chain, spec, .. } in &rules.shared {
        if !dump.rules_of(chain).any(|rule| rule.is(spec)) {
            mismatches.push(missing(spec, chain));
        }
    }
    let own: Vec<&SavedRule> = dump.rules_of(chain).collect();
    for spec in rules.own.iter().filter(|spec| !own.iter().any(|rule| rule.is(spec))) {
        mismatches.push(missing(spec, chain));
    }
    // One that an earlier ADD left in front may lead elsewhere.
    let in_order = own.iter().zip(&rules.own).all(|(rule, spec)| rule.is(spec));
    if mismatches.is_empty() && !(in_order && own.len() == rules.own.len()) {
        mismatches.push(format!(
            "chain {chain} holds rules that are none of this attachment's, or in another order"
        ));
    }
    let entries: Vec<(L4Protocol, Vec<u16>)> =
        dump.rules_of(TOP_CHAIN).filter_map(|rule| entry(rule, rules)).collect();
    for (protocol, port) in &rules.ports {
        let covered =
            entries.iter().any(|(other, ports)| other == protocol && ports.contains(port));
        if !covered {
            mismatches.push(missing(&rules.entry(*protocol, &port.to_string()), TOP_CHAIN));
        }
    }
    Some(mismatches)
}

fn missing(spec: &str, chain: &str) -> String {
    format!("rule \"{spec}\" is missing from chain {chain}")
}

/// The ports of an entry rule, if it is this attachment's: those of mappings that the family cannot
/// serve are among them, so the list itself says little.
fn entry(rule: &SavedRule, rules: &GoRules) -> Option<(L4Protocol, Vec<u16>)> {
    let protocol = L4Protocol::from_text(&rule.option("-p")?)?;
    let list = rule.option("--dports")?;
    if !rule.is(&rules.entry(protocol, &list)) {
        return None;
    }
    Some((protocol, list.split(',').filter_map(|port| port.parse().ok()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::plan::{Addresses, Plan};
    use cni_common::cni::Attachment;
    use cni_common::cni::protocol::NetworkConfig;
    use cni_common::kernel::IpVersion;

    /// What the Go plugin makes of it.
    const CONFIG: &str = r#"{"name":"h1net","cniVersion":"1.0.0","runtimeConfig":{"portMappings":[
        {"hostPort":8080,"containerPort":80,"protocol":"tcp"},
        {"hostPort":5353,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.1"},
        {"hostPort":8443,"containerPort":443,"protocol":"tcp","hostIP":"::"}]}}"#;
    const SAVED: &str = r#"
PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
CNI-DN-ede3ff773324b439b90d0 -s 10.71.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
CNI-DN-ede3ff773324b439b90d0 -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
CNI-DN-ede3ff773324b439b90d0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.71.0.2:80
CNI-DN-ede3ff773324b439b90d0 -s 10.71.0.0/24 -d 192.0.2.1/32 -p udp -m udp --dport 5353 -j CNI-HOSTPORT-SETMARK
CNI-DN-ede3ff773324b439b90d0 -s 127.0.0.1/32 -d 192.0.2.1/32 -p udp -m udp --dport 5353 -j CNI-HOSTPORT-SETMARK
CNI-DN-ede3ff773324b439b90d0 -d 192.0.2.1/32 -p udp -m udp --dport 5353 -j DNAT --to-destination 10.71.0.2:53
CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\"" -m multiport --dports 8080,8443 -j CNI-DN-ede3ff773324b439b90d0
CNI-HOSTPORT-DNAT -p udp -m comment --comment "dnat name: \"h1net\" id: \"cid-one\"" -m multiport --dports 5353 -j CNI-DN-ede3ff773324b439b90d0
CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000"#;

    fn go_rules() -> GoRules {
        let network = NetworkConfig::from_stdin(CONFIG.as_bytes()).expect("envelope");
        let config = Config::read(&network).expect("valid");
        let attachment = Attachment {
            network: "h1net".into(),
            container_id: "cid-one".into(),
            ifname: "eth0".into(),
        };
        let addresses = Addresses { v4: Some("10.71.0.2/24".parse().expect("v4")), v6: None };
        GoRules::new(&Plan::new(&attachment, &config, addresses), IpVersion::V4)
            .expect("IPv4 is mapped")
    }

    fn dump(lines: &[&str]) -> TableDump {
        let mut dump = TableDump::default();
        for line in lines {
            let (chain, spec) = line.split_once(' ').expect("a chain and a rule");
            if !dump.has_chain(chain) {
                dump.chains.push((chain.to_owned(), "-".to_owned()));
            }
            dump.rules.push(SavedRule { chain: chain.to_owned(), spec: spec.to_owned() });
        }
        dump
    }

    #[test]
    fn complete_or_missing_any_one_rule() {
        let lines: Vec<&str> = SAVED.trim().lines().collect();
        assert_eq!(mismatches(&dump(&lines), &go_rules()), Some(Vec::new()));
        for absent in 0..lines.len() {
            let mut lines = lines.clone();
            let line = lines.remove(absent);
            let found = mismatches(&dump(&lines), &go_rules()).expect("the chain is there");
            let chain = line.split(' ').next().expect("a chain");
            assert!(!found.is_empty() && found[0].contains(chain), "{line}: {found:?}");
        }
        assert_eq!(mismatches(&TableDump::default(), &go_rules()), None);
    }

    #[test]
    fn a_target_of_an_earlier_add_is_in_the_way() {
        let mut lines: Vec<&str> = SAVED.trim().lines().collect();
        let old = "CNI-DN-ede3ff773324b439b90d0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.71.0.9:80";
        lines.insert(3, old);
        let found = mismatches(&dump(&lines), &go_rules()).expect("the chain is there");
        assert!(found[0].contains("none of this attachment's"), "{found:?}");
    }
}
