//! The iptables backend: upstream's chains, order and rules, plus an owner's tag on each rule that
//! belongs to one attachment.
//!
//! A call reads the `filter` table once, works out what has to change, and changes it with one
//! restore per family, under a lock that keeps our own processes apart. What ADD would change is
//! also what CHECK complains about.

pub mod served;
mod sweep;

use std::collections::BTreeMap;
use std::net::IpAddr;

use cni_common::cni::Failure as _;
use cni_common::cni::OwnerTag;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::iptables::{
    self, Iptables, IptablesError, Lock, SavedRule, TableDump, Variant, quote,
};
use cni_common::kernel::nft::{Family, Nft, NftError, Table};

use crate::layout::Share;
use crate::plan::{Plan, Policy};

pub use sweep::sweep;

const TABLE: &str = "filter";

const FORWARD: &str = "CNI-FORWARD";
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";
/// Drops what comes from a container. Ours: upstream lets open networks into isolating ones.
const SOURCES: &str = "CNI-ISOLATION-SOURCES";
/// Guards the host's addresses on isolating bridges. Ours.
const INPUT: &str = "CNI-ISOLATION-INPUT";
/// Who asks for which bridge's isolation. Nothing jumps to it: it is a list.
const MEMBERS: &str = "CNI-ISOLATION-MEMBERS";

const RULES: &str = "CNI firewall plugin rules";
const ADMIN: &str = "CNI firewall plugin admin overrides";
const BOTH_POLICIES: &str = "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)";

/// Whose rules go.
pub enum Leaving<'a> {
    /// Nobody's but the plan's own earlier ones.
    Nobody,
    /// One attachment's, with the addresses that it is known to have.
    Attachment(&'a OwnerTag, &'a [IpAddr]),
    /// Those of every tag that passes.
    Stale(&'a dyn Fn(&str) -> bool),
}

/// A family's filter table, as far as it is ours to look at.
#[derive(Debug, Default)]
struct Saved {
    chains: Vec<String>,
    rules: Vec<OurRule>,
}

/// A rule in words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OurRule {
    chain: String,
    words: Vec<String>,
}

impl From<TableDump> for Saved {
    fn from(dump: TableDump) -> Self {
        let ours = |chain: &str| chain.starts_with("CNI-") || ["FORWARD", "INPUT"].contains(&chain);
        let rules = dump.rules.into_iter().filter(|rule| ours(&rule.chain)).collect();
        Self::whole(TableDump { rules, ..dump })
    }
}

impl Saved {
    /// The table with the rules of all chains.
    fn whole(dump: TableDump) -> Self {
        let rule = |rule: &SavedRule| OurRule { chain: rule.chain.clone(), words: rule.words() };
        Self {
            rules: dump.rules.iter().map(rule).collect(),
            chains: dump.chains.into_iter().map(|(name, _)| name).collect(),
        }
    }

    /// The rules, in any chain that is known, that lead to this one.
    fn leading_to<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a OurRule> {
        self.rules.iter().filter(move |rule| rule.leads_to(chain))
    }

    fn has_chain(&self, name: &str) -> bool {
        self.chains.iter().any(|chain| chain == name)
    }

    fn rules_of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a OurRule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }
}

impl OurRule {
    fn new(chain: &str, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { chain: chain.to_owned(), words }
    }

    /// The word behind an option, for instance `-j`.
    fn option(&self, name: &str) -> Option<&str> {
        let position = self.words.iter().position(|word| word == name)?;
        self.words.get(position + 1).map(String::as_str)
    }

    /// Whether it is one that the Go plugin makes for an address; those name no owner.
    fn is_of_go(&self) -> bool {
        address_of(self).is_some_and(|host| served::accepting(host).contains(self))
    }

    fn leads_to(&self, chain: &str) -> bool {
        ["-j", "-g"].iter().any(|option| self.option(option) == Some(chain))
    }

    fn comment(&self) -> Option<&str> {
        self.option("--comment")
    }

    /// The restore line that does `action` (`-A`, `-D`, `-I`) with this rule.
    fn line(&self, action: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/!".contains(c);
        let word = |word: &String| {
            let is_plain = !word.is_empty() && word.chars().all(plain);
            if is_plain { word.clone() } else { quote(word) }
        };
        let words: Vec<_> = self.words.iter().map(word).collect();
        format!("{action} {} {}", self.chain, words.join(" "))
    }
}

/// Makes exactly what the plan asks for, replacing whatever the attachment had before.
pub fn add(plan: &Plan) -> Result<(), CniError> {
    const DOING: &str = "cannot install the firewall rules";
    let _lock = Lock::acquire().map_err(|error| error.into_cni(DOING))?;
    let tools = families(plan).map_err(|error| error.into_cni(DOING))?;
    for (v4, iptables) in &tools {
        if let Err(error) = change(iptables, *v4, Some(plan), &Leaving::Nobody) {
            // The other family's rules must not stay behind; what undoing them meets is what
            // this met.
            for (v4, iptables) in &tools {
                let _ = change(iptables, *v4, None, &Leaving::Attachment(&plan.tag, &[]));
            }
            return Err(error.into_cni(DOING));
        }
    }
    Ok(())
}

/// Removes what is leaving, wherever it can be. An error in one place does not stop the rest, and
/// where the programs are gone, what they made stays: that is a warning.
pub fn remove(nft: Option<&mut dyn Nft>, leaving: &Leaving<'_>, log: &Log) -> Result<(), CniError> {
    const DOING: &str = "cannot remove the firewall rules";
    let places = places(nft).map_err(|error| error.into_cni(DOING))?;
    if places.is_empty() {
        return Ok(());
    }
    let _lock = Lock::acquire().map_err(|error| error.into_cni(DOING))?;
    let mut outcome = Ok(());
    for (v4, variant) in places {
        let iptables = Iptables::seeing(cni_common::kernel::IpVersion::if_v4(v4), variant);
        match iptables.and_then(|iptables| change(&iptables, v4, None, leaving)) {
            Ok(()) => {}
            Err(error @ IptablesError::Missing(_)) => {
                let family = if v4 { "IPv4" } else { "IPv6" };
                log.warn(format!(
                    "rules of {variant} ({family}) may be left in table {TABLE}: {error}; delete them from \
                     chains {FORWARD} and CNI-ISOLATION-* by hand if they are"
                ));
            }
            Err(error) => outcome = outcome.and(Err(error.into_cni(DOING))),
        }
    }
    outcome
}

/// Where there can be rules of ours or of the Go plugin, found without starting a program: each
/// family in each of the two kernel interfaces.
fn places(nft: Option<&mut dyn Nft>) -> Result<Vec<(bool, Variant)>, NftError> {
    let chain_of = |family, name: &str| (Table::new(family, TABLE), name.to_owned());
    let chains = [Family::Ip, Family::Ip6]
        .map(|family| [FORWARD, STAGE_1].map(|name| chain_of(family, name)))
        .concat();
    let found = match nft {
        Some(nft) => nft.chains(&chains)?,
        None => Vec::new(),
    };
    let mut places = Vec::new();
    for (v4, family) in [(true, Family::Ip), (false, Family::Ip6)] {
        let seen = chains.iter().zip(&found);
        if seen.into_iter().any(|((table, _), chain)| table.family == family && chain.is_some()) {
            places.push((v4, Variant::Nft));
        }
        if iptables::legacy_table_loaded(cni_common::kernel::IpVersion::if_v4(v4), TABLE) {
            places.push((v4, Variant::Legacy));
        }
    }
    Ok(places)
}

/// What ADD would change, in words.
pub fn check(plan: &Plan) -> Result<Vec<String>, CniError> {
    const DOING: &str = "cannot read the firewall rules";
    let mut faults = Vec::new();
    for (v4, iptables) in families(plan).map_err(|error| error.into_cni(DOING))? {
        let saved = iptables.save(TABLE).map_err(|error| error.into_cni(DOING))?.into();
        let lines = changes(&saved, v4, Some(plan), &Leaving::Nobody);
        let name = if v4 { "iptables" } else { "ip6tables" };
        let wanted = lines.iter().filter(|line| !line.starts_with(':'));
        faults.extend(wanted.map(|line| format!("{name} needs: {line}")));
    }
    Ok(faults)
}

/// STATUS: can the table be read? A host without IPv6 may lack the other tool.
pub fn status() -> Result<(), CniError> {
    let iptables = Iptables::find(cni_common::kernel::IpVersion::if_v4(true), Variant::Default);
    iptables.and_then(|iptables| iptables.save(TABLE)).map(|_| ()).map_err(|error| CniError {
        code: ErrorCode::NotAvailable,
        ..error.into_cni("firewall cannot use iptables")
    })
}

/// Whether the attachment has rules here.
pub fn holds(nft: &mut dyn Nft, tag: &OwnerTag) -> Result<bool, NftError> {
    Ok(places(Some(nft))?.into_iter().any(|(v4, variant)| {
        let saved = Iptables::seeing(cni_common::kernel::IpVersion::if_v4(v4), variant)
            .and_then(|iptables| iptables.save(TABLE));
        saved.is_ok_and(|dump| {
            Saved::from(dump).rules.iter().any(|rule| rule.comment() == Some(tag.as_str()))
        })
    }))
}

/// The families in which the plan needs rules, those of its addresses, with their programs.
fn families(plan: &Plan) -> Result<Vec<(bool, Iptables)>, IptablesError> {
    [true, false]
        .into_iter()
        .filter(|v4| plan.of_family(*v4).next().is_some())
        .map(|v4| {
            Ok((v4, Iptables::find(cni_common::kernel::IpVersion::if_v4(v4), Variant::Default)?))
        })
        .collect()
}

fn change(
    iptables: &Iptables,
    v4: bool,
    plan: Option<&Plan>,
    leaving: &Leaving<'_>,
) -> Result<(), IptablesError> {
    let saved = iptables.save(TABLE)?.into();
    iptables.restore(&[(TABLE, changes(&saved, v4, plan, leaving))])
}

/// The restore lines from what is there to what must be there. Pure.
fn changes(saved: &Saved, v4: bool, plan: Option<&Plan>, leaving: &Leaving<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(plan) = plan {
        entrance(saved, plan, &mut lines);
    }
    owned_rules(saved, v4, plan, leaving, &mut lines);
    isolation(saved, v4, plan, leaving, &mut lines);
    // Chains come into being before rules lead to them.
    lines.sort_by_key(|line| !line.starts_with("-N") && !line.starts_with(':'));
    lines
}

/// `CNI-FORWARD`, the administrator's chain and the jumps to them.
fn entrance(saved: &Saved, plan: &Plan, lines: &mut Vec<String>) {
    for chain in [FORWARD, &plan.admin_chain] {
        if !saved.has_chain(chain) {
            lines.push(format!("-N {chain}"));
        }
    }
    let jump = commented("FORWARD", &[], RULES, FORWARD);
    keep_one(saved, &jump, lines);
    let admin = commented(FORWARD, &[], ADMIN, &plan.admin_chain);
    keep_one(saved, &admin, lines);
}

/// Exactly one such rule: at the chain's head if there is none yet.
fn keep_one(saved: &Saved, rule: &OurRule, lines: &mut Vec<String>) {
    let count = saved.rules_of(&rule.chain).filter(|there| *there == rule).count();
    if count == 0 {
        lines.push(rule.line("-I"));
    }
    lines.extend((1..count).map(|_| rule.line("-D")));
}

fn commented(chain: &str, matches: &[&str], comment: &str, target: &str) -> OurRule {
    let tail = ["-m", "comment", "--comment", comment, "-j", target];
    OurRule::new(chain, &[matches, &tail].concat())
}

/// Everything that carries one attachment's tag, except for what it says about bridges.
fn rules_of_address(address: IpAddr, tag: &OwnerTag) -> Vec<OurRule> {
    let host = host_network(address);
    let tagged = |chain, matches: &[&str], target| commented(chain, matches, tag.as_str(), target);
    let conntrack = |state| ["-d", &host, "-m", "conntrack", "--ctstate", state];
    vec![
        tagged(FORWARD, &conntrack("RELATED,ESTABLISHED"), "ACCEPT"),
        tagged(FORWARD, &conntrack("DNAT"), "ACCEPT"),
        tagged(FORWARD, &["-s", &host], "ACCEPT"),
        tagged(SOURCES, &["-s", &host], "DROP"),
    ]
}

fn host_network(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn address_of(rule: &OurRule) -> Option<&str> {
    rule.option("-d").or_else(|| rule.option("-s"))
}

fn owned_rules(
    saved: &Saved,
    v4: bool,
    plan: Option<&Plan>,
    leaving: &Leaving<'_>,
    lines: &mut Vec<String>,
) {
    let addresses: Vec<IpAddr> = plan.into_iter().flat_map(|plan| plan.of_family(v4)).collect();
    let hosts: Vec<String> = addresses.iter().copied().map(host_network).collect();
    let mut wanted: Vec<OurRule> = addresses
        .iter()
        .zip(plan.iter().cycle())
        .flat_map(|(address, plan)| rules_of_address(*address, &plan.tag))
        .collect();
    let mut there = 0;
    for rule in [FORWARD, SOURCES].into_iter().flat_map(|chain| saved.rules_of(chain)) {
        if rule.chain == SOURCES && rule.option("-s").is_none() {
            continue;
        }
        if let Some(position) = wanted.iter().position(|wanted| wanted == rule) {
            // A second copy of it is one too many.
            wanted.remove(position);
            there += 1;
            continue;
        }
        // The newest owner of an address wins. An administrator's rule has none.
        let taken = (rule.comment().is_some() || rule.is_of_go())
            && address_of(rule).is_some_and(|host| hosts.iter().any(|own| own == host));
        if taken || is_leaving(rule, plan, leaving) {
            lines.push(rule.line("-D"));
        }
    }
    if !saved.has_chain(SOURCES) && there + wanted.len() > 0 {
        lines.push(format!("-N {SOURCES}"));
    }
    lines.extend(wanted.iter().map(|rule| rule.line("-A")));
}

fn is_leaving(rule: &OurRule, plan: Option<&Plan>, leaving: &Leaving<'_>) -> bool {
    let own = |tag: &OwnerTag| rule.comment() == Some(tag.as_str());
    if plan.is_some_and(|plan| own(&plan.tag)) {
        return true;
    }
    match leaving {
        Leaving::Nobody => false,
        Leaving::Attachment(tag, known) => {
            // The Go plugin's rules name no owner but the address.
            let upstream = rule.is_of_go()
                && address_of(rule)
                    .is_some_and(|host| known.iter().any(|a| host_network(*a) == host));
            own(tag) || upstream
        }
        Leaving::Stale(is_stale) => rule.comment().is_some_and(is_stale),
    }
}

/// The list entry of an attachment.
fn member_rule(tag: &OwnerTag, bridge: &str, policy: Policy) -> OurRule {
    let matches: &[&str] = match policy {
        Policy::SameBridge => &["-i", bridge, "!", "-o", bridge],
        Policy::Isolated => &["-i", bridge],
    };
    commented(MEMBERS, matches, tag.as_str(), "RETURN")
}

fn membership(rule: &OurRule) -> Option<(String, Policy)> {
    let bridge = rule.option("-i")?.to_owned();
    let policy = if rule.option("-o").is_some() { Policy::SameBridge } else { Policy::Isolated };
    Some((bridge, policy))
}

/// The list of members, and the chains that follow from it.
fn isolation(
    saved: &Saved,
    v4: bool,
    plan: Option<&Plan>,
    leaving: &Leaving<'_>,
    lines: &mut Vec<String>,
) {
    let mut wanted: Option<OurRule> = plan.and_then(|plan| {
        let isolation = plan.isolation.as_ref()?;
        Some(member_rule(&plan.tag, &isolation.bridge, isolation.policy))
    });
    // Bridges that members have or had. Others in the chains are the Go plugin's, and stay.
    let mut shares: BTreeMap<String, Share> = BTreeMap::new();
    let mut members = 0;
    for rule in saved.rules_of(MEMBERS) {
        let Some((bridge, policy)) = membership(rule) else { continue };
        let share = shares.entry(bridge).or_default();
        if wanted.as_ref() == Some(rule) {
            wanted = None;
        } else if is_leaving(rule, plan, leaving) {
            lines.push(rule.line("-D"));
            continue;
        }
        *share = share.plus(policy);
        members += 1;
    }
    if let Some(rule) = wanted {
        if !saved.has_chain(MEMBERS) {
            lines.push(format!("-N {MEMBERS}"));
        }
        if let Some((bridge, policy)) = membership(&rule) {
            let share = shares.entry(bridge).or_default();
            *share = share.plus(policy);
            members += 1;
        }
        lines.push(rule.line("-A"));
    }
    let chains = isolation_chains(saved, v4, plan, &shares);
    let needed = chains.iter().any(|(_, rules)| rules.iter().any(is_about_a_bridge));
    if needed && plan.is_none() && shares.is_empty() {
        // Nothing here is or was ours: the Go plugin's isolation is none of a removal's business.
        return;
    }
    if needed {
        let creation = format!("-N {SOURCES}");
        if !saved.has_chain(SOURCES) && !lines.contains(&creation) {
            lines.push(creation);
        }
        enter_isolation(saved, lines);
        for (chain, rules) in chains {
            rewrite(saved, chain, &rules, lines);
        }
    } else {
        leave_isolation(saved, lines);
    }
    if members == 0 && saved.has_chain(MEMBERS) {
        lines.push(format!("-X {MEMBERS}"));
    }
    source_interfaces(saved, &shares, lines);
    if !needed {
        drop_empty_sources(saved, lines);
    }
}

/// The list of sources goes with the last of them.
fn drop_empty_sources(saved: &Saved, lines: &mut Vec<String>) {
    let starting_with = |action: &str| {
        let start = format!("{action} {SOURCES} ");
        lines.iter().filter(|line| line.starts_with(&start)).count()
    };
    let left = saved.rules_of(SOURCES).count() - starting_with("-D") + starting_with("-A");
    if left == 0 && saved.has_chain(SOURCES) {
        lines.push(format!("-X {SOURCES}"));
    }
}

fn is_about_a_bridge(rule: &OurRule) -> bool {
    rule.option("-i").is_some() || rule.option("-o").is_some()
}

/// The three chains as they must be, for bridges that share anything and for those that are not
/// ours.
fn isolation_chains(
    saved: &Saved,
    v4: bool,
    plan: Option<&Plan>,
    shares: &BTreeMap<String, Share>,
) -> [(&'static str, Vec<OurRule>); 3] {
    let ours = |rule: &OurRule| {
        [rule.option("-i"), rule.option("-o")]
            .into_iter()
            .flatten()
            .any(|bridge| shares.contains_key(bridge))
    };
    let kept = |chain: &'static str| {
        saved.rules_of(chain).filter(|rule| is_about_a_bridge(rule) && !ours(rule)).cloned()
    };
    let state = |chain, state| {
        commented(chain, &["-m", "conntrack", "--ctstate", state], BOTH_POLICIES, "RETURN")
    };
    let mut first = vec![state(STAGE_1, "RELATED,ESTABLISHED"), state(STAGE_1, "DNAT")];
    let mut second = Vec::new();
    let mut input = vec![state(INPUT, "RELATED,ESTABLISHED")];
    for (bridge, share) in shares.iter().filter(|(_, share)| !share.is_none()) {
        let policy = if share.isolated > 0 { Policy::Isolated } else { Policy::SameBridge };
        let comment = format!("{RULES} (ingressPolicy: {})", policy.as_str());
        if policy == Policy::Isolated {
            first.push(commented(STAGE_1, &["-i", bridge, "-o", bridge], &comment, "DROP"));
        }
        let out = ["-i", bridge, "!", "-o", bridge];
        first.push(commented(STAGE_1, &out, &comment, STAGE_2));
        let into = ["!", "-i", bridge, "-o", bridge];
        first.push(commented(STAGE_1, &into, &comment, SOURCES));
        second.push(commented(STAGE_2, &["-o", bridge], BOTH_POLICIES, "DROP"));
        input.extend(gateway_rules(saved, v4, plan, bridge));
    }
    first.extend(kept(STAGE_1));
    second.extend(kept(STAGE_2));
    input.extend(kept(INPUT));
    first.push(commented(STAGE_1, &[], BOTH_POLICIES, "RETURN"));
    second.push(commented(STAGE_2, &[], BOTH_POLICIES, "RETURN"));
    [(STAGE_2, second), (STAGE_1, first), (INPUT, input)]
}

/// The host's addresses on a bridge: those known so far and those of the plan.
fn gateway_rules(saved: &Saved, v4: bool, plan: Option<&Plan>, bridge: &str) -> Vec<OurRule> {
    let mut rules: Vec<OurRule> =
        saved.rules_of(INPUT).filter(|rule| rule.option("-i") == Some(bridge)).cloned().collect();
    let isolation = plan.and_then(|plan| plan.isolation.as_ref());
    let gateways = isolation.filter(|isolation| isolation.bridge == bridge);
    for gateway in gateways.iter().flat_map(|isolation| &isolation.gateways) {
        if gateway.is_ipv4() != v4 {
            continue;
        }
        let host = host_network(*gateway);
        let rule = commented(INPUT, &["-d", &host, "!", "-i", bridge], BOTH_POLICIES, SOURCES);
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// Gives a chain exactly these rules, if it has others.
fn rewrite(saved: &Saved, chain: &str, rules: &[OurRule], lines: &mut Vec<String>) {
    if saved.has_chain(chain) && saved.rules_of(chain).eq(rules) {
        return;
    }
    // Empties a chain that is there.
    lines.push(format!(":{chain} - [0:0]"));
    lines.extend(rules.iter().map(|rule| rule.line("-A")));
}

/// The jumps: isolation before acceptance, whatever order they are in now.
fn enter_isolation(saved: &Saved, lines: &mut Vec<String>) {
    let jump = commented("FORWARD", &[], BOTH_POLICIES, STAGE_1);
    let position = |target| saved.rules_of("FORWARD").position(|r| r.option("-j") == Some(target));
    let count = saved.rules_of("FORWARD").filter(|rule| **rule == jump).count();
    let in_order = match (position(STAGE_1), position(FORWARD)) {
        (Some(first), Some(accept)) => first < accept,
        (Some(_), None) => false,
        (None, _) => true,
    };
    if count != 1 || !in_order {
        lines.extend((0..count).map(|_| jump.line("-D")));
        lines.push(jump.line("-I"));
    }
    keep_one(saved, &commented("INPUT", &[], BOTH_POLICIES, INPUT), lines);
}

/// Rules go one by one: one that somebody added meanwhile must not be flushed along.
fn leave_isolation(saved: &Saved, lines: &mut Vec<String>) {
    for (chain, target) in [("FORWARD", STAGE_1), ("INPUT", INPUT)] {
        let jumps = saved.rules_of(chain).filter(|rule| rule.option("-j") == Some(target));
        lines.extend(jumps.map(|rule| rule.line("-D")));
    }
    // A chain must be empty and nobody may jump to it: all are emptied first.
    let there: Vec<_> =
        [STAGE_1, STAGE_2, INPUT].into_iter().filter(|chain| saved.has_chain(chain)).collect();
    let rules = there.iter().flat_map(|chain| saved.rules_of(chain));
    lines.extend(rules.map(|rule| rule.line("-D")));
    lines.extend(there.iter().map(|chain| format!("-X {chain}")));
}

/// Bridges that take part are sources by themselves, whatever addresses come from there.
fn source_interfaces(saved: &Saved, shares: &BTreeMap<String, Share>, lines: &mut Vec<String>) {
    for (bridge, share) in shares {
        let rule = commented(SOURCES, &["-i", bridge], BOTH_POLICIES, "DROP");
        let there = saved.rules_of(SOURCES).any(|there| *there == rule);
        match (share.is_none(), there) {
            (false, false) => lines.push(rule.line("-I")),
            (true, true) => lines.push(rule.line("-D")),
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::Isolation;
    use cni_common::cni::Attachment;

    pub(crate) fn plan(id: &str, address: &str, policy: Option<Policy>) -> Plan {
        let attachment =
            Attachment { network: "net".into(), container_id: id.into(), ifname: "eth0".into() };
        Plan {
            tag: attachment.tag(),
            addresses: vec![address.parse().expect("an address")],
            isolation: policy.map(|policy| Isolation {
                bridge: "br0".to_owned(),
                policy,
                gateways: vec!["10.0.0.1".parse().expect("an address")],
            }),
            admin_chain: "CNI-ADMIN".to_owned(),
            forward_chains: Vec::new(),
        }
    }

    /// An empty table of chains and rules that takes restore lines as the tool does.
    pub(super) fn applied(mut saved: Saved, lines: &[String]) -> Saved {
        for line in lines {
            let words = TableRule::parse(line);
            match (line.as_bytes()[1], line.strip_prefix(':')) {
                (_, Some(chain)) => {
                    let name = chain.split(' ').next().expect("a name").to_owned();
                    saved.rules.retain(|rule| rule.chain != name);
                    if !saved.has_chain(&name) {
                        saved.chains.push(name);
                    }
                }
                (b'N', _) => saved.chains.push(words.chain),
                (b'F', _) => saved.rules.retain(|rule| rule.chain != words.chain),
                (b'X', _) => {
                    assert_eq!(saved.rules_of(&words.chain).count(), 0, "{line}");
                    saved.chains.retain(|name| *name != words.chain);
                }
                (b'A', _) => saved.rules.push(words),
                (b'I', _) => saved.rules.insert(0, words),
                (b'D', _) => {
                    let position = saved.rules.iter().position(|rule| *rule == words);
                    saved.rules.remove(position.expect(line));
                }
                _ => panic!("{line}"),
            }
        }
        saved
    }

    /// A table of these rules, each behind its chain's name.
    pub(super) fn saved(text: &str) -> Saved {
        let mut saved = Saved::default();
        for line in text.trim().lines() {
            let rule = TableRule::parse(&format!("-A {line}"));
            saved.add_chain(&rule.chain);
            saved.rules.push(rule);
        }
        saved
    }

    impl Saved {
        pub(super) fn add_chain(&mut self, name: &str) {
            if !self.has_chain(name) {
                self.chains.push(name.to_owned());
            }
        }
    }

    struct TableRule;

    impl TableRule {
        /// Words of a restore line; comments here hold no quotes.
        fn parse(line: &str) -> OurRule {
            let mut words = Vec::new();
            for (index, part) in line.split('"').enumerate() {
                if index % 2 == 1 {
                    words.push(part.to_owned());
                } else {
                    words.extend(part.split_whitespace().map(str::to_owned));
                }
            }
            let chain = words.get(1).cloned().unwrap_or_default();
            OurRule { chain, words: words.split_off(2.min(words.len())) }
        }
    }

    fn added(saved: Saved, plan: &Plan) -> Saved {
        let lines = changes(&saved, true, Some(plan), &Leaving::Nobody);
        let saved = applied(saved, &lines);
        assert_eq!(
            changes(&saved, true, Some(plan), &Leaving::Nobody),
            Vec::<String>::new(),
            "what ADD made, CHECK finds right"
        );
        saved
    }

    #[test]
    fn a_fresh_add_has_the_go_plugins_chains_in_its_order() {
        let saved = added(Saved::default(), &plan("c", "10.0.0.2", Some(Policy::Isolated)));
        let lines: Vec<_> = saved
            .rules_of("FORWARD")
            .chain(saved.rules_of(FORWARD))
            .map(|r| r.line("-A"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        -A FORWARD -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j CNI-ISOLATION-STAGE-1
        -A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
        -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
        -A CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment net/c/eth0 -j ACCEPT
        -A CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate DNAT -m comment --comment net/c/eth0 -j ACCEPT
        -A CNI-FORWARD -s 10.0.0.2/32 -m comment --comment net/c/eth0 -j ACCEPT
        "#);
    }

    #[test]
    fn every_add_can_be_taken_back() {
        let policies = [None, Some(Policy::SameBridge), Some(Policy::Isolated)];
        for (first, second) in policies.iter().flat_map(|a| policies.map(|b| (*a, b))) {
            let one = plan("one", "10.0.0.2", first);
            let two = plan("two", "10.0.0.3", second);
            let saved = added(added(Saved::default(), &one), &two);
            let gone = |saved: Saved, plan: &Plan| {
                let lines = changes(&saved, true, None, &Leaving::Attachment(&plan.tag, &[]));
                applied(saved, &lines)
            };
            let saved = gone(saved, &one);
            assert_eq!(
                changes(&saved, true, Some(&two), &Leaving::Nobody),
                Vec::<String>::new(),
                "{first:?} leaves {second:?} alone"
            );
            let saved = gone(saved, &two);
            assert_eq!(saved.chains, [FORWARD, "CNI-ADMIN"], "{first:?} {second:?}");
            assert_eq!(saved.rules.len(), 2);
        }
    }

    #[test]
    fn acceptance_never_stays_in_front_of_isolation() {
        let isolated = plan("c", "10.0.0.2", Some(Policy::Isolated));
        let mut saved = added(Saved::default(), &isolated);
        let jumps = |saved: &Saved| -> Vec<String> {
            saved.rules_of("FORWARD").filter_map(|r| r.option("-j").map(str::to_owned)).collect()
        };
        let position = saved.rules.iter().position(|r| r.option("-j") == Some(FORWARD));
        let jump = saved.rules.remove(position.expect("a jump"));
        saved.rules.insert(0, jump);
        assert_eq!(jumps(&saved), [FORWARD, STAGE_1]);
        assert_eq!(jumps(&added(saved, &isolated)), [STAGE_1, FORWARD]);
    }
}
