//! The iptables backend: one `save` to see what is there, one `restore` to change it, per family.

pub mod guard;
pub mod rules;
pub mod served;

use std::collections::HashMap;
use std::net::IpAddr;

use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode, ValidAttachment};
use cni_common::cni::{Attachment, Failure as _};
use cni_common::kernel::iptables::{Iptables, IptablesError, Lock, SavedRule, TableDump, Variant};

use crate::config::{Config, OnConflict};
use crate::localnet::Localnet;
use crate::plan::{ActiveMapping, Addresses};
use rules::{
    ChainRule, Entry, GUARD_TABLE, GoRules, Names, OLD_SNAT_TOP, Owner, Rules, TABLE, TOP_CHAIN,
};

/// How often a change is decided anew when another program changed the table in between.
const ATTEMPTS: usize = 5;
const DOING: &str = "cannot install the port mappings with iptables";

/// Makes exactly what the configuration asks for in both families, replacing whatever the
/// attachment had before. Returns the mappings in force.
pub fn add(
    attachment: &Attachment,
    config: &Config,
    addresses: Addresses,
    localnet: &Localnet,
    log: &Log,
) -> Result<Vec<ActiveMapping>, CniError> {
    let _lock = Lock::acquire().map_err(|error| error.into_cni(DOING))?;
    let families = [true, false].map(|v4| (v4, Rules::new(attachment, config, addresses, v4)));
    if config.on_conflict == OnConflict::Fail {
        for (v4, rules) in &families {
            refuse_what_is_taken(*v4, rules.as_ref())?;
        }
    }
    let mut active = Vec::new();
    for (v4, rules) in families {
        // Also when the parameter is set: somebody may have flushed the guard since.
        let needs_guard = v4 && !matches!(localnet, Localnet::NotNeeded);
        let names = Names::new(attachment);
        let outcome = match &rules {
            Some(rules) => add_family(v4, rules, needs_guard, log),
            // An earlier ADD may have mapped something in this family.
            None => match remove_family(v4, Variant::Default, &names, &[]) {
                Ok(_) | Err(IptablesError::Missing(_)) => Ok(()),
                Err(error) => Err(error.into_cni(DOING)),
            },
        };
        if let Err(error) = outcome {
            // All or nothing: the other family must not stay behind. What undoing meets is what
            // this error says already.
            let _ = remove_family(!v4, Variant::Default, &names, &[]);
            return Err(error);
        }
        active.extend(rules.into_iter().flat_map(|rules| rules.active));
    }
    Ok(active)
}

/// `"onConflict": "fail"`, asked of both families before either is changed: what an earlier ADD
/// made has to outlive a refusal. The lock keeps our other processes out until this one is done.
fn refuse_what_is_taken(v4: bool, rules: Option<&Rules>) -> Result<(), CniError> {
    let Some(rules) = rules else { return Ok(()) };
    let dump = Iptables::find(cni_common::kernel::IpVersion::if_v4(v4), Variant::Default)
        .and_then(|iptables| iptables.save(TABLE))
        .map_err(|error| error.into_cni(DOING))?;
    let Some((mapping, owner)) = conflicts(&dump, rules).into_iter().next() else { return Ok(()) };
    Err(CniError::new(
        ErrorCode::PortConflict,
        format!(
            "host port mapping {mapping} belongs to attachment {owner}: delete that attachment, \
             choose another host port, or remove \"onConflict\": \"fail\""
        ),
    ))
}

fn add_family(v4: bool, rules: &Rules, guard: bool, log: &Log) -> Result<(), CniError> {
    let cni = |error: IptablesError| error.into_cni(DOING);
    let iptables =
        Iptables::find(cni_common::kernel::IpVersion::if_v4(v4), Variant::Default).map_err(cni)?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let tables = if guard {
            iptables.save_all().map_err(cni)?
        } else {
            HashMap::from([(TABLE.to_owned(), iptables.save(TABLE).map_err(cni)?)])
        };
        let none = TableDump::default();
        let dump = tables.get(TABLE).unwrap_or(&none);
        let conflicts = conflicts(dump, rules);
        let mut changes = vec![(TABLE, install(dump, rules))];
        if guard {
            let raw = tables.get(GUARD_TABLE).unwrap_or(&none);
            changes.insert(0, (GUARD_TABLE, ensure(raw, &rules::guard())));
        }
        match iptables.restore(&changes) {
            Ok(()) => {
                for (mapping, owner) in conflicts {
                    log.warn(format!(
                        "host port mapping {mapping} of attachment {owner} comes behind the newest owner's"
                    ));
                }
                return Ok(());
            }
            // A rule that was saved is gone, or a chain has come: look again.
            Err(error @ IptablesError::Failed { .. }) => last = Some(error),
            Err(error) => return Err(cni(error)),
        }
    }
    Err(last.map_or_else(|| CniError::new(ErrorCode::Internal, DOING), cni))
}

/// The lines that turn `dump` into what the rules ask for.
fn install(dump: &TableDump, rules: &Rules) -> Vec<String> {
    let names = &rules.names;
    let addresses: Vec<IpAddr> = rules.active.iter().map(|mapping| mapping.container).collect();
    let old = own_chains(dump, names, &addresses);
    let chain = free_chain(dump, names, &old);
    let mut lines = Vec::new();
    if !dump.has_chain(TOP_CHAIN) {
        lines.push(format!(":{TOP_CHAIN} - [0:0]"));
    }
    // Declaring a chain that exists empties it.
    lines.push(format!(":{chain} - [0:0]"));
    lines.extend(ensure(dump, &rules.shared));
    let obsolete =
        |rule: &&SavedRule| rule.option("-j").is_some_and(|target| old.contains(&target));
    let (entries, mut rest): (Vec<_>, Vec<_>) = dump.rules_of(TOP_CHAIN).partition(obsolete);
    lines.extend(entries.iter().map(|rule| format!("-D {TOP_CHAIN} {}", rule.spec)));
    for other in old.iter().filter(|other| *other != chain) {
        lines.push(format!("-F {other}"));
        lines.push(format!("-X {other}"));
    }
    lines.extend(rules.own.iter().map(|spec| format!("-A {chain} {spec}")));
    let inserted: Vec<SavedRule> = rules
        .entries
        .iter()
        .map(|entry| SavedRule { chain: TOP_CHAIN.to_owned(), spec: entry.to(chain) })
        .collect();
    for (entry, saved) in rules.entries.iter().zip(&inserted) {
        let position = position(&rest, entry, &names.comment);
        lines.push(format!("-I {TOP_CHAIN} {} {}", position + 1, saved.spec));
        rest.insert(position, saved);
    }
    lines
}

/// The chains that are the attachment's, whoever made them.
fn own_chains(dump: &TableDump, names: &Names, addresses: &[IpAddr]) -> Vec<String> {
    let mut own: Vec<String> = Vec::new();
    let mut entered: Vec<String> = Vec::new();
    for entry in
        dump.rules.iter().filter(|rule| [TOP_CHAIN, OLD_SNAT_TOP].contains(&rule.chain.as_str()))
    {
        let (Some(comment), Some(target)) = (entry.option("--comment"), entry.option("-j")) else {
            continue;
        };
        let leads_to_us = || {
            let mut targets = dump.rules_of(&target).filter_map(translation).peekable();
            targets.peek().is_some()
                && targets.all(|mapping| addresses.contains(&mapping.container))
        };
        if names.owns(&comment, &target, leads_to_us) && !own.contains(&target) {
            own.push(target.clone());
        }
        entered.push(target);
    }
    // What a call that was killed half-way left.
    let abandoned = |chain: &&&String| dump.has_chain(chain) && !entered.contains(chain);
    for chain in names.chains().iter().filter(abandoned) {
        if !own.contains(chain) {
            own.push((*chain).clone());
        }
    }
    own
}

/// The attachment's chain, unless somebody else has the name.
fn free_chain<'a>(dump: &TableDump, names: &'a Names, own: &[String]) -> &'a String {
    let foreign = dump.has_chain(&names.chain) && !own.contains(&names.chain);
    if foreign { &names.alternative } else { &names.chain }
}

/// Where an entry goes: mappings of one host address before those of any, and among equals the
/// newest first; but behind the same container's, whose first network keeps its ports.
fn position(entries: &[&SavedRule], entry: &Entry, comment: &str) -> usize {
    let specific = |rule: &&&SavedRule| rule.option("-d").is_some();
    let boundary = if entry.specific { 0 } else { entries.iter().take_while(specific).count() };
    let container =
        |text: &str| Owner::from_comment(text).map(|owner| owner.attachment.container_id);
    let own = container(comment);
    let last_sibling = entries.iter().rposition(|rule| {
        let theirs = rule.option("--comment");
        own.is_some() && theirs.is_some_and(|theirs| theirs != comment && container(&theirs) == own)
    });
    boundary.max(last_sibling.map_or(0, |index| index + 1))
}

/// The lines that add what is missing of shared chains and their rules.
fn ensure(dump: &TableDump, shared: &[ChainRule]) -> Vec<String> {
    let mut lines = Vec::new();
    for ChainRule { chain, .. } in shared {
        let line = format!(":{chain} - [0:0]");
        let built_in = ["PREROUTING", "OUTPUT", "POSTROUTING"].contains(&chain.as_str());
        if !built_in && !dump.has_chain(chain) && !lines.contains(&line) {
            lines.push(line);
        }
    }
    for ChainRule { chain, spec, first } in shared {
        if !dump.rules_of(chain).any(|rule| rule.is(spec)) {
            lines.push(if *first {
                format!("-I {chain} 1 {spec}")
            } else {
                format!("-A {chain} {spec}")
            });
        }
    }
    lines
}

/// Mappings of other containers that answer to the same host address, protocol and port.
fn conflicts(dump: &TableDump, rules: &Rules) -> Vec<(ActiveMapping, String)> {
    let own = Owner::from_comment(&rules.names.comment);
    let mut conflicts = Vec::new();
    for (mapping, owner) in mappings(dump) {
        let key = |m: &ActiveMapping| (m.host_address, m.protocol, m.host_port);
        let same_container =
            own.as_ref().is_some_and(|own| own.attachment.container_id == owner.container_id);
        if !same_container && rules.active.iter().any(|active| key(active) == key(&mapping)) {
            conflicts.push((mapping, owner.tag().to_string()));
        }
    }
    conflicts
}

/// The mappings in a saved table, with their owners.
#[must_use]
pub fn mappings(dump: &TableDump) -> Vec<(ActiveMapping, Attachment)> {
    let mut owners: HashMap<String, Attachment> = HashMap::new();
    for entry in dump.rules_of(TOP_CHAIN) {
        let owner = entry.option("--comment").and_then(|comment| Owner::from_comment(&comment));
        if let (Some(chain), Some(owner)) = (entry.option("-j"), owner) {
            owners.insert(chain, owner.attachment);
        }
    }
    let mapped = dump.rules.iter().filter_map(|rule| {
        let owner = owners.get(&rule.chain)?;
        Some((translation(rule)?, owner.clone()))
    });
    mapped.collect()
}

fn translation(rule: &SavedRule) -> Option<ActiveMapping> {
    let target: std::net::SocketAddr = rule.option("--to-destination")?.parse().ok()?;
    let host = rule.option("-d").map(|text| text.split('/').next().unwrap_or_default().parse());
    Some(ActiveMapping {
        host_address: host.transpose().ok()?,
        host_port: rule.option("--dport")?.parse().ok()?,
        protocol: cni_common::kernel::nft::L4Protocol::from_text(&rule.option("-p")?)?,
        container: target.ip(),
        container_port: target.port(),
    })
}

/// Removes an attachment's chains and entries from one family; nothing there is success. Returns
/// the mappings that were removed. `addresses` are the container's, if they are known.
pub fn remove(
    v4: bool,
    variant: Variant,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<Vec<ActiveMapping>, IptablesError> {
    let _lock = Lock::acquire()?;
    remove_family(v4, variant, &Names::new(attachment), addresses)
}

fn remove_family(
    v4: bool,
    variant: Variant,
    names: &Names,
    addresses: &[IpAddr],
) -> Result<Vec<ActiveMapping>, IptablesError> {
    remove_chains(v4, variant, |dump| own_chains(dump, names, addresses))
}

/// Removes the chains that `choose` names in the saved table, and whatever leads to them.
fn remove_chains(
    v4: bool,
    variant: Variant,
    choose: impl Fn(&TableDump) -> Vec<String>,
) -> Result<Vec<ActiveMapping>, IptablesError> {
    let iptables = Iptables::seeing(cni_common::kernel::IpVersion::if_v4(v4), variant)?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let dump = iptables.save(TABLE)?;
        let mut chains = choose(&dump);
        chains.retain(|chain| dump.has_chain(chain));
        if chains.is_empty() {
            return Ok(Vec::new());
        }
        let removed = dump.rules.iter().filter(|rule| chains.contains(&rule.chain));
        let removed = removed.filter_map(translation).collect();
        match iptables.restore(&[(TABLE, removal(&dump, &chains))]) {
            Ok(()) => return Ok(removed),
            // Somebody else removed some of it meanwhile: look again.
            Err(error @ IptablesError::Failed { .. }) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    last.map_or(Ok(Vec::new()), Err)
}

fn removal(dump: &TableDump, chains: &[String]) -> Vec<String> {
    let leads_there =
        |rule: &&SavedRule| rule.option("-j").is_some_and(|target| chains.contains(&target));
    let tops = [TOP_CHAIN, OLD_SNAT_TOP];
    let entries = dump.rules.iter().filter(|rule| tops.contains(&rule.chain.as_str()));
    let mut lines: Vec<String> = entries
        .filter(leads_there)
        .map(|rule| format!("-D {} {}", rule.chain, rule.spec))
        .collect();
    lines.extend(chains.iter().map(|chain| format!("-F {chain}")));
    lines.extend(chains.iter().map(|chain| format!("-X {chain}")));
    lines
}

/// GC: removes the chains of attachments to `network` that are not valid any more, and the shared
/// chains once nothing is mapped at all.
pub fn collect_garbage(
    v4: bool,
    variant: Variant,
    network: &str,
    valid: &[ValidAttachment],
) -> Result<Vec<ActiveMapping>, IptablesError> {
    let _lock = Lock::acquire()?;
    let iptables = Iptables::seeing(cni_common::kernel::IpVersion::if_v4(v4), variant)?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let dump = iptables.save(TABLE)?;
        let stale = stale_chains(&dump, network, valid);
        let removed = dump.rules.iter().filter(|rule| stale.contains(&rule.chain));
        let removed = removed.filter_map(translation).collect();
        let mut lines = removal(&dump, &stale);
        let leads_there = |rule: &SavedRule| rule.option("-j").is_some_and(|t| stale.contains(&t));
        if dump.rules_of(TOP_CHAIN).all(leads_there) {
            lines.extend(skeleton_removal(&dump));
        }
        match iptables.restore(&[(TABLE, lines)]) {
            Ok(()) => return Ok(removed),
            Err(error @ IptablesError::Failed { .. }) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    last.map_or(Ok(Vec::new()), Err)
}

fn stale_chains(dump: &TableDump, network: &str, valid: &[ValidAttachment]) -> Vec<String> {
    let is_valid = |attachment: &Attachment| {
        valid.iter().any(|valid| {
            // The Go plugin's comments name no interface; its chain is stale with the container.
            let any_interface = attachment.ifname == rules::USUAL_IFNAME;
            valid.container_id == attachment.container_id
                && (any_interface || valid.ifname == attachment.ifname)
        })
    };
    let mut stale = Vec::new();
    for entry in dump.rules_of(TOP_CHAIN) {
        let owner = entry.option("--comment").and_then(|comment| Owner::from_comment(&comment));
        let (Some(Owner { attachment }), Some(chain)) = (owner, entry.option("-j")) else {
            continue;
        };
        if attachment.network == network && !is_valid(&attachment) && !stale.contains(&chain) {
            stale.push(chain);
        }
    }
    stale
}

/// The lines that remove the shared chains and the jumps to them. Those that rules of other
/// programs lead to stay.
fn skeleton_removal(dump: &TableDump) -> Vec<String> {
    const BUILT_IN: [&str; 3] = ["PREROUTING", "OUTPUT", "POSTROUTING"];
    let ours = |chain: &str| {
        rules::SHARED_CHAINS.iter().any(|stem| {
            chain.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    };
    let foreign_use = |chain: &str| {
        dump.rules.iter().any(|rule| {
            let own_chain = ours(&rule.chain) || rule.chain.starts_with("CNI-DN-");
            rule.option("-j").as_deref() == Some(chain)
                && !own_chain
                && !BUILT_IN.contains(&rule.chain.as_str())
        })
    };
    let chains: Vec<&String> = dump
        .chains
        .iter()
        .map(|(chain, _)| chain)
        .filter(|chain| ours(chain) && !foreign_use(chain))
        .filter(|chain| *chain != OLD_SNAT_TOP || dump.rules_of(chain).next().is_none())
        .collect();
    let jumps = dump.rules.iter().filter(|rule| {
        BUILT_IN.contains(&rule.chain.as_str())
            && rule.option("-j").is_some_and(|target| chains.iter().any(|chain| **chain == target))
    });
    let mut lines: Vec<String> =
        jumps.map(|rule| format!("-D {} {}", rule.chain, rule.spec)).collect();
    // iptables-nft cannot flush a chain that it deletes rules from in the same go; the entries of
    // the top chain are all deleted by now.
    let full = chains.iter().filter(|chain| **chain != TOP_CHAIN);
    lines.extend(full.map(|chain| format!("-F {chain}")));
    lines.extend(chains.iter().map(|chain| format!("-X {chain}")));
    lines
}

/// What CHECK sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What differs from what ADD would make.
    pub faults: Vec<String>,
    /// Whether something is there that ADD makes and the Go plugin does not: the two have the same
    /// chains.
    pub ours: bool,
}

/// CHECK: compares what is there with what ADD would make.
pub fn check(
    attachment: &Attachment,
    config: &Config,
    addresses: Addresses,
) -> Result<Findings, IptablesError> {
    let mut findings = Findings::default();
    for v4 in [true, false] {
        let Some(rules) = Rules::new(attachment, config, addresses, v4) else { continue };
        let dump = Iptables::find(cni_common::kernel::IpVersion::if_v4(v4), Variant::Default)?
            .save(TABLE)?;
        let family = if v4 { "iptables" } else { "ip6tables" };
        let faults = family_faults(&dump, &rules);
        findings.faults.extend(faults.into_iter().map(|fault| format!("{family}: {fault}")));
        let go = GoRules::new(attachment, config, addresses, v4);
        findings.ours |= go.is_some_and(|go| has_what_only_ours_has(&dump, &rules, &go));
    }
    Ok(findings)
}

fn has_what_only_ours_has(dump: &TableDump, rules: &Rules, go: &GoRules) -> bool {
    let chains = rules.names.chains().into_iter();
    let mut own = chains.flat_map(|chain| dump.rules_of(chain).map(move |rule| (chain, rule)));
    own.any(|(chain, rule)| {
        let made_by = |specs: &[String]| specs.iter().any(|spec| rule.is(spec));
        made_by(&rules.own) && !(*chain == go.names.go_chain && made_by(&go.own))
    })
}

fn family_faults(dump: &TableDump, rules: &Rules) -> Vec<String> {
    let mut faults = Vec::new();
    for ChainRule { chain, spec, .. } in &rules.shared {
        if !dump.rules_of(chain).any(|rule| rule.is(spec)) {
            faults.push(format!("rule \"{spec}\" is missing from chain {chain}"));
        }
    }
    let addresses: Vec<IpAddr> = rules.active.iter().map(|mapping| mapping.container).collect();
    let Some(chain) = &own_chains(dump, &rules.names, &addresses).into_iter().next() else {
        faults.push(format!("chain {} is missing", rules.names.chain));
        return faults;
    };
    let own: Vec<&SavedRule> = dump.rules_of(chain).collect();
    let same = own.len() == rules.own.len()
        && own.iter().zip(&rules.own).all(|(rule, spec)| rule.is(spec));
    if !same {
        let missing = rules.own.iter().find(|spec| !own.iter().any(|rule| rule.is(spec)));
        faults.push(match missing {
            Some(spec) => format!("rule \"{spec}\" is missing from chain {chain}"),
            None => format!("chain {chain} holds rules that ADD did not make, or in another order"),
        });
    }
    let entries: Vec<&SavedRule> =
        dump.rules_of(TOP_CHAIN).filter(|rule| rule.option("-j").as_ref() == Some(chain)).collect();
    for entry in &rules.entries {
        let spec = entry.to(chain);
        if !entries.iter().any(|rule| rule.is(&spec)) {
            faults.push(format!("rule \"{spec}\" is missing from chain {TOP_CHAIN}"));
        }
    }
    if entries.len() > rules.entries.len() {
        faults.push(format!("chain {TOP_CHAIN} leads to {chain} more often than ADD made it"));
    }
    faults
}

/// STATUS: the programs are there and can read the table.
pub fn status(config: &Config) -> Result<(), CniError> {
    let probe = || {
        Iptables::find(cni_common::kernel::IpVersion::if_v4(true), Variant::Default)?.save(TABLE)
    };
    probe().map_err(|error| {
        CniError::new(
            ErrorCode::NotAvailable,
            "portmap cannot use iptables: install it, run the plugin with CAP_NET_ADMIN, and load the \
             kernel's nat table",
        )
        .with_details(error.to_string())
    })
    .and_then(|dump| match &config.external_set_mark_chain {
        Some(chain) if !dump.has_chain(chain) => Err(CniError::new(
            ErrorCode::NotAvailable,
            format!("externalSetMarkChain {chain:?} is not in table nat: whoever owns it must make it first"),
        )),
        _ => Ok(()),
    })
}
