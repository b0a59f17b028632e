//! The chains that keep packets from outside away from 127.0.0.0/8, without any mapping.

use cni_common::kernel::nft::compare::{chain_mismatches, misplaced_chains};
use cni_common::kernel::nft::{Nft, NftError, Transaction, look};

use super::layout;
use super::sets::TABLE;
use crate::backend::Look;

/// Whether they are there with their rules. A quick look may be wrong where something changed meanwhile.
pub(crate) fn stands(nft: &mut dyn Nft, how: Look) -> Result<bool, NftError> {
    let mismatches = |nft: &mut dyn Nft| chain_mismatches(nft, &TABLE, &layout::guard());
    let found = match how {
        Look::Quick => mismatches(nft)?,
        Look::Exact => look(nft, mismatches, Vec::is_empty)?,
    };
    Ok(found.is_empty())
}

/// Puts them back, in a table that holds nothing else if there was none.
pub(crate) fn build(nft: &mut dyn Nft) -> Result<(), NftError> {
    let mut transaction = Transaction::new();
    let misplaced = misplaced_chains(nft, &TABLE, &layout::guard())?;
    transaction.remove_chains(&TABLE, misplaced);
    layout::build_guarded(&mut transaction);
    nft.commit(&transaction)
}
