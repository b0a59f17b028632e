//! Whether a mapping takes the connection, and who else would.

use super::step::{Finding, Step};
use super::way::{Origin, Way};
use crate::show::{Listener, Mapped, Standing};

const PORT: &str = "mapping";
const PROGRAM: &str = "host program";

/// The mapping that is asked about.
pub(super) fn mapping(mapped: &Mapped, all: &[Mapped]) -> Step {
    let Mapped { mapping, owner, standing } = mapped;
    let (host, container) = mapped.ends();
    match standing {
        Standing::InForce(place) => {
            let text = format!("{host} leads to {container} of {owner}, in {place}");
            let is_waiting = |other: &&Mapped| {
                other.mapping.host_port == mapping.host_port
                    && other.mapping.protocol == mapping.protocol
                    && other.standing == Standing::Waiting(owner.clone())
            };
            match all.iter().find(is_waiting) {
                None => Step::ok(PORT, text),
                Some(older) => Step::note(
                    PORT,
                    format!("{text}; {} has asked for it before and waits", older.owner),
                    format!("if {} should have it, stop or re-map {owner}", older.owner),
                ),
            }
        }
        Standing::Missing => Step::stop(
            PORT,
            format!(
                "{owner} was given {host}, and the kernel does not have it any more: something flushed \
                 or deleted it"
            ),
            "run cni-chain restore",
        ),
        Standing::Waiting(holder) => Step::stop(
            PORT,
            format!("{owner} was given {host}, and {holder}, which is newer, has taken it over"),
            format!("stop or re-map {holder}; then the port comes back"),
        ),
    }
}

/// No mapping has the port, or none for that address.
pub(super) fn nothing(port: u16, all: &[Mapped], listeners: &[Listener]) -> Vec<Step> {
    let elsewhere: Vec<String> = all
        .iter()
        .filter(|mapped| mapped.mapping.host_port == port)
        .map(|mapped| format!("{} of {}", mapped.mapping, mapped.owner))
        .collect();
    let text = if elsewhere.is_empty() {
        format!("no attachment here was given host port {port}")
    } else {
        format!("no mapping of host port {port} is for that; there is {}", elsewhere.join(", "))
    };
    let remedy = "map it when the container is started, as in cni-chain add --publish, podman run -p or \
                  a pod's hostPort";
    let mut steps = vec![Step::stop(PORT, text, remedy)];
    if let Some(listener) = listeners.first() {
        steps.push(Step::note(
            PROGRAM,
            format!("{} of the host listens on {}", listener.name(), listener.address),
            "what connects to the port speaks with that program",
        ));
    }
    steps
}

/// Programs of the host on the same port.
pub(super) fn listeners(way: &Way<'_>, listeners: &[Listener]) -> Step {
    let is_on_it = |listener: &&Listener| {
        let address = listener.address;
        listener.protocol == way.mapping.protocol
            && (address.is_unspecified() || way.to.is_none_or(|to| to == address))
    };
    let port = way.mapping.host_port;
    let Some(listener) = listeners.iter().find(is_on_it) else {
        return Step::ok(PROGRAM, format!("none listens on port {port}"));
    };
    let who = format!("{} listens on {}, port {port}", listener.name(), listener.address);
    let remedy = format!("stop {} or give it another port", listener.name());
    // route_localnet is not for IPv6: the mapping does not take what is sent to ::1.
    let is_its_own =
        way.origin == Origin::Host && way.to.is_some_and(|to| to.is_loopback() && to.is_ipv6());
    if is_its_own || way.place.is_none() {
        return Step::new(PROGRAM, Finding::Note, format!("{who}, and has the connection"), remedy);
    }
    Step::note(PROGRAM, format!("{who}, and hears nothing: the mapping comes first"), remedy)
}
