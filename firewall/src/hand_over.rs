//! Giving a running attachment to the Go plugin.
//!
//! Its ADD comes first, and then it is accepted by both. Sources in firewalld's zone are the same of either,
//! and stay.

use cni_common::cni::hand_over::{HandOver, Hands, require_go};
use cni_common::cni::protocol::CniError;
use cni_common::cni::{AttachmentRequest, Finding, Holder as _};

use crate::backend::iptables::Iptables;
use crate::backend::nftables::Nftables;
use crate::config::{Config, Policy};
use crate::go::GoPlugin;
use crate::host::Host;
use crate::plan::Plan;
use crate::{Firewall, admitted, bridge, plan, previous_result};

impl HandOver for Firewall {
    const GO_ADDS: bool = true;

    fn hands(&self, request: &AttachmentRequest) -> Result<Hands, CniError> {
        let config = Config::read(&request.config)?;
        let (plan, _) = plan(request, &config, &previous_result(request)?)?;
        if plan.is_empty() {
            return Ok(Hands::default());
        }
        let mut host = Host::open(&request.log)?;
        Ok(Hands {
            ours: is_ours(&mut host, &plan)?,
            go: GoPlugin::of(&config).check(&mut host, &plan)? == Finding::Sound,
        })
    }

    fn let_go(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let result = previous_result(request)?;
        let (plan, _) = plan(request, &config, &result)?;
        let mut host = Host::open(&request.log)?;
        let was_remembered = admitted::is_remembered(&plan.tag)?;
        // Sources that this tells to be ours would not count as the Go plugin's.
        admitted::forget(&plan.tag)?;
        let found = GoPlugin::of(&config).check(&mut host, &plan);
        if let Err(error) = found.and_then(require_go) {
            if was_remembered {
                admitted::remember(&plan.tag)?;
            }
            return Err(error);
        }
        let in_nftables = Nftables.remove(&mut host, &request.attachment, Some(&plan));
        let in_iptables = Iptables.remove(&mut host, &request.attachment, Some(&plan));
        if host.removed.isolated || config.policy == Some(Policy::Isolated) {
            return in_nftables.and(in_iptables).and(bridge::release(&mut host, request, &result));
        }
        in_nftables.and(in_iptables)
    }
}

fn is_ours(host: &mut Host<'_>, plan: &Plan) -> Result<bool, CniError> {
    let in_nftables = host.nft_if_any().is_some() && Nftables.check(host, plan)? != Finding::Absent;
    Ok(in_nftables || Iptables.check(host, plan)? != Finding::Absent)
}
