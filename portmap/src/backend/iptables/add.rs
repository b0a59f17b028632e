//! ADD: both families, all or nothing.

use std::net::IpAddr;

use cni_common::cni::Failure as _;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, IptablesError, Lock, TableDump, Variant};
use cni_common::kernel::retry::retry;

use super::changes::{ensure, install};
use super::names::Names;
use super::places::Place;
use super::remove::remove_chains;
use super::rules::{GUARD_TABLE, Rules, TABLE, guard};
use super::saved::{entry_chains, evicted_chains};
use super::standing::{conflicts, mappings};
use crate::backend::conflict;
use crate::config::OnConflict;
use crate::plan::Plan;

const DOING: &str = "cannot install the port mappings with iptables";

/// Makes exactly what the plan asks for in both families, replacing whatever the attachment had
/// in the host's own iptables before.
pub(super) fn add(plan: &Plan, log: &Log) -> Result<(), CniError> {
    let cni = |error: IptablesError| error.into_cni(DOING);
    let _lock = Lock::acquire().map_err(cni)?;
    // Both are looked at before either is changed: what an earlier ADD made has to outlive a
    // refusal. The lock keeps our other processes out until this one is done.
    let mut families = Vec::new();
    for version in IpVersion::ALL {
        let family = Family::look(plan, version).map_err(cni)?;
        family.refuse(plan)?;
        families.push(family);
    }
    for family in families {
        let version = family.version;
        match family.make(plan) {
            Ok(told) => told.into_iter().for_each(|line| log.warn(line)),
            Err(error) => {
                // All or nothing: the other family must not stay behind. Removing it is
                // best effort: this error is the one to tell.
                let _ = remove_family(version.other(), plan);
                return Err(error.into_cni(DOING));
            }
        }
    }
    Ok(())
}

/// One family, as it is and as it must be.
struct Family {
    version: IpVersion,
    /// `None` if nothing is mapped in it.
    wanted: Option<(Rules, Iptables, Tables)>,
    guarded: bool,
}

/// What is saved: table nat, and the guard's table if it has to stand.
type Tables = (TableDump, Option<TableDump>);

impl Family {
    fn look(plan: &Plan, version: IpVersion) -> Result<Self, IptablesError> {
        let guarded = plan.loopback && version.is_v4();
        let wanted = match Rules::new(plan, version) {
            None => None,
            Some(rules) => {
                let iptables = Iptables::find(version, Variant::Default)?;
                let tables = save(&iptables, guarded)?;
                Some((rules, iptables, tables))
            }
        };
        Ok(Self { version, wanted, guarded })
    }

    fn refuse(&self, plan: &Plan) -> Result<(), CniError> {
        let Some((_, _, (dump, _))) = &self.wanted else { return Ok(()) };
        match plan.on_conflict {
            OnConflict::Replace => Ok(()),
            OnConflict::Fail => conflict::refuse(plan, mappings(dump)),
        }
    }

    /// Returns what there is to tell about mappings of other attachments.
    fn make(self, plan: &Plan) -> Result<Vec<String>, IptablesError> {
        let Some((rules, iptables, tables)) = self.wanted else {
            // An earlier ADD may have mapped something in this family.
            return match remove_family(self.version, plan) {
                Ok(()) | Err(IptablesError::Missing(_)) => Ok(Vec::new()),
                Err(error) => Err(error),
            };
        };
        let mut looked = Some(tables);
        retry(|| {
            let (dump, raw) = match looked.take() {
                Some(tables) => tables,
                None => save(&iptables, self.guarded)?,
            };
            let mut changes = vec![(TABLE, install(&dump, &rules))];
            if let Some(raw) = raw {
                changes.insert(0, (GUARD_TABLE, ensure(&raw, &guard())));
            }
            iptables.restore(&changes)?;
            Ok(told(&dump, &rules))
        })
    }
}

fn save(iptables: &Iptables, guarded: bool) -> Result<Tables, IptablesError> {
    if guarded {
        let [nat, raw] = iptables.save_each([TABLE, GUARD_TABLE])?;
        return Ok((nat, Some(raw)));
    }
    Ok((iptables.save(TABLE)?, None))
}

fn told(dump: &TableDump, rules: &Rules) -> Vec<String> {
    let names = &rules.names;
    let addresses: Vec<IpAddr> = rules.mappings.iter().map(|mapping| mapping.container).collect();
    let evicted = evicted_chains(dump, names, &addresses);
    let is_evicted = |owner: &str| evicted.iter().any(|(_, tag)| tag.as_str() == owner);
    let mut told: Vec<String> = mappings(dump)
        .iter()
        .filter(|(_, owner)| is_evicted(owner))
        .map(|(mapping, owner)| conflict::evicted(mapping, owner, &names.attachment.tag()))
        .collect();
    let behind = conflicts(dump, rules).into_iter().filter(|(_, owner)| !is_evicted(owner));
    told.extend(behind.map(|(mapping, owner)| {
        format!("host port mapping {mapping} of attachment {owner} comes behind the newest owner's")
    }));
    told
}

fn remove_family(version: IpVersion, plan: &Plan) -> Result<(), IptablesError> {
    let names = Names::of_entry(&plan.attachment, plan.gate());
    let place = Place { version, variant: Variant::Default };
    remove_chains(place, |dump| entry_chains(dump, &names, &[])).map(|_| ())
}
