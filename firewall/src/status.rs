//! STATUS: could ADD be served?

use cni_common::cni::Attachment;
use cni_common::cni::StatusRequest;
use cni_common::cni::log::say;
use cni_common::cni::protocol::{CniError, ErrorCode};

use crate::config::{Config, Policy};
use crate::holders::Holders;
use crate::host::Host;
use crate::plan::{Isolation, Plan};
use crate::{backend, bridge};

pub(crate) fn status(request: &StatusRequest) -> Result<(), CniError> {
    let config = Config::read(&request.config)?;
    look(request, &config).map_err(|error| match error.code {
        // To a runtime that asks for the state it is one, whatever the kernel refused.
        ErrorCode::Kernel => CniError { code: ErrorCode::NotAvailable, ..error },
        _ => error,
    })
}

fn look(request: &StatusRequest, config: &Config) -> Result<(), CniError> {
    let mut host = Host::open(&request.log)?;
    let choice = backend::choose(config, &mut host)?;
    say(format_args!("{choice}"));
    request.log.debug(|| choice.to_string());
    let sample = sample_plan(config).through(&choice.native_drops);
    Holders::of(config).backend(choice.name).status(&mut host, &sample)?;
    if config.policy == Some(Policy::Isolated) {
        bridge::say_how_the_bridge_isolates(&request.log);
    }
    Ok(())
}

/// An attachment that needs everything, from the documentation's address ranges, for the kernel
/// to try.
pub(crate) fn sample_plan(config: &Config) -> Plan {
    let attachment = Attachment {
        network: "status".to_owned(),
        container_id: "probe".to_owned(),
        ifname: "eth0".to_owned(),
    };
    let addresses = |list: [&str; 2]| list.iter().filter_map(|text| text.parse().ok()).collect();
    Plan {
        tag: attachment.tag(),
        addresses: addresses(["192.0.2.2", "2001:db8::2"]),
        isolation: Some(Isolation {
            bridge: "bridge0".to_owned(),
            policy: Policy::Isolated,
            gateways: addresses(["192.0.2.1", "2001:db8::1"]),
        }),
        admin_chain: config.admin_chain.clone(),
        forward_chains: config.forward_chains.clone(),
    }
}
