//! A table whose chains another program has changed: its maps alone do nothing.

use cni_common::cni::log::Log;
use cni_common::kernel::nft::compare::{chain_mismatches, misplaced_chains};
use cni_common::kernel::nft::{Nft, NftError, Transaction, look};
use cni_common::kernel::retry::retry;

use super::known::Known;
use super::layout::Layout;
use super::sets::TABLE;

/// Puts the chains right that a layout needs, unless they are.
pub(super) fn repair_if_damaged(
    nft: &mut dyn Nft,
    layout: &Layout,
    log: &Log,
) -> Result<(), NftError> {
    let mismatches = look(nft, |nft| mismatches(nft, layout), Vec::is_empty)?;
    let Some(first) = mismatches.first() else { return Ok(()) };
    retry(|| {
        let repair = repair(nft, layout)?;
        nft.commit(&repair)
    })?;
    log.warn(format!("another program had changed table {TABLE}, which was restored: {first}"));
    Ok(())
}

/// How the table's chains differ from what a layout needs, and from what others need where it needs
/// more.
pub(super) fn mismatches(nft: &mut dyn Nft, layout: &Layout) -> Result<Vec<String>, NftError> {
    let own = chain_mismatches(nft, &TABLE, &layout.chains())?;
    if own.is_empty() {
        return Ok(own);
    }
    let known = Known::read(nft, layout.scope())?;
    chain_mismatches(nft, &TABLE, &layout.beside(known).chains())
}

/// What puts a layout's chains right, whatever they are now.
pub(super) fn repair(nft: &mut dyn Nft, layout: &Layout) -> Result<Transaction, NftError> {
    let generation = Some(nft.generation()?);
    let mut transaction = Transaction { generation, ..Transaction::new() };
    let layout = layout.beside(Known::read(nft, layout.scope())?);
    transaction.remove_chains(&TABLE, misplaced_chains(nft, &TABLE, &layout.chains())?);
    layout.build(&mut transaction);
    Ok(transaction)
}
