//! Who else translates a host port: the rules of other programs that name it, in iptables' words.

use cni_common::kernel::iptables::{Iptables, SavedRule};
use cni_common::kernel::nft::L4Protocol;

use crate::places;
use crate::rules::{is_of_a_portmap, program};

const TABLE: &str = "nat";
/// Where destinations are translated.
const BASE_CHAINS: [&str; 2] = ["PREROUTING", "OUTPUT"];

/// A rule of another program about the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// The program, as its chains' names tell; none for a chain that anybody may have.
    pub(crate) program: Option<&'static str>,
    /// The kind of iptables and the family, as in `iptables-nft (IPv4)`, or the table.
    pub(crate) place: String,
    /// The rule: ready to follow `-A`, or its chain and nft's words.
    pub(crate) rule: String,
}

/// The rules about a port, and what could not be read.
pub(crate) fn of(port: u16, protocol: Option<L4Protocol>) -> (Vec<Translation>, Vec<String>) {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for (version, variant) in places::with_table(TABLE, &BASE_CHAINS) {
        let saved = Iptables::seeing(version, variant).and_then(|iptables| iptables.save(TABLE));
        let place = format!("{variant} ({version})");
        match saved {
            Ok(table) => {
                let rules = table.rules.iter().filter(|rule| is_about(rule, port, protocol));
                found.extend(rules.map(|rule| Translation {
                    program: program(&rule.chain).or_else(|| program(&rule.option("-j")?)),
                    place: place.clone(),
                    rule: format!("{} {}", rule.chain, rule.spec),
                }));
            }
            Err(error) => unreadable.push(format!("{place}: {error}")),
        }
    }
    (found, unreadable)
}

fn is_about(rule: &SavedRule, port: u16, protocol: Option<L4Protocol>) -> bool {
    if !rule.spec.contains("--dport") || is_of_a_portmap(&rule.chain) {
        return false;
    }
    let of_protocol = rule.option("-p").and_then(|text| L4Protocol::from_text(&text));
    if protocol.is_some() && of_protocol.is_some() && of_protocol != protocol {
        return false;
    }
    let leads_to_us = || rule.option("-j").is_some_and(|to| is_of_a_portmap(&to));
    let ports = rule.option("--dport").or_else(|| rule.option("--dports"));
    ports.is_some_and(|ports| ports.split(',').any(|range| has(range, port))) && !leads_to_us()
}

/// Whether `80` or `80:90` has the port.
fn has(range: &str, port: u16) -> bool {
    let (first, last) = range.split_once(':').unwrap_or((range, range));
    let bounds = (first.parse::<u16>(), last.parse::<u16>());
    matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_about_a_port() {
        let rule = |chain: &str, spec: &str| SavedRule { chain: chain.into(), spec: spec.into() };
        for (chain, spec, is) in [
            (
                "DOCKER",
                "! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
                true,
            ),
            ("KUBE-NODEPORTS", "-p tcp -m tcp --dport 8000:8090 -j KUBE-EXT-X", true),
            ("PREROUTING", "-p tcp -m multiport --dports 22,8080 -j REDIRECT --to-ports 1", true),
            ("PREROUTING", "-p udp -m udp --dport 8080 -j REDIRECT --to-ports 1", false),
            ("PREROUTING", "-p tcp -m tcp --sport 8080 -j REDIRECT --to-ports 1", false),
            ("PREROUTING", "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080", false),
            ("CNI-DN-1", "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80", false),
            ("CNI-HOSTPORT-DNAT", "-p tcp -m multiport --dports 8080 -j CNI-DN-1", false),
        ] {
            assert_eq!(
                is_about(&rule(chain, spec), 8080, Some(L4Protocol::Tcp)),
                is,
                "{chain} {spec}"
            );
        }
    }
}
