//! GC of the chain that keeps packets from outside away from 127.0.0.0/8.
//!
//! Its jump stays as long as it may be needed: while anything is mapped, because ADD makes it
//! before it sets `route_localnet`, and while an interface has that set, because DEL cannot know
//! whether somebody else needs it.

use cni_common::kernel::iptables::{IptablesError, Lock, TableDump};

use super::places::Place;
use super::rules::{GUARD_CHAIN, GUARD_TABLE, TABLE, TOP_CHAIN, guard};
use crate::localnet;

/// Removes the guard if nothing needs it any more.
pub(super) fn remove_if_useless(place: Place) -> Result<(), IptablesError> {
    let _lock = Lock::acquire()?;
    if localnet::is_set_anywhere() {
        return Ok(());
    }
    let iptables = place.open()?;
    let tables = iptables.save_all()?;
    let is_mapped = tables.get(TABLE).is_some_and(|nat| nat.rules_of(TOP_CHAIN).next().is_some());
    match tables.get(GUARD_TABLE) {
        Some(raw) if !is_mapped => iptables.restore(&[(GUARD_TABLE, removal(raw))]),
        _ => Ok(()),
    }
}

/// The lines that remove the chain and the jumps to it. Somebody else's rule in it makes iptables
/// refuse them all.
fn removal(raw: &TableDump) -> Vec<String> {
    if !raw.has_chain(GUARD_CHAIN) {
        return Vec::new();
    }
    let ours = guard();
    let rules = raw
        .rules
        .iter()
        .filter(|rule| ours.iter().any(|own| own.chain == rule.chain && rule.is(&own.spec)));
    let mut lines: Vec<String> =
        rules.map(|rule| format!("-D {} {}", rule.chain, rule.spec)).collect();
    lines.push(format!("-X {GUARD_CHAIN}"));
    lines
}
