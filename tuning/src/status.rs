//! Whether ADD could be served.

use cni_common::cni::Attachment;
use cni_common::cni::protocol::{CniError, ErrorCode, NetworkConfig};

use crate::allowlist::Allowlist;
use crate::backend::Store;
use crate::config::Config;
use crate::sysctls::Sysctls;

/// Code 50 with what is missing, or what is wrong with the configuration.
pub(crate) fn can_serve(network: &NetworkConfig) -> Result<(), CniError> {
    // The interface's name is not known yet; any will do.
    let config = Config::read(network, "", "eth0")?;
    let in_the_way = sysctls_and_allowlist(&config).and_then(|()| data_dir(network, &config));
    in_the_way.map_err(|error| CniError { code: ErrorCode::NotAvailable, ..error })
}

fn sysctls_and_allowlist(config: &Config) -> Result<(), CniError> {
    Sysctls::open()?;
    // Whether a list allows a key depends on what the key means in the container.
    let allowlist = Allowlist::read(config.allowlist_strict)?;
    config.sysctls.first().map_or(Ok(()), |sysctl| allowlist.permit_without_list(&sysctl.key))
}

fn data_dir(network: &NetworkConfig, config: &Config) -> Result<(), CniError> {
    let probe = Attachment {
        network: network.name.clone(),
        container_id: "status".to_owned(),
        // No interface can have this name, so the probe is nobody's file.
        ifname: "..".to_owned(),
    };
    Store::create(&config.data_dir, &probe)?.probe()
}
