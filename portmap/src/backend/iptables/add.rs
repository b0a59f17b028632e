//! ADD: both families, all or nothing.

use std::net::IpAddr;

use cni_common::cni::Failure as _;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{self, Iptables, IptablesError, Lock, TableDump, Variant};
use cni_common::kernel::retry::retry;

use super::changes::{ensure, install, put_back, removal};
use super::layout::{read, read_with_guard};
use super::names::Names;
use super::rules::{GUARD_TABLE, Rules, TABLE, guard};
use super::saved::{entry_chains, evicted_chains};
use super::standing::{self, conflicts, held};
use crate::backend::conflict;
use crate::config::OnConflict;
use crate::plan::{Mapping, Plan};

const DOING: &str = "cannot install the port mappings with iptables";

/// Makes exactly what the plan asks for in both families, replacing whatever the attachment had in the
/// host's own iptables before, or changes nothing.
pub(super) fn add(plan: &Plan, log: &Log) -> Result<Added, CniError> {
    let cni = |error: IptablesError| error.into_cni(DOING);
    let _lock = Lock::acquire().map_err(cni)?;
    // Both are looked at before either is changed: what an earlier ADD made has to outlive a
    // refusal. The lock keeps our other processes out until this one is done.
    let mut families = Vec::new();
    for version in IpVersion::ALL {
        let Some(family) = Family::look(plan, version).map_err(cni)? else { continue };
        family.refuse(plan)?;
        families.push(family);
    }
    let names = Names::of_entry(&plan.attachment, plan.gate());
    let mut mappings = Vec::new();
    for (position, family) in families.iter().enumerate() {
        match family.make(&names) {
            Ok(Made { mappings: made, told }) => {
                mappings.extend(made);
                for line in told {
                    log.warn(line);
                }
            }
            Err(error) => {
                // All or nothing. Putting back is best effort: this error is the one to tell.
                for begun in &families[..=position] {
                    let _ = begun.put_back();
                }
                return Err(error.into_cni(DOING));
            }
        }
    }
    let replaced =
        families.iter().any(|family| !entry_chains(&family.tables.0, &names, &[]).is_empty());
    Ok(Added { mappings, replaced })
}

/// What ADD made.
pub(super) struct Added {
    /// The mappings that are now in force.
    pub(super) mappings: Vec<Mapping>,
    /// Whether the attachment had something before.
    pub(super) replaced: bool,
}

/// What was made of one family.
#[derive(Default)]
struct Made {
    /// The mappings that are now in force.
    mappings: Vec<Mapping>,
    /// What there is to tell about mappings of other attachments.
    told: Vec<String>,
}

/// One family, as it is and as it must be.
struct Family {
    iptables: Iptables,
    tables: Tables,
    /// `None` if nothing is mapped in it; an earlier ADD may have mapped something.
    rules: Option<Rules>,
}

/// Lines for tables.
type Changes = Vec<(&'static str, Vec<String>)>;

/// What is saved: table nat, and the guard's table if it has to stand.
type Tables = (TableDump, Option<TableDump>);

impl Family {
    /// `None` if there is nothing to map in it, and no program.
    fn look(plan: &Plan, version: IpVersion) -> Result<Option<Self>, IptablesError> {
        let rules = Rules::new(plan, version);
        let iptables = match Iptables::find(version, Variant::Default) {
            Err(IptablesError::Missing(_)) if rules.is_none() => return Ok(None),
            found => found?,
        };
        let guarded = is_guarded(plan, version) && rules.is_some();
        let tables = save(&iptables, guarded)?;
        Ok(Some(Self { iptables, tables, rules }))
    }

    fn refuse(&self, plan: &Plan) -> Result<(), CniError> {
        let (Some(_), (dump, _)) = (&self.rules, &self.tables) else { return Ok(()) };
        match plan.on_conflict {
            OnConflict::Replace | OnConflict::Wait => Ok(()),
            OnConflict::Fail => conflict::refuse(plan, standing::mappings(dump)),
        }
    }

    fn make(&self, names: &Names) -> Result<Made, IptablesError> {
        let mut again = None;
        retry(|| {
            let (dump, raw) = again.as_ref().unwrap_or(&self.tables);
            let outcome = self.iptables.restore(&self.changes(dump, raw.as_ref(), names));
            let made = self.rules.as_ref().map(|rules| made(dump, rules)).unwrap_or_default();
            if outcome.is_err() {
                again = Some(save(&self.iptables, raw.is_some())?);
            }
            outcome.map(|()| made)
        })
    }

    fn changes(&self, dump: &TableDump, raw: Option<&TableDump>, names: &Names) -> Changes {
        let Some(rules) = &self.rules else {
            let chains = entry_chains(dump, names, &[]);
            let chains: Vec<_> = chains.into_iter().filter(|chain| dump.has_chain(chain)).collect();
            let lines = if chains.is_empty() { Vec::new() } else { removal(dump, &chains) };
            return vec![(TABLE, lines)];
        };
        installation(rules, dump, raw)
    }

    /// Gives our chains the rules that they had. The guard stays.
    fn put_back(&self) -> Result<(), IptablesError> {
        let (before, _) = &self.tables;
        let now = read(&self.iptables)?;
        self.iptables.restore(&[(TABLE, put_back(before, &now))])
    }
}

/// What makes the rules in tables that are so.
fn installation(rules: &Rules, dump: &TableDump, raw: Option<&TableDump>) -> Changes {
    let guard = raw.map(|raw| (GUARD_TABLE, ensure(raw, &guard())));
    guard.into_iter().chain([(TABLE, install(dump, rules))]).collect()
}

/// Whether the guard has to stand in a family.
fn is_guarded(plan: &Plan, version: IpVersion) -> bool {
    plan.loopback && version.is_v4()
}

/// What [`add`] has `iptables-restore` read on a host that has nothing of iptables, by family.
pub(super) fn scripts(plan: &Plan) -> Vec<(IpVersion, String)> {
    let empty = TableDump::default();
    let script = |version| {
        let rules = Rules::new(plan, version)?;
        let raw = is_guarded(plan, version).then_some(&empty);
        Some((version, iptables::script(&installation(&rules, &empty, raw))))
    };
    IpVersion::ALL.into_iter().filter_map(script).collect()
}

fn save(iptables: &Iptables, guarded: bool) -> Result<Tables, IptablesError> {
    if guarded {
        let [nat, raw] = read_with_guard(iptables)?;
        return Ok((nat, Some(raw)));
    }
    Ok((read(iptables)?, None))
}

fn made(dump: &TableDump, rules: &Rules) -> Made {
    let names = &rules.names;
    let addresses: Vec<IpAddr> = rules.mappings.iter().map(|mapping| mapping.container).collect();
    let evicted = evicted_chains(dump, names, &addresses);
    let is_evicted = |owner: &str| evicted.iter().any(|(_, tag)| tag.as_str() == owner);
    let mut told: Vec<String> = standing::mappings(dump)
        .iter()
        .filter(|(_, owner)| is_evicted(owner))
        .map(|(mapping, owner)| conflict::evicted(mapping, owner, &names.attachment.tag()))
        .collect();
    let mut mappings = rules.mappings.clone();
    if rules.yields {
        let held = held(dump, rules).into_iter().filter(|(_, owner)| !is_evicted(owner));
        for held in held {
            told.push(conflict::yielded(&held, &names.attachment.tag()));
            mappings.retain(|mapping| *mapping != held.0);
        }
        return Made { mappings, told };
    }
    let behind = conflicts(dump, rules).into_iter().filter(|(_, owner)| !is_evicted(owner));
    told.extend(behind.map(|(mapping, owner)| {
        format!("host port mapping {mapping} of attachment {owner} comes behind the newest owner's")
    }));
    Made { mappings, told }
}
