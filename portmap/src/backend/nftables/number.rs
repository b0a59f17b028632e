//! The number of the table's layout, and that a newer version's table is left alone.

use cni_common::kernel::nft::{self, InstalledRule, Nft, NftError, Numbered};

use super::sets::TABLE;

/// The number of today's. It rises whenever an older version would do harm to what this one makes; that
/// one refuses the table then. Layout 1 had no number; `older` tells it by its chains.
pub(super) const LAYOUT: u32 = 2;
/// The chain whose first rule tells the number: in every table.
pub(super) const GUARD: &str = "guard";

/// Fails if the table is of a newer layout.
pub(super) fn refuse_newer(nft: &mut dyn Nft) -> Result<Numbered, NftError> {
    nft::look_for_newer(nft, &TABLE, GUARD, LAYOUT)
}

/// The same by rules that were read, those of the guard among them.
pub(super) fn refuse_newer_by(rules: &[InstalledRule]) -> Result<Numbered, NftError> {
    nft::refuse_newer(&TABLE, GUARD, rules, LAYOUT)
}
