//! The elements of our sets and maps: who has what. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_common::cni::OwnerTag;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{Element, Set, Value};

use super::layout;
use crate::backend::counts::PolicyCounts;
use crate::config::Policy;

/// The key of an attachment's elements in `attachments` and `members`.
pub(crate) fn owner_key(tag: &OwnerTag) -> Vec<Value> {
    vec![Value::Name(tag.owner_name())]
}

/// The element that says which addresses an attachment has.
pub(crate) fn attachment_element(tag: &OwnerTag, addresses: &[IpAddr]) -> Element {
    let first = |version: IpVersion, none: IpAddr| {
        Value::Address(
            addresses.iter().copied().find(|a| IpVersion::of(*a) == version).unwrap_or(none),
        )
    };
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let data = vec![
        Value::Mark(count),
        first(IpVersion::V4, Ipv4Addr::UNSPECIFIED.into()),
        first(IpVersion::V6, Ipv6Addr::UNSPECIFIED.into()),
    ];
    Element::new(owner_key(tag), data, tag.as_str())
}

/// The addresses that an element of `attachments` names, and how many there are in all.
pub(crate) fn attachment_addresses(element: &Element) -> Option<(usize, Vec<IpAddr>)> {
    let [Value::Mark(count), Value::Address(v4), Value::Address(v6)] = element.data.as_slice()
    else {
        return None;
    };
    let named = [*v4, *v6].into_iter().filter(|address| !address.is_unspecified()).collect();
    Some((usize::try_from(*count).ok()?, named))
}

/// The element of an address in `containers`.
pub(crate) fn container_element(address: IpAddr, tag: &OwnerTag) -> Element {
    Element::new(vec![Value::Address(address)], Vec::new(), tag.as_str())
}

/// The element that says which bridge an attachment isolates, and how.
pub(crate) fn member_element(tag: &OwnerTag, bridge: &str, policy: Policy) -> Element {
    let data = vec![Value::Name(bridge.to_owned()), Value::Mark(policy_number(policy))];
    Element::new(owner_key(tag), data, tag.as_str())
}

/// The bridge and the policy that an element of `members` names.
pub(crate) fn membership(element: &Element) -> Option<(String, Policy)> {
    match element.data.as_slice() {
        [Value::Name(bridge), Value::Mark(number)] => {
            let policies = [Policy::SameBridge, Policy::Isolated];
            let policy = policies.into_iter().find(|policy| policy_number(*policy) == *number)?;
            Some((bridge.clone(), policy))
        }
        _ => None,
    }
}

fn policy_number(policy: Policy) -> u32 {
    match policy {
        Policy::SameBridge => 1,
        Policy::Isolated => 2,
    }
}

/// The key of a bridge.
pub(crate) fn bridge_key(bridge: &str) -> Vec<Value> {
    vec![Value::Name(bridge.to_owned())]
}

/// The element of a gateway's address.
pub(crate) fn gateway_element(address: IpAddr, bridge: &str) -> Element {
    Element::new(vec![Value::Address(address)], Vec::new(), bridge)
}

/// The counts that an element of `bridges` stands for.
pub(crate) fn counts(element: &Element) -> Option<PolicyCounts> {
    match element.data.as_slice() {
        [Value::Mark(same_bridge), Value::Mark(isolated)] => {
            Some(PolicyCounts { same_bridge: *same_bridge, isolated: *isolated })
        }
        _ => None,
    }
}

/// The element of `bridges`.
pub(crate) fn counts_element(bridge: &str, counts: PolicyCounts) -> Element {
    let data = vec![Value::Mark(counts.same_bridge), Value::Mark(counts.isolated)];
    Element { key: bridge_key(bridge), data, comment: None }
}

/// What the packet path must hold for a bridge: set by set, the key and whether it is in.
pub(crate) fn lookups(bridge: &str, counts: PolicyCounts) -> [(Set, Vec<Value>, bool); 3] {
    let pair = vec![Value::Name(bridge.to_owned()); 2];
    [
        (layout::participating(), bridge_key(bridge), !counts.is_none()),
        (layout::inside(), pair.clone(), !counts.is_none()),
        (layout::isolated(), pair, counts.isolated > 0),
    ]
}

/// The address that an element of `containers` stands for.
pub(crate) fn address(element: &Element) -> Option<IpAddr> {
    match element.key.as_slice() {
        [Value::Address(address)] => Some(*address),
        _ => None,
    }
}
