//! What ADD would do, told without a host.

use cni_common::cni::protocol::CniError;
use cni_common::cni::{AttachmentRequest, Explanation, Step, Surroundings};
use cni_common::kernel::shell::word;

use crate::backend;
use crate::bridge;
use crate::config::{BackendName, Config, Policy};
use crate::host::source;
use crate::plan::{self, Isolation, Plan};
use crate::previous_result;

/// What ADD does on a host that has nothing of the attachment: in nftables, unless the configuration
/// names another backend.
///
/// # Errors
/// ADD would refuse the configuration or the previous result.
pub fn explain(
    request: &AttachmentRequest,
    around: &Surroundings,
) -> Result<Explanation, CniError> {
    let config = Config::read(&request.config)?;
    let result = previous_result(request)?;
    let isolation =
        config.policy.map(|policy| isolation(policy, around, || plan::gateways(&result)));
    let plan = Plan::new(&request.attachment, &config, &result, isolation.transpose()?);
    if plan.is_empty() {
        return Ok(Explanation::nothing("the container has no address to admit", result));
    }
    let mut steps = match config.backend {
        Some(BackendName::Iptables) => backend::iptables::explain(&plan)?,
        Some(BackendName::Firewalld) => {
            let mut steps = backend::nftables::explain(&plan, &request.log)?;
            steps.push(Step::OnHost(sources(&plan, &config.zone)));
            steps
        }
        Some(BackendName::Nftables) => backend::nftables::explain(&plan, &request.log)?,
        None => {
            let mut steps = backend::nftables::explain(&plan, &request.log)?;
            let text = "a host whose packets iptables or firewalld decides about has this there instead, \
                        unless \"backend\" says otherwise";
            steps.push(Step::Note(text.to_owned()));
            steps
        }
    };
    if let Some(port) = around.host_end.as_deref().filter(|_| plan.isolates_ports()) {
        steps.extend(bridge::explain(&plan.tag, port)?);
    }
    Ok(Explanation { steps, result })
}

fn isolation(
    policy: Policy,
    around: &Surroundings,
    gateways: impl FnOnce() -> Vec<std::net::IpAddr>,
) -> Result<Isolation, CniError> {
    let bridge = around.bridge.clone().ok_or_else(|| bridge::no_bridge(policy))?;
    let gateways = if around.host_is_gateway { gateways() } else { Vec::new() };
    Ok(Isolation { bridge, policy, gateways })
}

/// The addresses as sources of firewalld's zone.
fn sources(plan: &Plan, zone: &str) -> Vec<String> {
    let line = |address: &std::net::IpAddr| {
        let source = source(*address);
        format!("firewall-cmd --zone={} --add-source={source}", word(zone))
    };
    plan.addresses.iter().map(line).collect()
}
