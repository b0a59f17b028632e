//! Opening the kernel's `nf_tables` for a plugin.

use super::{NetlinkNft, Nft as _, NftError};

/// The kernel's `nf_tables`, or `None` where it has none: what is not there needs no cleaning up.
///
/// # Errors
/// The netlink socket cannot be opened, or the kernel does not answer for another reason.
pub fn open_nft_if_any() -> Result<Option<NetlinkNft>, NftError> {
    let open = || {
        let mut nft = NetlinkNft::open()?;
        nft.generation()?;
        Ok(nft)
    };
    match open() {
        Ok(nft) => Ok(Some(nft)),
        Err(error) if NftError::is_unsupported(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
