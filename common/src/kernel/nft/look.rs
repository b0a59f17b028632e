//! Looking at what others change meanwhile. A commit may fall between two queries, and within a dump that
//! holds nothing yet the kernel does not tell.

use super::{Generation, Nft, NftError};
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
        let generation = nft.generation()?;
        let found = look(nft)?;
        if !is_good(&found) {
            unchanged_since(nft, generation)?;
        }
        Ok(found)
    })
}

/// An error that is worth another look, if anything was changed since.
pub fn unchanged_since(nft: &mut dyn Nft, generation: Generation) -> Result<(), NftError> {
    if nft.generation()? == generation { Ok(()) } else { Err(NftError::Interrupted) }
}
