//! DEL and GC in one family of one kind of iptables.

use cni_common::cni::Stale;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, IptablesError, Lock, TableDump, Variant};
use cni_common::kernel::retry::retry;

use super::changes::{removal, skeleton_removal};
use super::guard;
use super::layout::{read, read_with_guard};
use super::places::Place;
use super::rules::{TABLE, TOP_CHAIN};
use super::saved::{stale_chains, translation};
use crate::plan::Mapping;

/// Removes an attachment's `own` chains and their entries; nothing there is success. Returns the mappings
/// that were removed. Where only a program can see the guard, `guarded` says whether it stands: that
/// costs no program of its own here.
pub(super) fn remove(
    place: Place,
    own: impl Fn(&TableDump) -> Vec<String>,
    guarded: &mut Option<bool>,
) -> Result<Vec<Mapping>, IptablesError> {
    let _lock = Lock::acquire()?;
    if place.version != IpVersion::V4 || place.variant != Variant::Legacy {
        return remove_chains(place, own);
    }
    let iptables = place.open()?;
    retry(|| {
        let [nat, raw] = read_with_guard(&iptables)?;
        *guarded = Some(guard::is_whole(&raw));
        remove_from(&iptables, &nat, own(&nat))
    })
}

/// Removes the chains that `choose` names in the saved table, and whatever leads to them.
pub(super) fn remove_chains(
    place: Place,
    choose: impl Fn(&TableDump) -> Vec<String>,
) -> Result<Vec<Mapping>, IptablesError> {
    let iptables = place.open()?;
    retry(|| {
        let dump = read(&iptables)?;
        let chains = choose(&dump);
        remove_from(&iptables, &dump, chains)
    })
}

fn remove_from(
    iptables: &Iptables,
    dump: &TableDump,
    mut chains: Vec<String>,
) -> Result<Vec<Mapping>, IptablesError> {
    chains.retain(|chain| dump.has_chain(chain));
    if chains.is_empty() {
        return Ok(Vec::new());
    }
    iptables.restore(&[(TABLE, removal(dump, &chains))])?;
    Ok(mappings_in(dump, &chains))
}

/// GC: removes stale chains, and the shared chains once nothing is mapped at all.
pub(super) fn collect_garbage(place: Place, stale: &Stale) -> Result<Vec<Mapping>, IptablesError> {
    let _lock = Lock::acquire()?;
    let iptables = place.open()?;
    retry(|| {
        let dump = read(&iptables)?;
        let chains = stale_chains(&dump, stale);
        let mut lines = removal(&dump, &chains);
        let goes = |target: String| chains.contains(&target);
        if dump.rules_of(TOP_CHAIN).all(|rule| rule.option("-j").is_some_and(goes)) {
            lines.extend(skeleton_removal(&dump));
        }
        iptables.restore(&[(TABLE, lines)])?;
        Ok(mappings_in(&dump, &chains))
    })
}

fn mappings_in(dump: &TableDump, chains: &[String]) -> Vec<Mapping> {
    let rules = dump.rules.iter().filter(|rule| chains.contains(&rule.chain));
    rules.filter_map(translation).collect()
}
