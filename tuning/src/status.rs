//! Whether ADD could be served.

use std::io;

use cni_common::cni::failure::{code_of, not_available};
use cni_common::cni::protocol::{CniError, ErrorCode, NetworkConfig};
use cni_common::cni::{Attachment, StatusRequest};
use cni_common::kernel::sysctl::Sysctl;

use crate::allowlist::Allowlist;
use crate::backend::Store;
use crate::config::Config;
use crate::plan::Plan;
use crate::sysctls::Sysctls;

/// Code 50 with what is missing, or what is wrong with the configuration. A node whose STATUS fails
/// gets no more containers, so what only an ADD with more than this configuration would miss (a MAC
/// from the runtime, `args.cni`) is a warning.
pub(crate) fn can_serve(request: &StatusRequest) -> Result<(), CniError> {
    // The interface's name is not known yet; any will do.
    let config = Config::read(&request.config, "", "eth0")?;
    let plan = Plan::new(&config);
    let judge = |needed: bool, outcome: Result<(), CniError>| match outcome {
        Err(error) if needed => Err(not_available(error)),
        Err(error) => {
            request.log.warn(error.to_string());
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    judge(!plan.is_empty(), Sysctls::open().map(drop))?;
    judge(!plan.sysctls.is_empty(), writable_sysctls())?;
    judge(!plan.sysctls.is_empty(), allowlist(&config))?;
    judge(!plan.is_empty(), data_dir(&request.config, &config))
}

/// A read-only `/proc/sys` is one in every network namespace.
fn writable_sysctls() -> Result<(), CniError> {
    let sysctl = Sysctl::ipv4_conf("lo", "forwarding");
    match sysctl.open() {
        // A host without IPv4 tells nothing here.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let what = "tuning cannot write /proc/sys: run it where /proc/sys is writable";
            Err(CniError::new(code_of(&error, ErrorCode::Kernel), what)
                .with_details(error.to_string()))
        }
        _ => Ok(()),
    }
}

fn allowlist(config: &Config) -> Result<(), CniError> {
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
