//! ADD: both families, all or nothing.

use cni_common::cni::Failure as _;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, IptablesError, Lock, Variant};
use cni_common::kernel::retry::retry;

use super::changes::{ensure, install};
use super::names::Names;
use super::places::Place;
use super::remove::remove_chains;
use super::rules::{GUARD_TABLE, Rules, TABLE, guard};
use super::saved::{conflicts, own_chains};
use crate::config::OnConflict;
use crate::plan::{Mapping, Plan};

const DOING: &str = "cannot install the port mappings with iptables";

/// Makes exactly what the plan asks for in both families, replacing whatever the attachment had
/// in the host's own iptables before.
pub(super) fn add(plan: &Plan, log: &Log) -> Result<(), CniError> {
    let _lock = Lock::acquire().map_err(|error| error.into_cni(DOING))?;
    let families = IpVersion::ALL.map(|version| (version, Rules::new(plan, version)));
    if plan.on_conflict == OnConflict::Fail {
        for (version, rules) in &families {
            refuse_what_is_taken(*version, rules.as_ref())?;
        }
    }
    let names = Names::new(&plan.attachment);
    for (version, rules) in families {
        let outcome = match &rules {
            Some(rules) => {
                add_family(version, rules, plan.loopback && version.is_v4()).map(|taken| {
                    for (mapping, owner) in taken {
                        log.warn(format!(
                            "host port mapping {mapping} of attachment {owner} comes behind the newest owner's"
                        ));
                    }
                })
            }
            // An earlier ADD may have mapped something in this family.
            None => match remove_family(version, &names) {
                Ok(()) | Err(IptablesError::Missing(_)) => Ok(()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = outcome {
            // All or nothing: the other family must not stay behind. Removing it is best effort:
            // this error is the one to tell.
            let _ = remove_family(version.other(), &names);
            return Err(error.into_cni(DOING));
        }
    }
    Ok(())
}

/// `"onConflict": "fail"`, asked of both families before either is changed: what an earlier ADD
/// made has to outlive a refusal. The lock keeps our other processes out until this one is done.
fn refuse_what_is_taken(version: IpVersion, rules: Option<&Rules>) -> Result<(), CniError> {
    let Some(rules) = rules else { return Ok(()) };
    let dump = Iptables::find(version, Variant::Default)
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

/// Returns the mappings of other attachments that come behind these, with their owners.
fn add_family(
    version: IpVersion,
    rules: &Rules,
    guarded: bool,
) -> Result<Vec<(Mapping, String)>, IptablesError> {
    let iptables = Iptables::find(version, Variant::Default)?;
    retry(|| {
        let (dump, raw) = if guarded {
            let [nat, raw] = iptables.save_each([TABLE, GUARD_TABLE])?;
            (nat, Some(raw))
        } else {
            (iptables.save(TABLE)?, None)
        };
        let mut changes = vec![(TABLE, install(&dump, rules))];
        if let Some(raw) = raw {
            changes.insert(0, (GUARD_TABLE, ensure(&raw, &guard())));
        }
        iptables.restore(&changes)?;
        Ok(conflicts(&dump, rules))
    })
}

fn remove_family(version: IpVersion, names: &Names) -> Result<(), IptablesError> {
    let place = Place { version, variant: Variant::Default };
    remove_chains(place, |dump| own_chains(dump, names, &[])).map(|_| ())
}
