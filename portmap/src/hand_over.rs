//! Giving a running attachment to the Go plugin.
//!
//! Its ADD comes first. Both then lead the same ports to the same container, so either may serve, and ours
//! can go. No flow is forgotten: those that there are go on as they are.

use cni_common::cni::hand_over::{HandOver, Hands, require_go};
use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{AttachmentRequest, Finding, GcRequest, Holder as _, Plugin as _};

use crate::backend::Place as _;
use crate::backend::iptables::{self, Iptables};
use crate::backend::nftables::{self, Nftables};
use crate::config::Config;
use crate::go::Go;
use crate::host::Host;
use crate::plan::Plan;
use crate::{Portmap, plan_of};

impl HandOver for Portmap {
    const GO_ADDS: bool = true;

    fn hands(&self, request: &AttachmentRequest) -> Result<Hands, CniError> {
        let plan = plan(request)?;
        if plan.is_empty() {
            return Ok(Hands::default());
        }
        let mut host = Host::new(&request.log);
        let in_nftables = Nftables.may_hold(&mut host, &plan)?;
        Ok(Hands {
            ours: in_nftables || is_in_iptables(&mut host, &plan)?,
            go: Go.check(&mut host, &plan)? == Finding::Sound,
        })
    }

    /// In iptables its chains have the names of ours for `eth0`.
    fn make_room(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        iptables::make_room(&mut Host::new(&request.log), &plan(request)?)
    }

    fn let_go(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let plan = plan(request)?;
        let mut host = Host::new(&request.log);
        require_go(Go.check(&mut host, &plan)?)?;
        let in_nftables = Nftables.remove_entry(&mut host, &plan);
        in_nftables.and(Iptables::EVERYWHERE.remove_beside_go(&mut host, &plan))
    }

    /// Also the guard: the Go plugin has `route_localnet` without one.
    fn leave(&self, request: &GcRequest) -> Result<(), CniError> {
        let outcome = self.gc(request);
        let mut host = Host::new(&request.log);
        let in_nftables = match host.nft_if_any()? {
            Some(nft) => nftables::leave(nft, &request.stale(), &request.log),
            None => Ok(()),
        };
        on_all([outcome, in_nftables, iptables::leave(&mut host)], |outcome| outcome)
    }
}

/// Whether it is ours in iptables, and not only the Go plugin's, whose chains have the same names.
fn is_in_iptables(host: &mut Host<'_>, plan: &Plan) -> Result<bool, CniError> {
    let place = Iptables::EVERYWHERE;
    Ok(place.may_hold(host, plan)? && place.check(host, plan)? != Finding::Absent)
}

fn plan(request: &AttachmentRequest) -> Result<Plan, CniError> {
    let result = request.required_prev_result()?;
    Ok(plan_of(&request.attachment, &Config::read(&request.config)?, &result))
}
