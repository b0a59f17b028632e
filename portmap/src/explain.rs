//! What ADD would do, told without a host.

use cni_common::cni::protocol::CniError;
use cni_common::cni::{AttachmentRequest, Explanation, Step, Surroundings};
use cni_common::kernel::sysctl::Sysctl;

use crate::backend;
use crate::config::{BackendName, Config};
use crate::localnet::PARAMETER;
use crate::plan_of;

/// What ADD does on a host that has nothing of the attachment: on nftables, unless the configuration
/// names or needs iptables.
///
/// # Errors
/// ADD would refuse the configuration or the previous result.
pub fn explain(
    request: &AttachmentRequest,
    around: &Surroundings,
) -> Result<Explanation, CniError> {
    let config = Config::read(&request.config)?;
    let result = request.required_prev_result()?;
    let mut plan = plan_of(&request.attachment, &config, &result);
    plan.warnings(&config).into_iter().for_each(|warning| request.log.warn(warning));
    if plan.is_empty() {
        let why = "no port mapping is asked for that the container's addresses can serve";
        return Ok(Explanation::nothing(why, result));
    }
    plan.loopback &= around.towards_container().is_some();
    let mut steps = match config.backend {
        Some(BackendName::Iptables) => backend::iptables::explain(&plan),
        Some(BackendName::Nftables) | None => backend::nftables::explain(&plan, &request.log)?,
    };
    if let Some(interface) = around.towards_container().filter(|_| plan.loopback) {
        steps.push(Step::OnHost(vec![Sysctl::ipv4_conf(interface, PARAMETER).line("1")]));
    }
    Ok(Explanation { steps, result })
}
