//! What `show` is asked about. No I/O.

use std::net::IpAddr;

use anyhow::bail;
use cni_common::kernel::nft::L4Protocol;

use super::survey::{Mapped, Owner, Survey};
use crate::runner::container_id;

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Everything,
    /// A host port, of any protocol or of this one.
    Port(u16, Option<L4Protocol>),
    /// An address of the host or of a container.
    Address(IpAddr),
    /// Whatever these attachments have; the text that named them is what is told.
    Owners(String, Vec<Owner>),
}

impl Subject {
    /// Reads `PORT[/PROTO]`, an address, `NETWORK/CONTAINERID/IFNAME`, a network's name, or the
    /// beginning of a container ID. `known` are all owners on this host.
    pub(crate) fn parse(text: Option<&str>, known: &[Owner]) -> anyhow::Result<Self> {
        let Some(text) = text else { return Ok(Self::Everything) };
        if let Some((port, protocol)) = port(text) {
            return Ok(Self::Port(port, protocol));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse() {
            return Ok(Self::Address(address));
        }
        let of = |is: &dyn Fn(&Owner) -> bool| -> Vec<Owner> {
            known.iter().filter(|owner| is(owner)).cloned().collect()
        };
        let mut owners = of(&|owner| owner.to_string() == text);
        if owners.is_empty() {
            owners = of(&|owner| owner.network == text);
        }
        if owners.is_empty() && !text.is_empty() {
            let ids = known.iter().map(|owner| owner.container_id.as_str());
            let id = container_id::complete(text, ids)?;
            owners = of(&|owner| owner.container_id == id);
        }
        if owners.is_empty() {
            bail!(
                "nothing here is called {text:?}: give a host port, an address, the name of a network \
                 or the beginning of a container ID; `cni-chain show` shows all there is"
            );
        }
        Ok(Self::Owners(text.to_owned(), owners))
    }

    /// The host port that is asked about.
    pub(crate) fn port(&self) -> Option<(u16, Option<L4Protocol>)> {
        match self {
            Self::Port(port, protocol) => Some((*port, *protocol)),
            _ => None,
        }
    }

    /// Takes everything else out of a survey.
    pub(crate) fn narrow(&self, survey: &mut Survey) {
        match self {
            Self::Everything => {}
            Self::Port(port, protocol) => {
                survey.ports.retain(|mapped| is_port(mapped, *port, *protocol));
                survey.keep_owners_of_ports();
            }
            Self::Address(address) => {
                let has_it = |owner: &Owner| {
                    survey.attachments.iter().any(|attached| {
                        attached.owner == *owner && attached.addresses.contains(address)
                    })
                };
                let owners: Vec<Owner> = survey.owners().into_iter().filter(has_it).collect();
                if owners.is_empty() {
                    survey.ports.retain(|mapped| leads_by(mapped, *address));
                    survey.keep_owners_of_ports();
                } else {
                    survey.retain(&|owner| owners.contains(owner));
                }
            }
            Self::Owners(_, owners) => survey.retain(&|owner| owners.contains(owner)),
        }
    }
}

/// Reads `PORT[/PROTO]`.
pub(crate) fn port(text: &str) -> Option<(u16, Option<L4Protocol>)> {
    let (number, protocol) = match text.split_once('/') {
        None => (text, None),
        Some((number, protocol)) => (number, Some(L4Protocol::from_text(protocol)?)),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|number| *number != 0 && is_number)?;
    Some((number, protocol))
}

fn is_port(mapped: &Mapped, port: u16, protocol: Option<L4Protocol>) -> bool {
    let mapping = &mapped.mapping;
    mapping.host_port == port && protocol.is_none_or(|protocol| protocol == mapping.protocol)
}

fn leads_by(mapped: &Mapped, address: IpAddr) -> bool {
    let mapping = &mapped.mapping;
    mapping.container == address || mapping.host_address == Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_word_means() {
        let owner = |network: &str, id: &str| Owner {
            network: network.to_owned(),
            container_id: id.to_owned(),
            ifname: "eth0".to_owned(),
        };
        let known = [owner("podnet", "3f2a9c"), owner("podnet", "77aa"), owner("lan", "3f2a9c")];
        let parse = |text: &str| Subject::parse(Some(text), &known);
        let owners = |text: &str| match parse(text) {
            Ok(Subject::Owners(_, owners)) => owners,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(parse("8080").ok(), Some(Subject::Port(8080, None)));
        assert_eq!(parse("53/udp").ok(), Some(Subject::Port(53, Some(L4Protocol::Udp))));
        assert_eq!(parse("[fd00::1]").ok(), parse("fd00::1").ok());
        assert_eq!(Subject::parse(None, &known).ok(), Some(Subject::Everything));
        assert_eq!(owners("podnet"), known[..2]);
        assert_eq!(owners("3f"), [known[0].clone(), known[2].clone()]);
        assert_eq!(owners("lan/3f2a9c/eth0"), known[2..]);
        for unknown in ["web", "0", "70000", "53/icmp", ""] {
            let error = parse(unknown).expect_err(unknown).to_string();
            assert!(error.starts_with(&format!("nothing here is called {unknown:?}")), "{error}");
        }
    }
}
