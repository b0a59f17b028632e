//! The way from the host to the container: route, bridge, veth.

use cni_common::kernel::link::{Link, Links};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::veth::host_end;

use super::step::Step;
use super::way::{Origin, Way};

const ROUTE: &str = "route";
const LINK: &str = "link";
const HAIRPIN: &str = "hairpin";

/// Whether the host has a route that ends at the container.
pub(super) fn route(way: &Way<'_>) -> Step {
    let container = way.mapping.container;
    let remedy = "the container's main plugin makes it: stop the container and start it again";
    match &way.route {
        Err(error) => Step::unknown(ROUTE, error),
        Ok(None) => Step::stop(ROUTE, format!("the host has no route to {container}"), remedy),
        Ok(Some(route)) if route.local => Step::stop(
            ROUTE,
            format!("{container} is an address of the host itself"),
            "take that address off the host's interface",
        ),
        Ok(Some(route)) if route.via_gateway => Step::stop(
            ROUTE,
            format!(
                "the host sends packets for {container} to a gateway by {}: the interface that led to \
                 the container is gone, down or without its address",
                way.towards.as_deref().unwrap_or("an interface without a name")
            ),
            remedy,
        ),
        Ok(Some(_)) => {
            let interface = way.towards.as_deref().unwrap_or("an interface without a name");
            Step::ok(ROUTE, format!("the host reaches {container} by {interface}"))
        }
    }
}

/// Whether every interface on the way is up, and whether the container reaches itself.
pub(super) fn links(way: &Way<'_>, netns: Option<&Netns>) -> Vec<Step> {
    let mut links = match Links::open() {
        Ok(links) => links,
        Err(error) => return vec![Step::unknown(LINK, &error)],
    };
    let mut steps = Vec::new();
    let index = way.route.as_ref().ok().and_then(|route| route.as_ref()?.interface);
    let towards = index.and_then(|index| links.by_index(index).ok().flatten());
    steps.extend(towards.as_ref().and_then(down));
    // No veth (macvlan, a device of its own): nothing to look at here.
    let veth = netns.and_then(|netns| host_end(&mut links, netns, &way.owner.ifname).ok());
    if let Some(veth) = &veth {
        steps.extend(down(veth));
        let bridge =
            veth.controller.filter(|index| towards.as_ref().is_none_or(|t| t.index != *index));
        let bridge = bridge.and_then(|index| links.by_index(index).ok().flatten());
        steps.extend(bridge.as_ref().and_then(down));
        steps.extend(controller(veth, towards.as_ref()));
    }
    if steps.is_empty() {
        let names: Vec<&str> =
            [&towards, &veth].into_iter().flatten().map(|link| link.name.as_str()).collect();
        if !names.is_empty() {
            steps.push(Step::ok(LINK, format!("{} up", up(&names))));
        }
    }
    steps
        .extend(veth.filter(|veth| veth.controller.is_some()).and_then(|veth| hairpin(way, &veth)));
    steps
}

fn up(names: &[&str]) -> String {
    match names {
        [first, second] if first != second => format!("{first} and {second} are"),
        _ => format!("{} is", names.first().unwrap_or(&"it")),
    }
}

fn down(link: &Link) -> Option<Step> {
    let name = &link.name;
    let step = || Step::stop(LINK, format!("{name} is down"), format!("ip link set {name} up"));
    (!link.up).then(step)
}

/// Whether the veth's bridge is the interface that the route goes by.
fn controller(veth: &Link, towards: Option<&Link>) -> Option<Step> {
    let bridge = towards.filter(|link| link.kind.as_deref() == Some("bridge"))?;
    let (name, bridge_name) = (&veth.name, &bridge.name);
    (veth.controller != Some(bridge.index)).then(|| {
        Step::stop(
            LINK,
            format!("{name}, the host's end of the container's veth, is no port of {bridge_name}"),
            format!("ip link set {name} master {bridge_name}"),
        )
    })
}

/// Whether a container's frames come back to itself by its port of the bridge. Without `br_netfilter`
/// they are routed, and a routed packet may leave by the port that it came in by.
fn hairpin(way: &Way<'_>, veth: &Link) -> Option<Step> {
    let digits = if way.mapping.container.is_ipv4() { "" } else { "6" };
    let bridged = format!("/proc/sys/net/bridge/bridge-nf-call-ip{digits}tables");
    let is_bridged = std::fs::read_to_string(bridged).is_ok_and(|text| text.trim_end() == "1");
    if veth.hairpin || !is_bridged {
        return None;
    }
    let name = &veth.name;
    let text = format!(
        "hairpin mode is off on {name}, and br_netfilter on: the container does not reach itself by \
         this host port"
    );
    let remedy = format!(
        "set \"hairpinMode\": true for the bridge plugin; now: bridge link set dev {name} hairpin on"
    );
    Some(match way.origin {
        Origin::Container => Step::stop(HAIRPIN, text, remedy),
        _ => Step::note(HAIRPIN, text, remedy),
    })
}
