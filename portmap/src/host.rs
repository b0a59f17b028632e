//! What one call opens once, and what it finds out on its way.

use std::io;

use cni_common::cni::Failure as _;
use cni_common::cni::failure::unreachable_nft;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::conntrack::Conntrack;
use cni_common::kernel::iptables::Lock;
use cni_common::kernel::nft::{Family, NetlinkNft, Nft, NftError, Table};

use crate::plan::{Held, Mapping};

/// Our table. Everything portmap makes on nftables is in it.
pub(crate) const TABLE: Table = Table::new(Family::Inet, "cni_portmap");

/// The host as one call sees it.
pub(crate) struct Host<'a> {
    pub(crate) log: &'a Log,
    /// The mappings that ADD put in force.
    pub(crate) added: Vec<Mapping>,
    /// Whether ADD put them in the place of what the attachment had before.
    pub(crate) replaced: bool,
    /// The mappings that were removed, wherever they were.
    pub(crate) removed: Vec<Mapping>,
    /// What CHECK looked for and other containers have, each with the holder's tag.
    pub(crate) held: Vec<Held>,
    /// Whether the guard of 127.0.0.0/8 stands, if that was seen already.
    pub(crate) guarded: Option<bool>,
    /// Whether it stands in `nf_tables`, if DEL has looked.
    pub(crate) nft_guarded: Option<bool>,
    nft: Option<NetlinkNft>,
    is_settled: bool,
    /// Whether our table is there, once `nf_tables` has answered.
    has_table: Option<bool>,
}

impl<'a> Host<'a> {
    /// Opens nothing yet.
    pub(crate) fn new(log: &'a Log) -> Self {
        Self {
            log,
            added: Vec::new(),
            replaced: false,
            removed: Vec::new(),
            held: Vec::new(),
            guarded: None,
            nft_guarded: None,
            nft: None,
            is_settled: false,
            has_table: None,
        }
    }

    /// Lets our other processes finish with iptables, and what dead ones started: a removal must not come
    /// before what it is to remove.
    pub(crate) fn settle(&mut self) -> Result<(), CniError> {
        if !self.is_settled {
            Lock::settle().map_err(|error| error.into_cni("cannot wait for iptables"))?;
            self.is_settled = true;
        }
        Ok(())
    }

    /// A socket to `nf_tables`; whether the kernel has it, the first answer tells.
    pub(crate) fn nft(&mut self) -> Result<&mut dyn Nft, CniError> {
        self.open().map(|nft| nft as &mut dyn Nft).map_err(unreachable_nft)
    }

    /// `nf_tables`, if the kernel has it: what is not there needs no cleaning up.
    pub(crate) fn nft_if_any(&mut self) -> Result<Option<&mut dyn Nft>, CniError> {
        match self.ask_nft() {
            Ok(()) => self.nft().map(Some),
            Err(error) if error.is_unsupported() => Ok(None),
            Err(error) => Err(unreachable_nft(error)),
        }
    }

    /// Whether `nf_tables` works at all, asked for our table.
    pub(crate) fn ask_nft(&mut self) -> Result<(), NftError> {
        self.has_table().map(drop)
    }

    /// Whether `nf_tables` has our table, as it was when it was asked first.
    pub(crate) fn has_table(&mut self) -> Result<bool, NftError> {
        if let Some(known) = self.has_table {
            return Ok(known);
        }
        let found = self.open()?.tables(&[TABLE])?;
        Ok(*self.has_table.insert(found.contains(&true)))
    }

    /// Connection tracking, over the socket of `nf_tables`.
    pub(crate) fn conntrack(&mut self) -> io::Result<Conntrack<'_>> {
        match self.open() {
            Ok(nft) => Ok(Conntrack::over(nft.connection())),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn open(&mut self) -> Result<&mut NetlinkNft, NftError> {
        let opened = match self.nft.take() {
            Some(nft) => nft,
            None => NetlinkNft::open()?,
        };
        Ok(self.nft.insert(opened))
    }
}
