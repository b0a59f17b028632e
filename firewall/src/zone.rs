//! The zone of firewalld that containers' addresses are sources of. The Go plugin makes the same
//! sources, and neither kind has an owner.

use std::net::IpAddr;

use cni_common::cni::protocol::CniError;

use crate::config::{BackendName, Config};
use crate::host::{BusError, Host};

/// The zone that the configuration means.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    /// Its name.
    pub(crate) name: String,
    configured: Option<BackendName>,
}

impl Zone {
    /// The zone that the configuration means.
    pub(crate) fn of(config: &Config) -> Self {
        Self { name: config.zone.clone(), configured: config.backend }
    }

    /// Whether the zone can have sources of containers.
    pub(crate) fn is_in_use(&self, host: &mut Host<'_>) -> bool {
        match self.configured {
            Some(name) => name == BackendName::Firewalld,
            None => host.bus.has_firewalld(),
        }
    }

    /// Those of the addresses that it lacks, in words.
    pub(crate) fn missing(
        &self,
        host: &mut Host<'_>,
        addresses: &[IpAddr],
    ) -> Result<Vec<String>, CniError> {
        let firewalld = host.bus.required_firewalld()?;
        let missing = addresses.iter().map(|address| firewalld.mismatch(&self.name, *address));
        Ok(missing.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Takes addresses out. A bus that is gone took the sources with it, so an error is a warning.
    pub(crate) fn release(&self, host: &mut Host<'_>, addresses: &[IpAddr]) {
        if addresses.is_empty() {
            return;
        }
        if let Err(error) = self.remove_all(host, addresses) {
            host.log.warn(format!(
                "could not take addresses out of firewalld's zone {}: {error}; it keeps none of them over its \
                 next start",
                self.name
            ));
        }
    }

    fn remove_all(&self, host: &mut Host<'_>, addresses: &[IpAddr]) -> Result<(), BusError> {
        let firewalld = host.bus.firewalld()?;
        addresses.iter().try_for_each(|address| firewalld.remove(&self.name, *address))
    }
}
