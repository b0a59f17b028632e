//! The zone of firewalld that containers' addresses are sources of. The Go plugin makes the same
//! sources, and neither kind has an owner.

use std::net::IpAddr;

use cni_common::cni::Failure as _;
use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::nft::{Family, Table};

use crate::config::{BackendName, Config};
use crate::host::{Host, Left, not_taken_out};

/// The zone that the configuration means.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    /// Its name.
    name: String,
    configured: Option<BackendName>,
}

/// Whether firewalld has rules in the kernel. `nft flush ruleset` takes them behind its back.
fn has_rules(host: &mut Host<'_>) -> Result<bool, CniError> {
    const FIREWALLD: Table = Table::new(Family::Inet, "firewalld");
    let Some(nft) = host.nft_if_any() else { return Ok(true) };
    let there = nft.tables(&[FIREWALLD]);
    let there = there.map_err(|error| error.into_cni("cannot look for firewalld's table"))?;
    Ok(there.contains(&true))
}

impl Zone {
    /// The zone that the configuration means.
    pub(crate) fn of(config: &Config) -> Self {
        Self { name: config.zone.clone(), configured: config.backend }
    }

    /// Whether the zone can have sources of containers.
    pub(crate) fn is_in_use(&self, host: &mut Host<'_>) -> Result<bool, CniError> {
        match self.configured {
            Some(name) => Ok(name == BackendName::Firewalld),
            None => host.bus.has_firewalld(),
        }
    }

    /// The same for removal: firewalld takes its sources with it when it goes.
    pub(crate) fn may_have_sources(&self, host: &mut Host<'_>) -> Result<bool, CniError> {
        Ok(self.is_in_use(host)? && host.bus.has_firewalld()?)
    }

    /// Those of the addresses that it lacks, in words.
    pub(crate) fn missing(
        &self,
        host: &mut Host<'_>,
        addresses: &[IpAddr],
    ) -> Result<Vec<String>, CniError> {
        let missing = addresses.iter().map(|address| host.bus.mismatch(&self.name, *address));
        Ok(missing.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Puts addresses in.
    pub(crate) fn admit(&self, host: &mut Host<'_>, addresses: &[IpAddr]) -> Result<(), CniError> {
        addresses.iter().try_for_each(|address| host.bus.add_source(&self.name, *address))
    }

    /// Takes addresses out.
    pub(crate) fn release(
        &self,
        host: &mut Host<'_>,
        addresses: &[IpAddr],
    ) -> Result<(), CniError> {
        on_all(addresses, |address| {
            let Left::Listed(words) = host.bus.remove_source(&self.name, *address)? else {
                return Ok(());
            };
            if has_rules(host)? {
                return Err(not_taken_out(ErrorCode::TryAgainLater, address, &self.name, &words));
            }
            host.log.warn(format!(
                "firewalld keeps {address} on the list of zone {} until its next reload: its rules were \
                 flushed, so that it cannot take any out, and they let nobody through",
                self.name
            ));
            Ok(())
        })
    }
}
