//! What ADD would do, told without a host.

use std::rc::Rc;

use cni_common::cni::protocol::{CniError, CniResult};
use cni_common::cni::{AttachmentRequest, Explanation, Step, Surroundings};
use cni_common::kernel::link::Link;
use cni_common::kernel::veth::VETH;

use crate::backend::tc;
use crate::config::Config;
use crate::entry;
use crate::go::Leftovers;
use crate::host::Host;
use crate::host_end::HostEnd;
use crate::plan::Plan;
use crate::recorder::{Lines, Recorder};

/// What Linux gives a veth.
const MTU: u32 = 1500;
const GSO_MAX_SIZE: u32 = 65_536;

/// What ADD does on a host that has nothing of the attachment but its veth.
///
/// # Errors
/// ADD would refuse the configuration or the previous result, or the container has no veth.
pub fn explain(
    request: &AttachmentRequest,
    around: &Surroundings,
) -> Result<Explanation, CniError> {
    let config = Config::read(&request.config)?;
    let mut result = request.required_prev_result()?;
    if config.is_unlimited() {
        return Ok(Explanation::nothing("no rate is given", result));
    }
    let name = around.host_end.as_deref().ok_or_else(|| {
        CniError::config(
            "the container has no veth in prevResult, and so no end on the host that could be shaped",
        )
    })?;
    let link = Link {
        index: 1,
        name: name.to_owned(),
        kind: Some(VETH.to_owned()),
        mtu: mtu_of(name, &result).unwrap_or(MTU),
        gso_max_size: GSO_MAX_SIZE,
        ..Link::default()
    };
    let lines = Lines::default();
    let mut host = Host::on(Recorder::new(link.clone(), Rc::clone(&lines)));
    let end = HostEnd::look(&mut host, link)?;
    let plan = Plan::new(&request.attachment, &config, end.packets());
    plan.warnings.iter().for_each(|warning| request.log.warn(warning));
    let ifbs = tc::add(&mut host, end, &plan, &Leftovers::default())?;
    result.interfaces.extend(ifbs.iter().map(entry));
    let lines = lines.borrow().clone();
    Ok(Explanation { steps: vec![Step::OnHost(lines)], result })
}

fn mtu_of(name: &str, result: &CniResult) -> Option<u32> {
    let found = result.interfaces.iter().find(|interface| interface.name == name)?;
    found.mtu.and_then(|mtu| u32::try_from(mtu).ok())
}
