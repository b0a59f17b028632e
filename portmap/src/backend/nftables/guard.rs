//! The chain that keeps packets from outside away from 127.0.0.0/8, without any mapping.

use cni_common::kernel::nft::compare::{chain_mismatches, misplaced_chains};
use cni_common::kernel::nft::{Nft, NftError, Object, Transaction, Verb, look};

use super::layout;
use super::sets::{self, TABLE};
use crate::backend::Look;

/// Whether it is there with its rules. A quick look may be wrong where something changed meanwhile.
pub(crate) fn stands(nft: &mut dyn Nft, how: Look) -> Result<bool, NftError> {
    let mismatches = |nft: &mut dyn Nft| chain_mismatches(nft, &TABLE, &[layout::guard()]);
    let found = match how {
        Look::Quick => mismatches(nft)?,
        Look::Exact => look(nft, mismatches, Vec::is_empty)?,
    };
    Ok(found.is_empty())
}

/// Puts it back, in a table that holds nothing else if there was none.
pub(crate) fn build(nft: &mut dyn Nft) -> Result<(), NftError> {
    let mut transaction = Transaction::new();
    transaction.push(Verb::Add, &TABLE, Object::Table(Some(layout::TABLE_COMMENT)));
    // GC knows the table by it.
    transaction.push(Verb::Add, &TABLE, Object::Set(sets::attachments()));
    let (chain, rules) = layout::guard();
    let misplaced = misplaced_chains(nft, &TABLE, &[(chain.clone(), rules.clone())])?;
    transaction.remove_chains(&TABLE, misplaced);
    transaction.chain_with_rules(&TABLE, chain, rules);
    nft.commit(&transaction)
}
