//! A table whose chains another program has changed: its maps alone do nothing.

use cni_common::cni::log::Log;
use cni_common::kernel::nft::compare::{chain_mismatches, misplaced_chains};
use cni_common::kernel::nft::{Nft, NftError, Transaction, look};
use cni_common::kernel::retry::retry;

use super::layout::Layout;
use super::sets::TABLE;

/// Puts the chains right that a layout needs, unless they are.
pub(super) fn repair_if_damaged(
    nft: &mut dyn Nft,
    layout: &Layout,
    log: &Log,
) -> Result<(), NftError> {
    let mismatches = |nft: &mut dyn Nft| chain_mismatches(nft, &TABLE, &layout.chains());
    let mismatches = look(nft, mismatches, Vec::is_empty)?;
    let Some(first) = mismatches.first() else { return Ok(()) };
    retry(|| {
        let repair = repair(nft, layout)?;
        nft.commit(&repair)
    })?;
    log.warn(format!("another program had changed table {TABLE}, which was restored: {first}"));
    Ok(())
}

/// What puts a layout's chains right, whatever they are now.
pub(super) fn repair(nft: &mut dyn Nft, layout: &Layout) -> Result<Transaction, NftError> {
    let generation = Some(nft.generation()?);
    let mut transaction = Transaction { generation, ..Transaction::new() };
    transaction.remove_chains(&TABLE, misplaced_chains(nft, &TABLE, &layout.chains())?);
    layout.build(&mut transaction);
    Ok(transaction)
}
