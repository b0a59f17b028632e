//! GC of the chains that all attachments share, the Go plugin's and ours, once they serve nobody.
//!
//! Rules are deleted one by one as they were read, and then the chains. A chain that somebody else
//! put a rule into meanwhile is not empty: iptables refuses everything, and the next GC sees.

use cni_common::cni::Failure as _;
use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{IptablesError, Variant};
use cni_common::kernel::retry::retry;

use crate::filter::{
    ADMIN, FORWARD, Filter, FilterRule, INPUT, MEMBERS, RULES, SOURCES, STAGE_1, STAGE_2,
};
use crate::host::Host;

const ISOLATION_CHAINS: [&str; 5] = [STAGE_1, STAGE_2, SOURCES, INPUT, MEMBERS];

/// Removes the shared chains wherever they serve nobody.
pub(crate) fn sweep(host: &mut Host<'_>, admin_chain: &str) -> Result<(), CniError> {
    let filters = host.filters().map_err(|error| error.into_cni(DOING))?;
    on_all(filters, |(version, variant)| sweep_table(host, version, variant, admin_chain))
}

const DOING: &str = "cannot remove the chains that serve nobody";

fn sweep_table(
    host: &mut Host<'_>,
    version: IpVersion,
    variant: Variant,
    admin_chain: &str,
) -> Result<(), CniError> {
    let Host { filter, bus, .. } = host;
    let mut asked = Ok(false);
    let outcome = retry(|| {
        filter.try_to_change(version, variant, |dump| {
            removal(&Filter::whole(dump), admin_chain, || {
                asked = bus.has_firewalld();
                // Where nobody can say, it may run.
                asked != Ok(false)
            })
        })
    });
    match outcome {
        // Where the programs are gone, the removal of stale rules has said so.
        Err(IptablesError::Missing(_)) => Ok(()),
        outcome => outcome.map_err(|error| error.into_cni(DOING)),
    }
    .and(asked.map(drop))
}

/// The lines that remove what serves nobody. Pure, but for the question whether firewalld runs:
/// then it admits containers, and isolation does not show in `CNI-FORWARD`.
fn removal(
    filter: &Filter,
    admin_chain: &str,
    firewalld_runs: impl FnOnce() -> bool,
) -> Vec<String> {
    let is_admin_jump = |rule: &FilterRule| rule.comment() == Some(ADMIN);
    if !filter.has_chain(FORWARD) || !filter.rules_of(FORWARD).all(is_admin_jump) {
        return Vec::new();
    }
    let mut lines = entrance_removal(filter, admin_chain);
    if ISOLATION_CHAINS.iter().any(|chain| filter.has_chain(chain)) && !firewalld_runs() {
        lines.extend(isolation_removal(filter));
    }
    // Nobody may lead to a chain that goes.
    lines.sort_by_key(|line| line.starts_with("-X"));
    lines
}

/// `CNI-FORWARD` and the administrator's chain, unless somebody else uses one of them.
fn entrance_removal(filter: &Filter, admin_chain: &str) -> Vec<String> {
    let jump = FilterRule::commented("FORWARD", &[], RULES, FORWARD);
    let admin_jumps: Vec<&FilterRule> = filter.rules_of(FORWARD).collect();
    let mut admins: Vec<&str> = admin_jumps.iter().filter_map(|rule| rule.option("-j")).collect();
    admins.push(admin_chain);
    admins.sort_unstable();
    admins.dedup();
    admins.retain(|chain| filter.has_chain(chain));
    let used = |chain: &str| {
        let filled = filter.rules_of(chain).next().is_some();
        filled || filter.leading_to(chain).any(|rule| rule.chain != FORWARD)
    };
    let foreign_entrance = filter.leading_to(FORWARD).any(|rule| *rule != jump);
    if foreign_entrance || admins.iter().any(|chain| used(chain)) {
        return Vec::new();
    }
    let mut lines: Vec<String> =
        filter.leading_to(FORWARD).chain(admin_jumps).map(|rule| rule.line("-D")).collect();
    lines.extend([FORWARD].iter().chain(&admins).map(|chain| format!("-X {chain}")));
    lines
}

/// What keeps bridges apart, when it is nobody's any more. The Go plugin's rules name no owner but
/// the bridge; without a container that is let through there is nobody behind them.
fn isolation_removal(filter: &Filter) -> Vec<String> {
    let there: Vec<&str> =
        ISOLATION_CHAINS.into_iter().filter(|chain| filter.has_chain(chain)).collect();
    let is_ours = |rule: &&FilterRule| {
        rule.comment().is_some_and(|text| text.starts_with(&format!("{RULES} (ingressPolicy: ")))
    };
    let inside = |rule: &&FilterRule| there.contains(&rule.chain.as_str());
    let involved: Vec<&FilterRule> = filter
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
    fn left(text: &str, firewalld: bool) -> Filter {
        let mut filter = Filter::of(text);
        filter.add_chain("CNI-ADMIN");
        let lines = removal(&filter, "CNI-ADMIN", || firewalld);
        filter.apply(&lines)
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
            let mut expected = Filter::of(&format!("{what_stays}\n{line}")).rules;
            let mut found = left(&format!("{everything}\n{line}"), false).rules;
            let key = |rule: &FilterRule| rule.line("-A");
            expected.sort_by_key(key);
            found.sort_by_key(key);
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn firewalld_admits_containers_that_do_not_show() {
        let expected = Filter::of(ISOLATION).rules;
        assert_eq!(left(&format!("{ENTRANCE}{ISOLATION}"), true).rules, expected);
        assert_eq!(left(ISOLATION, false).rules, expected, "it ran at their ADD");
    }
}
