//! That a newer version's table is left alone.

use cni_common::kernel::nft::{self, InstalledRule, Nft, NftError, Numbered};

use super::layout::{LAYOUT, NUMBERED, TABLE};

/// Fails if the table is of a newer layout.
pub(super) fn refuse_newer(nft: &mut dyn Nft) -> Result<Numbered, NftError> {
    nft::look_for_newer(nft, &TABLE, NUMBERED, LAYOUT)
}

/// The same by rules that were read, those of all chains.
pub(super) fn refuse_newer_by(rules: &[InstalledRule]) -> Result<Numbered, NftError> {
    nft::refuse_newer(&TABLE, NUMBERED, rules, LAYOUT)
}
