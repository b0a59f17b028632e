//! Looking at what others change meanwhile. A commit may fall between two queries, and within a dump that
//! holds nothing yet the kernel does not tell.

use super::{Family, Generation, Nft, NftError, Object, Table, Transaction, Verb};
use crate::kernel::retry::retry;

/// What `look` finds. If that is not what was hoped for, it counts only if nothing changed while it was
/// looked at.
pub fn look<T>(
    nft: &mut dyn Nft,
    mut look: impl FnMut(&mut dyn Nft) -> Result<T, NftError>,
    is_good: impl Fn(&T) -> bool,
) -> Result<T, NftError> {
    let found = look(nft)?;
    if is_good(&found) {
        return Ok(found);
    }
    retry(|| {
        // In this order: a commit that began before is over then, and one that begins later is counted.
        let generation = nft.generation()?;
        wait_for_commits(nft);
        let found = look(nft)?;
        if !is_good(&found) {
            unchanged_since(nft, generation)?;
        }
        Ok(found)
    })
}

/// Lets a commit that is under way end. The kernel counts the generation first, and puts its objects in
/// their places then: a dump of a chain that comes between finds it without rules while its table
/// is replaced. A transaction that is tried waits for the kernel's commit mutex, whatever becomes of it.
fn wait_for_commits(nft: &mut dyn Nft) {
    const NOBODYS: Table = Table::new(Family::Inet, "cni_chain_probe");
    let mut transaction = Transaction::new();
    transaction.push(Verb::Add, &NOBODYS, Object::Table(None));
    // Without the privilege for it, the look itself tells.
    let _ = nft.validate(&transaction);
}

/// An error that is worth another look, if anything was changed since.
pub fn unchanged_since(nft: &mut dyn Nft, generation: Generation) -> Result<(), NftError> {
    if nft.generation()? == generation { Ok(()) } else { Err(NftError::Interrupted) }
}
