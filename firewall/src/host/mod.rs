//! What one call opens of the host, once, and what the places that it asks hand on to each other.

mod bus;
mod forwards;
mod tables;

use std::net::IpAddr;

use cni_common::cni::Failure as _;
use cni_common::cni::failure::unreachable_nft;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{IptablesError, Variant, legacy_table_loaded};
use cni_common::kernel::nft::{Family, NetlinkNft, Nft, Table, open_nft_if_any};

pub(crate) use bus::{Bus, Left, not_taken_out, source};
pub(crate) use forwards::Forward;
pub(crate) use tables::FilterTables;

use crate::filter::{FORWARD, STAGE_1, TABLE};
use crate::plan::Plan;

/// The host, during one call.
pub(crate) struct Host<'a> {
    /// The call's log.
    pub(crate) log: &'a Log,
    /// The tables of iptables.
    pub(crate) filter: FilterTables,
    /// The system bus.
    pub(crate) bus: Bus,
    /// What was removed so far.
    pub(crate) removed: Removed,
    /// What ADD found in the place where it made the attachment anew.
    pub(crate) before: Before,
    nft: Option<NetlinkNft>,
    /// Where iptables may have rules of ours or of the Go plugin, once that was asked.
    filters: Option<Vec<(IpVersion, Variant)>>,
    /// Which FORWARD chains of iptables decide, once that was asked.
    forwards: Option<Vec<Forward>>,
}

/// What removal hands on, and ADD of what it replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Addresses that our table admitted.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether the attachment had its bridge keep containers apart.
    pub(crate) isolated: bool,
    /// Whether it was in iptables.
    pub(crate) from_iptables: bool,
}

/// What an attachment had in a place before its ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing was changed there.
    Unknown,
    /// Nothing.
    Nothing,
    /// What an earlier ADD with this plan made.
    Earlier(Plan),
}

impl Before {
    pub(crate) fn of(earlier: Option<Plan>) -> Self {
        earlier.map_or(Self::Nothing, Self::Earlier)
    }
}

impl Removed {
    /// What another place removed is handed on as well.
    pub(crate) fn add(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        self.isolated |= other.isolated;
        self.from_iptables |= other.from_iptables;
    }

    /// Whether the attachment was anywhere.
    pub(crate) fn is_any(&self) -> bool {
        self.from_iptables || !self.addresses.is_empty()
    }
}

impl<'a> Host<'a> {
    /// For commands that need `nf_tables`, if only to look what the host uses.
    pub(crate) fn open(log: &'a Log) -> Result<Self, CniError> {
        let nft = NetlinkNft::open().map_err(unreachable_nft)?;
        Ok(Self::with(log, Some(nft)))
    }

    /// For commands that remove: what is not there needs no cleaning up.
    pub(crate) fn open_leniently(log: &'a Log) -> Result<Self, CniError> {
        Ok(Self::with(log, open_nft_if_any().map_err(unreachable_nft)?))
    }

    fn with(log: &'a Log, nft: Option<NetlinkNft>) -> Self {
        Self {
            log,
            filter: FilterTables::default(),
            bus: Bus::default(),
            removed: Removed::default(),
            before: Before::Unknown,
            nft,
            filters: None,
            forwards: None,
        }
    }

    /// The kernel's `nf_tables`.
    pub(crate) fn nft(&mut self) -> Result<&mut dyn Nft, CniError> {
        match &mut self.nft {
            Some(nft) => Ok(nft),
            None => Err(CniError::new(ErrorCode::Kernel, "the kernel has no nf_tables")),
        }
    }

    /// The kernel's `nf_tables`, or none where it has none.
    pub(crate) fn nft_if_any(&mut self) -> Option<&mut dyn Nft> {
        self.nft.as_mut().map(|nft| nft as &mut dyn Nft)
    }

    /// The same for a removal, which must not come before what it is to remove: the program of a killed
    /// ADD may still be at work.
    pub(crate) fn settled_filters(
        &mut self,
        doing: &str,
    ) -> Result<Vec<(IpVersion, Variant)>, CniError> {
        self.filter.settle().map_err(|error| error.into_cni(doing))?;
        self.filters().map_err(|error| error.into_cni(doing))
    }

    /// Where there can be rules of ours or of the Go plugin in iptables, found without starting a
    /// program: each IP version in each of the two kernel interfaces.
    pub(crate) fn filters(&mut self) -> Result<Vec<(IpVersion, Variant)>, IptablesError> {
        if let Some(known) = &self.filters {
            return Ok(known.clone());
        }
        let chains = [FORWARD, STAGE_1].map(str::to_owned);
        let mut filters = Vec::new();
        let tables = IpVersion::ALL.map(|version| Table::new(Family::of(version), TABLE));
        let there = match &mut self.nft {
            Some(nft) => nft.tables(&tables)?,
            None => Vec::new(),
        };
        for (index, version) in IpVersion::ALL.into_iter().enumerate() {
            if let Some(nft) = &mut self.nft
                && there[index]
                && nft.chains_at(&tables[index], &chains)?.iter().any(Option::is_some)
            {
                filters.push((version, Variant::Nft));
            }
            if legacy_table_loaded(version, TABLE)? {
                filters.push((version, Variant::Legacy));
            }
        }
        self.filters = Some(filters.clone());
        Ok(filters)
    }

    /// The FORWARD chains of iptables that decide about packets.
    pub(crate) fn forwards(&mut self) -> Result<Vec<Forward>, IptablesError> {
        if let Some(known) = &self.forwards {
            return Ok(known.clone());
        }
        let nft = self.nft.as_mut().map(|nft| nft as &mut dyn Nft);
        let found = forwards::find(nft, &mut self.filter, self.log)?;
        self.forwards = Some(found.clone());
        Ok(found)
    }
}
