//! Whether the host takes the connection in and sends it on: its address, loopback, reverse path,
//! forwarding.

use std::net::IpAddr;

use cni_common::kernel::route::{Routes, interface_name};

use super::step::{Finding, Step};
use super::way::{Origin, Way};

const ADDRESS: &str = "host address";
const LOOPBACK: &str = "127.0.0.1";
const REVERSE: &str = "reverse path";
const FORWARDING: &str = "forwarding";

/// Whether the address is one of this host.
pub(super) fn address(way: &Way<'_>) -> Step {
    let Some(to) = way.to else {
        return Step::new(
            ADDRESS,
            Finding::Doubt,
            "this host has no address but the loopback's and the containers' bridge's",
            "name the address that clients use: --to ADDRESS",
        );
    };
    if let Some(interface) = &way.arrival {
        return Step::ok(ADDRESS, format!("{to} is an address of {interface}"));
    }
    match Routes::open().and_then(|mut routes| routes.to(to)) {
        Ok(Some(route)) if route.local => Step::ok(ADDRESS, format!("{to} is local by a route")),
        Ok(_) if way.mapping.host_address == Some(to) => Step::stop(
            ADDRESS,
            format!("the mapping is for {to}, which is no address of this host"),
            "map the port on an address of this host, or on all by leaving hostIP out",
        ),
        Ok(_) => Step::stop(
            ADDRESS,
            format!("{to} is no address of this host"),
            "connect to one of this host's, or give it that address",
        ),
        Err(error) => Step::unknown(ADDRESS, &error),
    }
}

/// Whether the host's own programs reach the container by a loopback address.
pub(super) fn loopback(way: &Way<'_>) -> Option<Step> {
    let to = way.to.filter(IpAddr::is_loopback)?;
    if to.is_ipv6() {
        return Some(Step::stop(
            LOOPBACK,
            "the kernel does not send on what is for ::1, whatever translates it",
            "connect to 127.0.0.1 or to another address of the host",
        ));
    }
    let interface = way.towards.as_deref()?;
    Some(match conf(4, interface, "route_localnet").as_deref() {
        Some("1") => Step::ok(LOOPBACK, format!("route_localnet is set on {interface}")),
        Some(_) => Step::stop(
            LOOPBACK,
            format!(
                "route_localnet is 0 on {interface}: the kernel drops what leaves it from 127.0.0.1"
            ),
            "run cni-chain restore; the plugin portmap sets it unless \"snat\" is false",
        ),
        None => Step::unknown(LOOPBACK, &format!("{interface} has no route_localnet")),
    })
}

/// Whether the host would answer by the interface that the connection came in by.
pub(super) fn reverse_path(way: &Way<'_>) -> Option<Step> {
    const STRICT: u8 = 1;
    let arrival = way.arrival.clone().filter(|_| way.origin == Origin::Outside)?;
    if way.mapping.container.is_ipv6() {
        return None;
    }
    let value = |interface: &str| conf(4, interface, "rp_filter")?.parse::<u8>().ok();
    // The stricter of 1 and 2 is 2's lesser: the kernel takes the higher number.
    let mode = value("all").max(value(&arrival)).unwrap_or_default();
    if mode != STRICT {
        let how = if mode == 0 { "off" } else { "loose" };
        return Some(Step::ok(REVERSE, format!("rp_filter is {how} on {arrival}")));
    }
    let peer = way.peer();
    let back = Routes::open()
        .and_then(|mut routes| routes.to(peer))
        .ok()
        .flatten()
        .and_then(|route| route.interface);
    let back = back.and_then(|index| interface_name(index).ok());
    if back.as_deref() == Some(arrival.as_str()) {
        return Some(Step::ok(REVERSE, format!("rp_filter is strict, and {arrival} leads back")));
    }
    let leads = match &back {
        Some(other) => format!("{other} leads back to {}", way.peer_text()),
        None => format!("no route leads back to {}", way.peer_text()),
    };
    let text =
        format!("rp_filter is strict on {arrival}, and {leads}: what comes in there is dropped");
    let remedy = format!(
        "set net.ipv4.conf.{arrival}.rp_filter to 2 (loose), or route answers by {arrival}"
    );
    // Without --from, somebody on the interface's own network may be meant.
    let finding = if way.from.is_some() { Finding::Stop } else { Finding::Doubt };
    Some(Step::new(REVERSE, finding, text, remedy))
}

/// Whether the host sends on what is not for itself.
pub(super) fn forwarding(way: &Way<'_>) -> Option<Step> {
    if way.origin == Origin::Host {
        return None;
    }
    let digit = if way.mapping.container.is_ipv4() { 4 } else { 6 };
    let interface = match way.origin {
        Origin::Container => way.towards.as_deref(),
        _ => way.arrival.as_deref(),
    };
    let interface = interface.unwrap_or("all");
    let name = if digit == 4 { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
    Some(match conf(digit, interface, "forwarding").as_deref() {
        Some("0") => Step::stop(
            FORWARDING,
            format!("the host does not forward IPv{digit} packets from {interface}"),
            format!("sysctl -w {name}=1, and keep it in /etc/sysctl.d"),
        ),
        Some(_) => Step::ok(FORWARDING, format!("the host forwards IPv{digit} packets")),
        None => Step::unknown(FORWARDING, &format!("{interface} has no such sysctl")),
    })
}

/// `net.ipvN.conf.INTERFACE.NAME`
fn conf(digit: u8, interface: &str, name: &str) -> Option<String> {
    let path = format!("/proc/sys/net/ipv{digit}/conf/{interface}/{name}");
    std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// What is asked of somebody's address: whether it is this host's.
pub(super) fn is_own(address: IpAddr, addresses: &[(String, IpAddr)]) -> bool {
    addresses.iter().any(|(_, own)| *own == address)
}
