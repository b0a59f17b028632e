//! Which bridge a container is on, found by what it is and not by its place in a list, and the
//! isolation of its port there.

use std::net::IpAddr;
use std::path::Path;

use cni_common::cni::failure::code_of;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, CniResult, ErrorCode};
use cni_common::cni::{AttachmentRequest, Failure as _, OwnerTag, Step};
use cni_common::kernel::address::has_ipv6;
use cni_common::kernel::iproute;
use cni_common::kernel::link::{Link, Links};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::nft::fake::FakeNft;
use cni_common::kernel::nft::{Nft, look};
use cni_common::kernel::route::Routes;
use cni_common::kernel::rtnetlink::RtnetlinkError;
use cni_common::kernel::veth::{VethError, host_end};

use crate::config::Policy;
use crate::frames;
use crate::host::Host;
use crate::plan::{self, Isolation, Plan};

/// Where a container is on a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BridgePort {
    /// The bridge's name.
    pub(crate) bridge: String,
    /// The bridge's port that leads to the container.
    pub(crate) link: Option<Link>,
}

/// What the policy asks of the bridge that the container is on; none where it asks nothing.
pub(crate) fn isolation(
    request: &AttachmentRequest,
    policy: Option<Policy>,
    result: &CniResult,
) -> Result<Option<(Isolation, BridgePort)>, CniError> {
    let Some(policy) = policy else { return Ok(None) };
    let found = find(request, result).map_err(|error| cannot_look(&error))?;
    let port = found.ok_or_else(|| no_bridge(policy))?;
    let gateways = own_gateways(result, &port.bridge)?;
    Ok(Some((Isolation { bridge: port.bridge.clone(), policy, gateways }, port)))
}

/// The error of a policy whose container is on no bridge.
pub(crate) fn no_bridge(policy: Policy) -> CniError {
    CniError::config(format!(
        "ingressPolicy \"{}\" needs a bridge, and the container is on none: put firewall behind the \
         bridge plugin, so that prevResult names the bridge or the host's end of the veth",
        policy.as_str()
    ))
}

fn cannot_look(error: &RtnetlinkError) -> CniError {
    let code = code_of(error, ErrorCode::Kernel);
    CniError::new(code, "cannot find the container's bridge: rtnetlink failed")
        .with_details(error.to_string())
}

/// The bridge above the host's end of the container's veth, or else the only thing in the result
/// that is a bridge.
fn find(
    request: &AttachmentRequest,
    result: &CniResult,
) -> Result<Option<BridgePort>, RtnetlinkError> {
    let mut links = Links::open()?;
    if let Some(link) = veth_on_host(&mut links, request)?
        && let Some(bridge) = controlling_bridge(&mut links, &link)?
    {
        return Ok(Some(BridgePort { bridge, link: Some(link) }));
    }
    let mut bridge = None;
    for interface in result.interfaces.iter().filter(|i| i.sandbox.is_none()) {
        let Some(link) = links.by_name(&interface.name)? else { continue };
        if let Some(bridge) = controlling_bridge(&mut links, &link)? {
            return Ok(Some(BridgePort { bridge, link: Some(link) }));
        }
        if link.kind.as_deref() == Some("bridge") {
            bridge.get_or_insert(link.name);
        }
    }
    Ok(bridge.map(|bridge| BridgePort { bridge, link: None }))
}

/// The host's end of the container's interface, if that is a veth pair and the container is there.
fn veth_on_host(
    links: &mut Links,
    request: &AttachmentRequest,
) -> Result<Option<Link>, RtnetlinkError> {
    let Ok(netns) = Netns::open(Path::new(&request.netns)) else { return Ok(None) };
    match host_end(links, &netns, &request.attachment.ifname) {
        Ok(link) => Ok(Some(link)),
        Err(VethError::Rtnetlink(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

fn controlling_bridge(links: &mut Links, link: &Link) -> Result<Option<String>, RtnetlinkError> {
    let Some(index) = link.controller else { return Ok(None) };
    let controller = links.by_index(index)?;
    Ok(controller.filter(|c| c.kind.as_deref() == Some("bridge")).map(|bridge| bridge.name))
}

/// The gateways that the host itself is: addresses that it routes to itself, and those of the
/// bridge that are so young that it does not yet (duplicate address detection).
fn own_gateways(result: &CniResult, bridge: &str) -> Result<Vec<IpAddr>, CniError> {
    let gateways = plan::gateways(result);
    if gateways.is_empty() {
        return Ok(gateways);
    }
    let cannot = |error: std::io::Error| {
        let code = code_of(&error, ErrorCode::Kernel);
        CniError::new(code, "cannot ask for the way to the network's gateway")
            .with_details(error.to_string())
    };
    let mut routes = Routes::open().map_err(cannot)?;
    let mut own = Vec::new();
    for gateway in gateways {
        let is_local = routes.to(gateway).map_err(cannot)?.is_some_and(|route| route.local);
        if is_local || is_of_bridge(gateway, bridge).map_err(cannot)? {
            own.push(gateway);
        }
    }
    Ok(own)
}

fn is_of_bridge(address: IpAddr, bridge: &str) -> std::io::Result<bool> {
    let IpAddr::V6(address) = address else { return Ok(false) };
    match Links::open()?.by_name(bridge) {
        Ok(Some(bridge)) => has_ipv6(bridge.index, address),
        Ok(None) => Ok(false),
        Err(error) => Err(std::io::Error::from_raw_os_error(error.errno)),
    }
}

/// ADD: makes the port's isolation what the plan asks for. What an earlier ADD of this attachment did
/// is taken back; isolation that others asked for, such as the bridge plugin, stays.
pub(crate) fn settle(
    host: &mut Host<'_>,
    request: &AttachmentRequest,
    result: &CniResult,
    plan: &Plan,
    port: Option<&BridgePort>,
) -> Result<(), CniError> {
    if plan.isolates_ports() {
        return port.map_or(Ok(()), |port| isolate(host, &plan.tag, port));
    }
    if host.removed.isolated {
        release(host, request, result)?;
    }
    Ok(())
}

/// After an ADD that failed: the port is as it was found. Best effort, as all of it is then.
pub(crate) fn put_back(
    host: &mut Host<'_>,
    tag: &OwnerTag,
    port: Option<&BridgePort>,
    had_frames_stopped: bool,
) {
    if !had_frames_stopped {
        let _ = return_frames(host, tag);
    }
    if let Some(link) = port.and_then(|port| port.link.as_ref())
        && let Ok(mut links) = Links::open()
    {
        let _ = links.isolate_port(link.index, link.isolated);
    }
}

/// Where frames within a bridge do not see the host's IP rules, the bridge itself keeps its ports
/// apart. Where they do, it must not: with `br_netfilter`, a mapped port's packet can go from port
/// to port after its translation. There the rules stop what is IP, and a table of the bridge family
/// the rest.
fn isolate(host: &mut Host<'_>, tag: &OwnerTag, port: &BridgePort) -> Result<(), CniError> {
    say_how_the_bridge_isolates(host.log);
    let Some(link) = port.link.as_ref().filter(|_| passes_ip_rules()) else {
        return_frames(host, tag)?;
        return switch_isolation(port, !passes_ip_rules());
    };
    match frames::stop(host.nft()?, tag, &link.name) {
        Ok(()) => {}
        Err(error) if error.is_unsupported() => host.log.warn(format!(
            "the kernel has no nf_tables for bridges: between ports of bridge {}, frames that are not IP \
             pass ingressPolicy \"isolated\": {error}",
            port.bridge
        )),
        Err(error) => return Err(error.into_cni("cannot isolate the container on its bridge")),
    }
    switch_isolation(port, false)
}

/// What isolates a port of this name, as this host has `br_netfilter` on or off.
pub(crate) fn explain(tag: &OwnerTag, port: &str) -> Result<Vec<Step>, CniError> {
    if !passes_ip_rules() {
        let off =
            "br_netfilter is off here; where it is on, a table of the bridge family does this";
        return Ok(vec![
            Step::OnHost(vec![iproute::isolate_port(port, true)]),
            Step::Note(off.to_owned()),
        ]);
    }
    let mut host = FakeNft::new();
    frames::stop(&mut host, tag, port)
        .map_err(|error| error.into_cni("cannot isolate the container on its bridge"))?;
    let on = "br_netfilter is on here; where it is off, the port is isolated (bridge link set)";
    let committed = host.committed().iter().cloned().map(Step::Nft);
    Ok(committed.chain([Step::Note(on.to_owned())]).collect())
}

fn return_frames(host: &mut Host<'_>, tag: &OwnerTag) -> Result<(), CniError> {
    let Some(nft) = host.nft_if_any() else { return Ok(()) };
    let outcome = frames::release(nft, tag);
    outcome.map_err(|error| error.into_cni("cannot remove the firewall rules of the bridge"))
}

/// CHECK: how the port's isolation differs from what [`settle`] makes of it.
pub(crate) fn mismatches(
    host: &mut Host<'_>,
    plan: &Plan,
    port: Option<&BridgePort>,
) -> Result<Vec<String>, CniError> {
    let Some(port) = port.filter(|_| plan.isolates_ports()) else { return Ok(Vec::new()) };
    let Some(link) = &port.link else {
        let text = format!("the container's port on bridge {} was not found", port.bridge);
        return Ok(if passes_ip_rules() { Vec::new() } else { vec![text] });
    };
    if passes_ip_rules() {
        let mismatches = |nft: &mut dyn Nft| frames::mismatches(nft, &plan.tag, &link.name);
        let found = look(host.nft()?, mismatches, Vec::is_empty);
        return match found {
            // ADD could do no more than warn.
            Err(error) if error.is_unsupported() => Ok(Vec::new()),
            found => found.map_err(|error| error.into_cni("cannot read the firewall rules")),
        };
    }
    let text = || format!("port {} of bridge {} is not isolated", link.name, port.bridge);
    Ok(if link.isolated { Vec::new() } else { vec![text()] })
}

/// A port that outlives the isolation that the attachment asked for is isolated no more. One that is
/// gone needs nothing.
pub(crate) fn release(
    host: &mut Host<'_>,
    request: &AttachmentRequest,
    result: &CniResult,
) -> Result<(), CniError> {
    let outcome = return_frames(host, &request.attachment.tag());
    let port = find(request, result).ok().flatten();
    if let Some(port) = port
        && let Err(error) = switch_isolation(&port, false)
    {
        request.log.warn(error.to_string());
    }
    outcome
}

/// Warns where isolation rests on the bridge's ports.
pub(crate) fn say_how_the_bridge_isolates(log: &Log) {
    if !passes_ip_rules() {
        log.warn(
            "br_netfilter is off: traffic within a bridge bypasses the host's IP rules, so ingressPolicy \
             \"isolated\" rests on isolated bridge ports",
        );
    }
}

/// Whether traffic within a bridge passes the host's IP rules in both families.
fn passes_ip_rules() -> bool {
    ["iptables", "ip6tables"].iter().all(|family| {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    })
}

/// Switches the isolation of the bridge's port.
fn switch_isolation(port: &BridgePort, isolated: bool) -> Result<(), CniError> {
    let Some(link) = &port.link else {
        if !isolated {
            return Ok(());
        }
        return Err(CniError::new(
            ErrorCode::Kernel,
            format!(
                "cannot isolate the container from others on bridge {}: its port there was not found; \
                 name the host's end of the veth in prevResult, or use ingressPolicy \"same-bridge\"",
                port.bridge
            ),
        ));
    };
    if link.isolated == isolated {
        return Ok(());
    }
    let outcome = Links::open()
        .map_err(RtnetlinkError::from)
        .and_then(|mut links| links.isolate_port(link.index, isolated));
    outcome.map_err(|error| {
        CniError::new(
            code_of(&error, ErrorCode::Kernel),
            format!("cannot isolate port {} of bridge {}", link.name, port.bridge),
        )
        .with_details(error.to_string())
    })
}
