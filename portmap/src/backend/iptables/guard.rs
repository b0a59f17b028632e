//! The chain that keeps packets from outside away from 127.0.0.0/8, without any mapping: put back,
//! and removed by GC.
//!
//! Its jump stays as long as it may be needed: while anything is mapped, because ADD makes it
//! before it sets `route_localnet`, and while an interface has that set, because DEL cannot know
//! whether somebody else needs it.

use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, IptablesError, Lock, TableDump, Variant};
use cni_common::kernel::nft::Nft;

use super::changes::ensure;
use super::layout::read_with_guard;
use super::places::{self, Place};
use super::rules::{GUARD_CHAIN, GUARD_TABLE, TOP_CHAIN, guard};
use crate::backend::Look;
use crate::localnet;

/// Whether it is there. A quick look is content with the chain where netlink shows that; `seen` is what
/// a program that ran anyway told.
pub(crate) fn stands(
    nft: Option<&mut dyn Nft>,
    look: Look,
    seen: Option<bool>,
) -> Result<bool, IptablesError> {
    for place in places::with_guard(nft)? {
        let is_there = match (place.variant, look, seen) {
            (Variant::Nft, Look::Quick, _) => true,
            (Variant::Legacy, _, Some(seen)) => seen,
            _ => is_whole(&place.open()?.save(GUARD_TABLE)?),
        };
        if is_there {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether nothing of it is missing from the table.
pub(super) fn is_whole(raw: &TableDump) -> bool {
    ensure(raw, &guard()).is_empty()
}

/// Puts the guard back into the host's own iptables.
pub(crate) fn build() -> Result<(), IptablesError> {
    let _lock = Lock::acquire()?;
    let iptables = Iptables::find(IpVersion::V4, Variant::Default)?;
    let raw = iptables.save(GUARD_TABLE)?;
    iptables.restore(&[(GUARD_TABLE, ensure(&raw, &guard()))])
}

/// Removes the guard if nothing needs it any more.
pub(super) fn remove_if_useless(place: Place) -> Result<(), IptablesError> {
    let _lock = Lock::acquire()?;
    if localnet::is_set_anywhere() {
        return Ok(());
    }
    let iptables = place.open()?;
    let [nat, raw] = read_with_guard(&iptables)?;
    let is_mapped = nat.rules_of(TOP_CHAIN).next().is_some();
    if is_mapped { Ok(()) } else { iptables.restore(&[(GUARD_TABLE, removal(&raw))]) }
}

/// Removes the guard, whatever needs it.
pub(super) fn remove(place: Place) -> Result<(), IptablesError> {
    let _lock = Lock::acquire()?;
    let iptables = place.open()?;
    let [_, raw] = read_with_guard(&iptables)?;
    iptables.restore(&[(GUARD_TABLE, removal(&raw))])
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
