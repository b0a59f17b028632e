//! DEL and GC in one family of one kind of iptables.

use std::net::IpAddr;

use cni_common::cni::Stale;
use cni_common::kernel::iptables::{IptablesError, Lock, TableDump};
use cni_common::kernel::retry::retry;

use super::changes::{removal, skeleton_removal};
use super::names::Names;
use super::places::Place;
use super::rules::{TABLE, TOP_CHAIN};
use super::saved::{own_chains, stale_chains, translation};
use crate::plan::Mapping;

/// Removes an attachment's chains and entries; nothing there is success. Returns the mappings that
/// were removed. `addresses` are the container's, if they are known.
pub(super) fn remove(
    place: Place,
    names: &Names,
    addresses: &[IpAddr],
) -> Result<Vec<Mapping>, IptablesError> {
    let _lock = Lock::acquire()?;
    remove_chains(place, |dump| own_chains(dump, names, addresses))
}

/// Removes the chains that `choose` names in the saved table, and whatever leads to them.
pub(super) fn remove_chains(
    place: Place,
    choose: impl Fn(&TableDump) -> Vec<String>,
) -> Result<Vec<Mapping>, IptablesError> {
    let iptables = place.open()?;
    retry(|| {
        let dump = iptables.save(TABLE)?;
        let mut chains = choose(&dump);
        chains.retain(|chain| dump.has_chain(chain));
        if chains.is_empty() {
            return Ok(Vec::new());
        }
        iptables.restore(&[(TABLE, removal(&dump, &chains))])?;
        Ok(mappings_in(&dump, &chains))
    })
}

/// GC: removes stale chains, and the shared chains once nothing is mapped at all.
pub(super) fn collect_garbage(place: Place, stale: &Stale) -> Result<Vec<Mapping>, IptablesError> {
    let _lock = Lock::acquire()?;
    let iptables = place.open()?;
    retry(|| {
        let dump = iptables.save(TABLE)?;
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
