//! GC of the chains that all attachments share, the Go plugin's and ours, once they serve nobody.
//!
//! Rules are deleted one by one as they were read, and then the chains. A chain that somebody else
//! put a rule into meanwhile is not empty: iptables refuses everything, and the next GC sees.

use cni_common::cni::log::Log;
use cni_common::kernel::iptables::{Iptables, IptablesError, Lock, Variant};
use cni_common::kernel::nft::Nft;

use super::{
    ADMIN, FORWARD, INPUT, MEMBERS, OurRule, RULES, SOURCES, STAGE_1, STAGE_2, Saved, TABLE,
    commented, places,
};
use crate::firewalld;

const ISOLATION_CHAINS: [&str; 5] = [STAGE_1, STAGE_2, SOURCES, INPUT, MEMBERS];

/// Removes the shared chains wherever they serve nobody. Nothing here fails a command.
pub fn sweep(nft: Option<&mut dyn Nft>, admin_chain: &str, log: &Log) {
    let Ok(places) = places(nft) else { return };
    if places.is_empty() {
        return;
    }
    let lock = Lock::acquire();
    for (v4, variant) in places {
        let outcome = match &lock {
            Ok(_) => sweep_family(v4, variant, admin_chain).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = outcome {
            let family = if v4 { "IPv4" } else { "IPv6" };
            log.warn(format!(
                "chains of {variant} ({family}) that nobody needs stay until the next GC: {error}"
            ));
        }
    }
}

fn sweep_family(v4: bool, variant: Variant, admin_chain: &str) -> Result<(), IptablesError> {
    let iptables = match Iptables::seeing(cni_common::kernel::IpVersion::if_v4(v4), variant) {
        // The removal of stale rules has said so.
        Err(IptablesError::Missing(_)) => return Ok(()),
        found => found?,
    };
    let saved = Saved::whole(iptables.save(TABLE)?);
    iptables.restore(&[(TABLE, removal(&saved, admin_chain, firewalld::is_running))])
}

/// The lines that remove what serves nobody. Pure, but for the question whether firewalld runs:
/// then it admits containers, and isolation does not show in `CNI-FORWARD`.
fn removal(saved: &Saved, admin_chain: &str, firewalld_runs: impl Fn() -> bool) -> Vec<String> {
    let is_admin_jump = |rule: &OurRule| rule.comment() == Some(ADMIN);
    if !saved.has_chain(FORWARD) || !saved.rules_of(FORWARD).all(is_admin_jump) {
        return Vec::new();
    }
    let mut lines = entrance_removal(saved, admin_chain);
    if ISOLATION_CHAINS.iter().any(|chain| saved.has_chain(chain)) && !firewalld_runs() {
        lines.extend(isolation_removal(saved));
    }
    // Nobody may lead to a chain that goes.
    lines.sort_by_key(|line| line.starts_with("-X"));
    lines
}

/// `CNI-FORWARD` and the administrator's chain, unless somebody else uses one of them.
fn entrance_removal(saved: &Saved, admin_chain: &str) -> Vec<String> {
    let jump = commented("FORWARD", &[], RULES, FORWARD);
    let admin_jumps: Vec<&OurRule> = saved.rules_of(FORWARD).collect();
    let mut admins: Vec<&str> = admin_jumps.iter().filter_map(|rule| rule.option("-j")).collect();
    admins.push(admin_chain);
    admins.sort_unstable();
    admins.dedup();
    admins.retain(|chain| saved.has_chain(chain));
    let used = |chain: &str| {
        let filled = saved.rules_of(chain).next().is_some();
        filled || saved.leading_to(chain).any(|rule| rule.chain != FORWARD)
    };
    let foreign_entrance = saved.leading_to(FORWARD).any(|rule| *rule != jump);
    if foreign_entrance || admins.iter().any(|chain| used(chain)) {
        return Vec::new();
    }
    let mut lines: Vec<String> =
        saved.leading_to(FORWARD).chain(admin_jumps).map(|rule| rule.line("-D")).collect();
    lines.extend([FORWARD].iter().chain(&admins).map(|chain| format!("-X {chain}")));
    lines
}

/// What keeps bridges apart, when it is nobody's any more. The Go plugin's rules name no owner but
/// the bridge; without a container that is let through there is nobody behind them.
fn isolation_removal(saved: &Saved) -> Vec<String> {
    let there: Vec<&str> =
        ISOLATION_CHAINS.into_iter().filter(|chain| saved.has_chain(chain)).collect();
    let is_ours = |rule: &&OurRule| {
        rule.comment().is_some_and(|text| text.starts_with(&format!("{RULES} (ingressPolicy: ")))
    };
    let inside = |rule: &&OurRule| there.contains(&rule.chain.as_str());
    let involved: Vec<&OurRule> = saved
        .rules
        .iter()
        .filter(|rule| inside(rule) || there.iter().any(|chain| rule.leads_to(chain)))
        .collect();
    // An attachment of ours in the list of members has a comment of its own.
    if !involved.iter().all(is_ours) {
        return Vec::new();
    }
    let mut lines: Vec<String> = involved.iter().map(|rule| rule.line("-D")).collect();
    lines.extend(there.iter().map(|chain| format!("-X {chain}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::tests::{applied, saved};

    const ENTRANCE: &str = r#"
FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN"#;
    const ISOLATION: &str = r#"
FORWARD -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j CNI-ISOLATION-STAGE-1
CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge)" -j CNI-ISOLATION-STAGE-2
CNI-ISOLATION-STAGE-1 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN
CNI-ISOLATION-STAGE-2 -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j DROP
CNI-ISOLATION-STAGE-2 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN"#;

    /// What is left, with an administrator's chain that is empty unless the text fills it.
    fn left(text: &str, firewalld: bool) -> Saved {
        let mut saved = saved(text);
        saved.add_chain("CNI-ADMIN");
        let lines = removal(&saved, "CNI-ADMIN", || firewalld);
        applied(saved, &lines)
    }

    #[test]
    fn what_serves_nobody_goes() {
        // Racing ADDs of the Go plugin leave rules twice.
        let text = format!("{ENTRANCE}{ISOLATION}{ENTRANCE}");
        let left = left(&text, false);
        assert_eq!(left.rules, []);
        assert_eq!(left.chains, ["FORWARD"]);
    }

    #[test]
    fn somebody_elses_rules_keep_what_leads_to_them() {
        let everything = format!("{ENTRANCE}{ISOLATION}");
        for (line, what_stays) in [
            ("CNI-FORWARD -s 10.0.0.9/32 -j ACCEPT", everything.as_str()),
            ("CNI-FORWARD -s 10.0.0.9/32 -m comment --comment net/c/eth0 -j ACCEPT", &everything),
            ("CNI-ADMIN -s 10.0.0.9/32 -j DROP", ENTRANCE),
            ("FORWARD -i eth7 -j CNI-ADMIN", ENTRANCE),
            ("FORWARD -i eth7 -j CNI-FORWARD", ENTRANCE),
            ("FORWARD -i eth7 -g CNI-FORWARD", ENTRANCE),
            ("CNI-ISOLATION-STAGE-1 -i mine0 -j DROP", ISOLATION),
            ("FORWARD -i eth7 -j CNI-ISOLATION-STAGE-2", ISOLATION),
            ("CNI-ISOLATION-MEMBERS -i br0 -m comment --comment net/c/eth0 -j RETURN", ISOLATION),
        ] {
            let mut expected = saved(&format!("{what_stays}\n{line}")).rules;
            let mut found = left(&format!("{everything}\n{line}"), false).rules;
            let key = |rule: &OurRule| rule.line("-A");
            expected.sort_by_key(key);
            found.sort_by_key(key);
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn firewalld_admits_containers_that_do_not_show() {
        let expected = saved(ISOLATION).rules;
        assert_eq!(left(&format!("{ENTRANCE}{ISOLATION}"), true).rules, expected);
        assert_eq!(left(ISOLATION, false).rules, expected, "it ran at their ADD");
    }
}
