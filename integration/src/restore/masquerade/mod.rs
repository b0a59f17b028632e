//! The masquerade rules of `ipMasq`, by which containers reach the outside.
//!
//! The Go plugins bridge and ptp make them in ADD, and theirs cannot run again: the interface is
//! there. So what a flush took is made here, rule by rule as they make it, and their DEL finds
//! what it deletes. Since 1.6 they know two places, `iptables` and `nftables`.

mod iptables;
mod nftables;
mod sources;

use std::cell::OnceCell;
use std::path::PathBuf;

use cni_common::kernel::iptables::{IptablesError, Variant};
use cni_common::kernel::nft::{NftError, open_nft_if_any};
use cni_common::kernel::{IpVersion, iptables::Iptables};
use ipnet::IpNet;

use crate::runner::exec;
use crate::runner::plugins::DEADLINE;

use iptables::Tables;
pub(super) use sources::{Place, Sources, asks_for_masquerading};

/// Why masquerade rules cannot be looked at, made or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum MasqueradeError {
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error("the kernel has no nf_tables")]
    NoNft,
}

/// Looks for masquerade rules and makes them. Tables of iptables are read once for all attachments.
#[derive(Debug)]
pub(super) struct Masquerader<'a> {
    plugin_dirs: &'a [PathBuf],
    tables: OnceCell<Tables>,
}

impl<'a> Masquerader<'a> {
    pub(super) fn new(plugin_dirs: &'a [PathBuf]) -> Self {
        Self { plugin_dirs, tables: OnceCell::new() }
    }

    /// The addresses whose rules are nowhere.
    pub(super) fn missing(&self, sources: &Sources) -> Result<Vec<IpNet>, MasqueradeError> {
        let mut missing = sources.addresses.clone();
        if let Some(mut nft) = open_nft_if_any()? {
            let there = nftables::there(&mut nft, sources)?;
            missing.retain(|address| !there.contains(address));
        }
        if missing.is_empty() {
            return Ok(missing);
        }
        let tables = if let Some(tables) = self.tables.get() {
            tables
        } else {
            let read = Tables::read()?;
            self.tables.get_or_init(|| read)
        };
        missing.retain(|address| !tables.have(sources, *address));
        Ok(missing)
    }

    /// Makes the rules of these addresses in the place where the plugin would make them today.
    pub(super) fn make(&self, sources: &Sources, missing: &[IpNet]) -> Result<(), MasqueradeError> {
        match self.place(sources) {
            Place::Nftables => {
                let mut nft = open_nft_if_any()?.ok_or(MasqueradeError::NoNft)?;
                // All of them: the plugin itself makes an attachment's rules together.
                nftables::make(&mut nft, sources)?;
            }
            Place::Iptables => {
                for version in IpVersion::ALL {
                    iptables::make(version, sources, missing)?;
                }
            }
        }
        Ok(())
    }

    /// Takes out what was made, as the plugin's DEL does.
    pub(super) fn remove(&self, sources: &Sources) -> Result<(), MasqueradeError> {
        match self.place(sources) {
            Place::Nftables => {
                let mut nft = open_nft_if_any()?.ok_or(MasqueradeError::NoNft)?;
                nftables::remove(&mut nft, sources)?;
            }
            Place::Iptables => {
                for version in IpVersion::ALL {
                    iptables::remove(version, sources)?;
                }
            }
        }
        Ok(())
    }

    fn place(&self, sources: &Sources) -> Place {
        let knows_nftables = || {
            // Debian's say no version of their own.
            const SINCE_PROTOCOL: &str = "1.1.0";
            let path = exec::find(&sources.plugin_type, self.plugin_dirs).ok();
            let banner = path.and_then(|path| exec::banner(&path, DEADLINE).ok());
            banner.is_none_or(|banner| banner.contains(SINCE_PROTOCOL))
        };
        let has_iptables = || Iptables::find(IpVersion::V4, Variant::Default).is_ok();
        sources.place(knows_nftables, has_iptables)
    }
}
