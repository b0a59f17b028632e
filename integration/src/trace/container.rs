//! What is seen in the container's network namespace: its address, its way back, its listener.

use std::net::IpAddr;

use cni_common::kernel::link::Links;
use cni_common::kernel::netns::Netns;
use cni_common::kernel::nft::{BaseChain, ChainKind, Hook, Table};
use cni_common::kernel::route::Routes;

use super::step::{Finding, Step};
use super::way::{Way, addresses};
use crate::rules::{Fate, Packet, Rules};
use crate::show::{Attached, Container, Listener, listeners_on};

const CONTAINER: &str = "container";
const ADDRESS: &str = "its address";
const RETURN: &str = "way back";
const LISTENER: &str = "listener";
const FILTERS: &str = "its filters";

/// Whether the container is there.
pub(super) fn presence(attached: Option<&Attached>) -> Step {
    match attached.map(|attached| (&attached.container, &attached.netns)) {
        Some((Container::There, netns)) => Step::ok(CONTAINER, format!("it is there, in {netns}")),
        Some((Container::Gone(why), _)) => Step::stop(
            CONTAINER,
            format!("the container is gone: {why}"),
            "cni-chain gc NETWORK deletes what is left of it; start it again",
        ),
        Some((Container::Unknown(why), _)) => Step::unknown(CONTAINER, why),
        Some((Container::Forgotten, _)) | None => Step::new(
            CONTAINER,
            Finding::Doubt,
            "no runtime's cache knows this attachment, so its namespace is not known",
            "if its container is gone, the runtime's garbage collection or cni-chain purge removes it",
        ),
    }
}

/// What the container's own namespace says.
pub(super) fn inside(way: &Way<'_>, netns: &Netns) -> Vec<Step> {
    let host = addresses().unwrap_or_default();
    match netns.run(|| look(way, &host)) {
        Ok(steps) => steps,
        Err(error) => vec![Step::unknown(CONTAINER, &error)],
    }
}

fn look(way: &Way<'_>, host: &[(String, IpAddr)]) -> Vec<Step> {
    let mut steps = vec![address(way)];
    steps.push(way_back(way, host));
    steps.extend(filters(way));
    steps
        .push(listener(way, &listeners_on(way.mapping.container_port, Some(way.mapping.protocol))));
    steps
}

fn address(way: &Way<'_>) -> Step {
    let (ifname, wanted) = (&way.owner.ifname, way.mapping.container);
    let is_up = Links::open()
        .map_err(|error| error.to_string())
        .and_then(|mut links| links.by_name(ifname).map_err(|error| error.to_string()));
    match is_up {
        Err(error) => return Step::unknown(ADDRESS, &error),
        Ok(Some(link)) if !link.up => {
            return Step::stop(
                ADDRESS,
                format!("{ifname} of the container is down"),
                format!("ip link set {ifname} up, in the container's namespace"),
            );
        }
        Ok(_) => {}
    }
    let own = match addresses() {
        Ok(own) => own,
        Err(error) => return Step::unknown(ADDRESS, &error),
    };
    match own.iter().find(|(_, address)| *address == wanted) {
        Some((name, _)) => Step::ok(ADDRESS, format!("{name} has {wanted}")),
        None => Step::stop(
            ADDRESS,
            format!("no interface of the container has {wanted}, which the mapping leads to"),
            "something in the container took it away; start the container again",
        ),
    }
}

/// Answers have to come back by this host, which knows what was translated.
fn way_back(way: &Way<'_>, host: &[(String, IpAddr)]) -> Step {
    let peer = way.peer();
    let remedy = "set the container's routes as its main plugin did: the default route by the host's \
                  address on its network";
    let route = match Routes::open().and_then(|mut routes| routes.to(peer)) {
        Ok(route) => route,
        Err(error) => return Step::unknown(RETURN, &error),
    };
    match route {
        None => {
            Step::stop(RETURN, format!("the container has no route to {}", way.peer_text()), remedy)
        }
        Some(route) => match route.gateway {
            Some(gateway) if !super::host::is_own(gateway, host) => Step::stop(
                RETURN,
                format!(
                    "the container answers by {gateway}, which is not this host: what this host \
                     translated, nobody translates back"
                ),
                remedy,
            ),
            Some(gateway) => {
                Step::ok(RETURN, format!("the container answers by {gateway}, this host"))
            }
            None => Step::ok(RETURN, "the container answers directly"),
        },
    }
}

fn listener(way: &Way<'_>, found: &[Listener]) -> Step {
    let (container, port) = (way.mapping.container, way.mapping.container_port);
    let protocol = way.mapping.protocol;
    let hears = |listener: &&Listener| {
        let address = listener.address;
        address == container
            || address.is_unspecified() && (address.is_ipv6() || container.is_ipv4())
    };
    if let Some(listener) = found.iter().find(hears) {
        let address = listener.address;
        return Step::ok(
            LISTENER,
            format!("{} listens on {address}, port {port}/{protocol}", listener.name()),
        );
    }
    match found.first() {
        Some(listener) => Step::stop(
            LISTENER,
            format!(
                "{} listens on {} of the container only, port {port}/{protocol}, not on {container}",
                listener.name(),
                listener.address
            ),
            format!("have the program listen on {container} or on all addresses"),
        ),
        None => Step::stop(
            LISTENER,
            format!("nothing in the container listens on port {port}/{protocol}"),
            "start the program, or map to the port on which it listens",
        ),
    }
}

/// Rules that the container, or a service mesh, has made for itself.
fn filters(way: &Way<'_>) -> Option<Step> {
    let packet = Packet {
        input: Some(way.owner.ifname.clone()),
        output: None,
        is_dnat: false,
        is_local: true,
        ..way.led_on()
    };
    let is_filter = |_: &Table, base: BaseChain| base.kind == ChainKind::Filter;
    let mut rules = Rules::read().ok()?;
    let decisions = rules.at(Hook::Input, &packet, &is_filter).ok()?;
    let drop = decisions.iter().find(|decision| decision.fate == Fate::Dropped)?;
    let finding = if drop.possibly.is_some() { Finding::Doubt } else { Finding::Stop };
    Some(Step::new(
        FILTERS,
        finding,
        format!(
            "table {} in the container's namespace drops it in chain {}",
            drop.table, drop.chain
        ),
        "accept the port there: the container's own rules decide",
    ))
}
