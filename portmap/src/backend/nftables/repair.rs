//! A table whose chains are not as they must be: its maps alone do nothing. Another program has changed
//! them, or an older version of this plugin made them.

use cni_common::cni::log::Log;
use cni_common::kernel::nft::compare::{
    chain_mismatches, chain_mismatches_in, installed_rules, misplaced_chains,
};
use cni_common::kernel::nft::{Nft, NftError, Transaction, has_older_layout, look};
use cni_common::kernel::retry::retry;

use super::known::Known;
use super::layout::Layout;
use super::number::refuse_newer_by;
use super::older::{is_older, take_over};
use super::sets::TABLE;

/// What is wrong with a table's chains.
#[derive(Debug, Default)]
pub(super) struct Damage {
    pub(super) mismatches: Vec<String>,
    /// Whether nothing is but that an older version made them.
    pub(super) is_older: bool,
}

impl Damage {
    pub(super) fn is_none(&self) -> bool {
        self.mismatches.is_empty()
    }

    /// As CHECK tells it.
    pub(super) fn into_mismatches(self) -> Vec<String> {
        let of_older = self.is_older.then(|| has_older_layout(&TABLE));
        of_older.into_iter().chain(self.mismatches).collect()
    }
}

/// Puts the chains right that a layout needs, unless they are.
pub(super) fn repair_if_damaged(
    nft: &mut dyn Nft,
    layout: &Layout,
    log: &Log,
) -> Result<(), NftError> {
    let damage = look(nft, |nft| damage(nft, layout), Damage::is_none)?;
    let Some(first) = damage.mismatches.first() else { return Ok(()) };
    if damage.is_older {
        take_over(nft, &[&Layout::shared(), layout], log)?;
        return Ok(());
    }
    retry(|| {
        let repair = repair(nft, layout)?;
        nft.commit(&repair)
    })?;
    log.warn(format!("another program had changed table {TABLE}, which was restored: {first}"));
    Ok(())
}

/// How the table's chains differ from what a layout needs, and from what others need where it needs
/// more. A table of a newer version is an error.
pub(super) fn damage(nft: &mut dyn Nft, layout: &Layout) -> Result<Damage, NftError> {
    let chains = layout.chains();
    let rules = installed_rules(nft, &TABLE, &chains)?;
    refuse_newer_by(&rules)?;
    if chain_mismatches_in(nft, &TABLE, &chains, &rules)?.is_empty() {
        return Ok(Damage::default());
    }
    let known = Known::read(nft, layout.scope())?;
    let is_older = is_older(nft, layout.scope())?;
    let mismatches = chain_mismatches(nft, &TABLE, &layout.beside(known).chains())?;
    Ok(Damage { mismatches, is_older })
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
