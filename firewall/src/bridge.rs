//! Which bridge a container is on, found by what it is and not by its place in a list.

use std::net::IpAddr;
use std::path::Path;

use cni_common::cni::protocol::{AttachmentRequest, CniError, CniResult, ErrorCode};
use cni_common::kernel::link::{Link, Links};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::route::Routes;
use cni_common::kernel::rtnetlink::RtnetlinkError;

use crate::config::IngressPolicy;
use crate::plan::{self, Isolation, Policy};

/// A container's place on a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bridge's name.
    pub bridge: String,
    /// The bridge's port that leads to the container.
    pub port: Option<Link>,
}

/// What the policy asks of the bridge that the container is on; none where it asks nothing.
pub fn isolation(
    request: &AttachmentRequest,
    ingress: IngressPolicy,
    result: &CniResult,
) -> Result<Option<(Isolation, Place)>, CniError> {
    let Some(policy) = Policy::from_ingress(ingress) else { return Ok(None) };
    let place = find(request, result).map_err(|error| cannot_look(&error))?.ok_or_else(|| {
        CniError::config(format!(
            "ingressPolicy \"{}\" needs a bridge, and the container is on none: put firewall behind the \
             bridge plugin, so that prevResult names the bridge or the host's end of the veth",
            policy.as_str()
        ))
    })?;
    let gateways = own_gateways(result)?;
    Ok(Some((Isolation { bridge: place.bridge.clone(), policy, gateways }, place)))
}

fn cannot_look(error: &RtnetlinkError) -> CniError {
    CniError::new(ErrorCode::Kernel, "cannot find the container's bridge: rtnetlink failed")
        .with_details(error.to_string())
}

/// The bridge above the host's end of the container's veth, or else the only thing in the result
/// that is a bridge.
pub fn find(
    request: &AttachmentRequest,
    result: &CniResult,
) -> Result<Option<Place>, RtnetlinkError> {
    let mut links = Links::open()?;
    if let Some(place) = above_veth(&mut links, request)? {
        return Ok(Some(place));
    }
    let mut bridge = None;
    for interface in result.interfaces.iter().filter(|i| i.sandbox.is_none()) {
        let Some(link) = links.by_name(&interface.name)? else { continue };
        if let Some(bridge) = controlling_bridge(&mut links, &link)? {
            return Ok(Some(Place { bridge, port: Some(link) }));
        }
        if link.kind.as_deref() == Some("bridge") {
            bridge.get_or_insert(link.name);
        }
    }
    Ok(bridge.map(|bridge| Place { bridge, port: None }))
}

/// Follows the container's interface to its peer on the host.
fn above_veth(
    links: &mut Links,
    request: &AttachmentRequest,
) -> Result<Option<Place>, RtnetlinkError> {
    let Ok(netns) = Netns::open(Path::new(&request.netns)) else { return Ok(None) };
    let ifname = &request.attachment.ifname;
    let inside = netns.run(|| Links::open().ok()?.by_name(ifname).ok()?);
    let Some(inside) = inside.ok().flatten().filter(|link| link.kind.as_deref() == Some("veth"))
    else {
        return Ok(None);
    };
    let Some(port) = inside.peer.map(|index| links.by_index(index)).transpose()?.flatten() else {
        return Ok(None);
    };
    // Its peer may be in a third namespace, where the index means another interface.
    if port.kind.as_deref() != Some("veth") || port.peer != Some(inside.index) {
        return Ok(None);
    }
    let bridge = controlling_bridge(links, &port)?;
    Ok(bridge.map(|bridge| Place { bridge, port: Some(port) }))
}

fn controlling_bridge(links: &mut Links, link: &Link) -> Result<Option<String>, RtnetlinkError> {
    let Some(index) = link.controller else { return Ok(None) };
    let controller = links.by_index(index)?;
    Ok(controller.filter(|c| c.kind.as_deref() == Some("bridge")).map(|bridge| bridge.name))
}

/// The gateways that the host itself is.
fn own_gateways(result: &CniResult) -> Result<Vec<IpAddr>, CniError> {
    let gateways = plan::gateways(result);
    if gateways.is_empty() {
        return Ok(gateways);
    }
    let cannot = |error: std::io::Error| {
        CniError::new(ErrorCode::Kernel, "cannot ask for the way to the network's gateway")
            .with_details(error.to_string())
    };
    let mut routes = Routes::open().map_err(cannot)?;
    let mut own = Vec::new();
    for gateway in gateways {
        if routes.to(gateway).map_err(cannot)?.is_some_and(|route| route.local) {
            own.push(gateway);
        }
    }
    Ok(own)
}

/// Whether traffic within a bridge passes the host's IP rules in both families.
#[must_use]
pub fn passes_ip_rules() -> bool {
    ["iptables", "ip6tables"].iter().all(|family| {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    })
}

/// Switches the isolation of the bridge's port.
pub fn isolate(place: &Place, isolated: bool) -> Result<(), CniError> {
    let Some(port) = &place.port else {
        if !isolated {
            return Ok(());
        }
        return Err(CniError::new(
            ErrorCode::Kernel,
            format!(
                "cannot isolate the container from others on bridge {}: its port there was not found; \
                 name the host's end of the veth in prevResult, or use ingressPolicy \"same-bridge\"",
                place.bridge
            ),
        ));
    };
    if port.isolated == isolated {
        return Ok(());
    }
    let outcome = Links::open()
        .map_err(RtnetlinkError::from)
        .and_then(|mut links| links.isolate_port(port.index, isolated));
    outcome.map_err(|error| {
        CniError::new(
            ErrorCode::Kernel,
            format!("cannot isolate port {} of bridge {}", port.name, place.bridge),
        )
        .with_details(error.to_string())
    })
}
