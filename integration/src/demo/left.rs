//! What a chain leaves in a namespace: its links, and what `nf_tables` knows of the container.

use std::io;

use netlink_packet_netfilter::nftables::{
    NfTablesMessage, RuleMessage, SetAttribute, SetElementList, SetElementMessage, SetMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::plan::CONTAINER_ID;
use super::{dump, look};

/// The traces in one namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Traces {
    /// Names of the links.
    pub(super) links: Vec<String>,
    /// How often the rules and set elements of `nf_tables` name the container. Every plugin
    /// writes its owner into what it makes, ours and the Go ones alike.
    pub(super) mentions: usize,
}

impl Traces {
    /// The traces in the namespace of the calling thread.
    pub(super) fn read() -> io::Result<Self> {
        let links = look::links()?.into_iter().map(|link| link.name).collect();
        Ok(Self { links, mentions: mentions()? })
    }

    /// Whether something is here that was not there `before`.
    pub(super) fn has_more_than(&self, before: &Self) -> bool {
        self.mentions > before.mentions
            || self.links.iter().any(|name| !before.links.contains(name))
    }
}

/// How often the container's ID occurs in all rules and set elements.
fn mentions() -> io::Result<usize> {
    let any = NetfilterProtoFamily::Unspec;
    let rules = dump_nft(any, NfTablesMessage::GetRule(RuleMessage { attributes: Vec::new() }))?;
    let mut count = occurrences(&rules);
    for set in dump_nft(any, NfTablesMessage::GetSet(SetMessage { attributes: Vec::new() }))? {
        let Some((family, elements)) = elements_of(&dump::decode(&set)?) else { continue };
        count += occurrences(&dump_nft(family, NfTablesMessage::GetSetElement(elements))?);
    }
    Ok(count)
}

/// The request for the elements of a set.
fn elements_of(set: &NetfilterMessage) -> Option<(NetfilterProtoFamily, SetElementMessage)> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewSet(message)) = &set.inner else {
        return None;
    };
    let mut request = SetElementMessage { attributes: Vec::new() };
    for attribute in &message.attributes {
        match attribute {
            SetAttribute::Table(name) => {
                request.attributes.push(SetElementList::Table(name.clone()));
            }
            SetAttribute::Name(name) => request.attributes.push(SetElementList::Set(name.clone())),
            _ => {}
        }
    }
    Some((set.header.family, request))
}

fn dump_nft(family: NetfilterProtoFamily, request: NfTablesMessage) -> io::Result<Vec<Vec<u8>>> {
    let header = NetfilterHeader::new(family, 0, 0);
    match dump::messages(NETLINK_NETFILTER, NetfilterMessage::new(header, request)) {
        // A kernel without nf_tables holds nothing of it.
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => Ok(Vec::new()),
        answer => answer,
    }
}

fn occurrences(messages: &[Vec<u8>]) -> usize {
    let id = CONTAINER_ID.as_bytes();
    let in_one = |message: &Vec<u8>| message.windows(id.len()).filter(|bytes| *bytes == id).count();
    messages.iter().map(in_one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_noticed() {
        let traces = |links: &[&str], mentions| Traces {
            links: links.iter().map(|&name| name.to_owned()).collect(),
            mentions,
        };
        let before = traces(&["lo"], 0);
        assert!(!traces(&["lo"], 0).has_more_than(&before));
        assert!(!traces(&[], 0).has_more_than(&before));
        assert!(traces(&["lo", "demo0"], 0).has_more_than(&before));
        assert!(traces(&["lo"], 1).has_more_than(&before));
    }

    #[test]
    fn every_occurrence_counts() {
        let message = format!("x{CONTAINER_ID}y{CONTAINER_ID}").into_bytes();
        assert_eq!(occurrences(&[message, b"none".to_vec()]), 2);
    }
}
