//! The chains that keep packets from outside away from 127.0.0.0/8, without any mapping.

use cni_common::kernel::nft::compare::{chain_mismatches_in, installed_rules, misplaced_chains};
use cni_common::kernel::nft::{Nft, NftError, Transaction, look};

use super::layout;
use super::number::refuse_newer_by;
use super::sets::TABLE;
use crate::backend::Look;

/// What a look finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    Stands,
    /// There are other rules.
    Differs,
    /// There is nothing, nor is there a table of any layout.
    Absent,
}

/// Whether they are there with their rules. A quick look may be wrong where something changed meanwhile. A
/// table of a newer version is an error.
pub(crate) fn stands(nft: &mut dyn Nft, how: Look) -> Result<bool, NftError> {
    match how {
        Look::Quick => find(nft).map(|found| found == Guard::Stands),
        Look::Exact => {
            let stands = |found: &Guard| *found == Guard::Stands;
            look(nft, find, stands).map(|found| stands(&found))
        }
    }
}

/// A quick look.
pub(crate) fn find(nft: &mut dyn Nft) -> Result<Guard, NftError> {
    let chains = layout::guard();
    let rules = installed_rules(nft, &TABLE, &chains)?;
    refuse_newer_by(&rules)?;
    if rules.is_empty() {
        return Ok(Guard::Absent);
    }
    let is_whole = chain_mismatches_in(nft, &TABLE, &chains, &rules)?.is_empty();
    Ok(if is_whole { Guard::Stands } else { Guard::Differs })
}

/// Puts them back, in a table that holds nothing else if there was none.
pub(crate) fn build(nft: &mut dyn Nft) -> Result<(), NftError> {
    let mut transaction = Transaction::new();
    let misplaced = misplaced_chains(nft, &TABLE, &layout::guard())?;
    transaction.remove_chains(&TABLE, misplaced);
    layout::build_guarded(&mut transaction);
    nft.commit(&transaction)
}
