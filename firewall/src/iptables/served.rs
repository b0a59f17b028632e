//! CHECK of an attachment that ours knows nothing of: right after the binaries were swapped, the
//! Go plugin's rules serve it, and that is no fault.

use cni_common::kernel::iptables::{Iptables, IptablesError};
use cni_common::kernel::nft::Nft;

use super::{
    ADMIN, BOTH_POLICIES, FORWARD, OurRule, RULES, STAGE_1, STAGE_2, Saved, TABLE, commented,
    host_network, places,
};
use crate::plan::{Isolation, Plan, Policy};

/// What the Go plugin makes in iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Everything,
    /// What its firewalld backend leaves to iptables.
    Isolation,
}

/// What is missing of the Go plugin's rules for the attachment; `None` if it has none. Each family
/// counts for itself: a host may have one kind of iptables for IPv4 and the other for IPv6.
pub fn faults(nft: &mut dyn Nft, plan: &Plan, part: Part) -> Option<Vec<String>> {
    // What cannot be looked at holds nothing that one could rely on.
    let places = places(Some(nft)).unwrap_or_default();
    let mut found = false;
    let mut faults = Vec::new();
    for v4 in [true, false].into_iter().filter(|v4| plan.of_family(*v4).next().is_some()) {
        let of_family = places.iter().filter(|(family, _)| *family == v4);
        let here = of_family.filter_map(|(_, variant)| {
            let saved = Iptables::seeing(cni_common::kernel::IpVersion::if_v4(v4), *variant)
                .and_then(|iptables| iptables.save(TABLE));
            in_place(saved.map(Saved::from), v4, plan, part)
        });
        let fewest = here.min_by_key(Vec::len);
        found |= fewest.is_some();
        let family = if v4 { "IPv4" } else { "IPv6" };
        let nothing = || vec![format!("the Go plugin has no {family} rules of {}", plan.tag)];
        faults.extend(fewest.unwrap_or_else(nothing));
    }
    found.then_some(faults)
}

fn in_place(
    saved: Result<Saved, IptablesError>,
    v4: bool,
    plan: &Plan,
    part: Part,
) -> Option<Vec<String>> {
    match saved {
        Ok(saved) => family_faults(&saved, v4, plan, part),
        Err(error) => Some(vec![format!("chain {FORWARD} cannot be read: {error}")]),
    }
}

/// What is missing in one family; `None` if there is nothing of the attachment. Pure.
fn family_faults(saved: &Saved, v4: bool, plan: &Plan, part: Part) -> Option<Vec<String>> {
    let accepting: Vec<OurRule> =
        plan.of_family(v4).flat_map(|a| accepting(&host_network(a))).collect();
    let there = |rule: &OurRule| saved.rules_of(&rule.chain).any(|there| there == rule);
    let mut wanted = Vec::new();
    if part == Part::Everything {
        if !accepting.iter().any(there) {
            return None;
        }
        wanted.push(commented("FORWARD", &[], RULES, FORWARD));
        wanted.push(commented(FORWARD, &[], ADMIN, &plan.admin_chain));
        wanted.extend(accepting);
    } else if plan.isolation.is_some() && !saved.has_chain(STAGE_1) {
        return None;
    }
    let mut faults: Vec<String> = wanted.iter().filter(|rule| !there(rule)).map(missing).collect();
    if let Some(isolation) = &plan.isolation {
        faults.extend(isolation_faults(saved, isolation));
    }
    Some(faults)
}

/// What lets an address through, without a word about its owner.
pub(super) fn accepting(host: &str) -> [OurRule; 2] {
    let replies =
        ["-d", host, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"];
    [OurRule::new(FORWARD, &replies), OurRule::new(FORWARD, &["-s", host, "-j", "ACCEPT"])]
}

/// The comments of these differ between its versions.
fn isolation_faults(saved: &Saved, isolation: &Isolation) -> Vec<String> {
    let bridge = isolation.bridge.as_str();
    let rule = |chain, matches: &[&str], target| commented(chain, matches, BOTH_POLICIES, target);
    let mut wanted = vec![
        rule("FORWARD", &[], STAGE_1),
        rule(STAGE_1, &["-i", bridge, "!", "-o", bridge], STAGE_2),
        rule(STAGE_1, &[], "RETURN"),
        rule(STAGE_2, &["-o", bridge], "DROP"),
        rule(STAGE_2, &[], "RETURN"),
    ];
    if isolation.policy == Policy::Isolated {
        wanted.push(rule(STAGE_1, &["-i", bridge, "-o", bridge], "DROP"));
    }
    let there = |rule: &&OurRule| {
        saved.rules_of(&rule.chain).any(|there| without_comment(there) == without_comment(rule))
    };
    let mut faults: Vec<String> = wanted.iter().filter(|rule| !there(rule)).map(missing).collect();
    let position = |target| saved.rules_of("FORWARD").position(|r| r.option("-j") == Some(target));
    if let (Some(isolates), Some(accepts)) = (position(STAGE_1), position(FORWARD))
        && accepts < isolates
    {
        faults.push(format!("chain FORWARD jumps to {FORWARD} before {STAGE_1}"));
    }
    faults
}

fn without_comment(rule: &OurRule) -> Vec<&str> {
    let mut words: Vec<&str> = rule.words.iter().map(String::as_str).collect();
    if let Some(position) = words.iter().position(|word| *word == "--comment") {
        // "-m comment --comment TEXT"
        words.drain(position.saturating_sub(2)..(position + 2).min(words.len()));
    }
    words
}

fn missing(rule: &OurRule) -> String {
    format!("rule missing: {}", rule.line("-A"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// reference/firewall.md §5: what 1.7 and HEAD make, and the comments of before.
    const SAVED: &str = r#"
FORWARD -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j CNI-ISOLATION-STAGE-1
FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
CNI-FORWARD -s 10.0.0.2/32 -j ACCEPT
CNI-ISOLATION-STAGE-1 -i br0 -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: isolated)" -j DROP
CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: isolated)" -j CNI-ISOLATION-STAGE-2
CNI-ISOLATION-STAGE-1 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN
CNI-ISOLATION-STAGE-2 -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j DROP
CNI-ISOLATION-STAGE-2 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN"#;

    fn found(text: &str, policy: Option<Policy>, part: Part) -> Option<Vec<String>> {
        let saved = crate::iptables::tests::saved(text);
        family_faults(&saved, true, &crate::iptables::tests::plan("c", "10.0.0.2", policy), part)
    }

    #[test]
    fn complete_or_missing_any_one_rule() {
        let isolated = Some(Policy::Isolated);
        for old in ["", "(ingressPolicy: same-bridge)"] {
            let text = match old {
                "" => SAVED.to_owned(),
                old => SAVED
                    .replace("(ingressPolicy: same-bridge|isolated)", old)
                    .replace("(ingressPolicy: isolated)", old),
            };
            assert_eq!(found(&text, isolated, Part::Everything), Some(Vec::new()));
            assert_eq!(found(&text, Some(Policy::SameBridge), Part::Isolation), Some(Vec::new()));
            let lines: Vec<&str> = text.trim().lines().collect();
            for absent in 0..lines.len() {
                let mut rest = lines.clone();
                let line = rest.remove(absent);
                let faults = found(&rest.join("\n"), isolated, Part::Everything);
                let faults = faults.expect("its rules are there");
                assert_eq!(faults.len(), 1, "{line}: {faults:?}");
                assert!(faults[0].contains(line.split(' ').next().expect("a chain")));
            }
        }
        let other = SAVED.replace("10.0.0.2", "10.0.0.3");
        assert_eq!(found(&other, None, Part::Everything), None, "another container's");
    }

    #[test]
    fn acceptance_in_front_of_isolation_is_a_fault() {
        let mut lines: Vec<&str> = SAVED.trim().lines().collect();
        lines.swap(0, 1);
        let faults = found(&lines.join("\n"), Some(Policy::SameBridge), Part::Everything);
        assert!(faults.expect("its rules are there")[0].contains("before"));
    }
}
