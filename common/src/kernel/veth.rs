//! The host's end of a container's veth pair, found by its index and nothing else.

use std::io;

use super::link::{Link, Links};
use super::netns::Netns;
use super::rtnetlink::RtnetlinkError;

/// The kind of link that has another end.
pub const VETH: &str = "veth";

/// Why there is no host's end.
#[derive(Debug, thiserror::Error)]
pub enum VethError {
    /// The container's namespace cannot be entered.
    #[error("cannot enter the namespace: {0}")]
    Namespace(io::Error),
    /// The container has no such interface.
    #[error("there is no such interface")]
    NoInterface,
    /// The interface is of another kind, which is named; hardware has none.
    #[error("the interface is a {}, not a veth", .0.as_deref().unwrap_or("device of the host's"))]
    NotVeth(Option<String>),
    /// The kernel does not say which link the other end is.
    #[error("the interface has no other end")]
    NoPeer,
    /// The other end, whose index this is, is in a third namespace.
    #[error("the other end (index {0}) is in another namespace")]
    Elsewhere(u32),
    /// The kernel refused a question.
    #[error(transparent)]
    Rtnetlink(#[from] RtnetlinkError),
}

/// The host's end of `ifname` in `container`.
pub fn host_end(links: &mut Links, container: &Netns, ifname: &str) -> Result<Link, VethError> {
    let id = links.id_of(container)?;
    let inner = look_inside(links, container, id, ifname)
        .map_err(VethError::Namespace)?
        .ok_or(VethError::NoInterface)?;
    let peer = peer_index(&inner)?;
    let outer = links.by_index(peer)?;
    outer.filter(|outer| belongs(outer, &inner, id)).ok_or(VethError::Elsewhere(peer))
}

/// The container's end, asked for from outside where the kernel can (Linux 4.15), which spares a
/// thread. A namespace without a number has no veth to this one, but may have something to name.
fn look_inside(
    links: &mut Links,
    container: &Netns,
    id: Option<i32>,
    ifname: &str,
) -> io::Result<Option<Link>> {
    if let Some(Ok(inner)) = id.map(|id| links.by_name_in(id, ifname)) {
        return Ok(inner);
    }
    container.run(|| Links::open()?.by_name(ifname).map_err(io::Error::other))?
}

fn peer_index(inner: &Link) -> Result<u32, VethError> {
    if inner.kind.as_deref() != Some(VETH) {
        return Err(VethError::NotVeth(inner.kind.clone()));
    }
    inner.peer.ok_or(VethError::NoPeer)
}

/// Indexes repeat from namespace to namespace, so each end has to name the other.
fn belongs(outer: &Link, inner: &Link, container: Option<i32>) -> bool {
    outer.kind.as_deref() == Some(VETH)
        && outer.peer == Some(inner.index)
        && container.is_some()
        && outer.peer_netns == container
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veth(index: u32, peer: u32, peer_netns: Option<i32>) -> Link {
        let kind = Some(VETH.to_owned());
        Link { index, peer: Some(peer), peer_netns, kind, name: "eth0".into(), ..Link::default() }
    }

    #[test]
    fn both_ends_have_to_name_each_other() {
        let inner = veth(2, 7, Some(0));
        assert!(belongs(&veth(7, 2, Some(3)), &inner, Some(3)));
        assert!(!belongs(&veth(7, 2, Some(4)), &inner, Some(3)), "another namespace's 2");
        assert!(!belongs(&veth(7, 3, Some(3)), &inner, Some(3)));
        assert!(!belongs(&veth(7, 2, None), &inner, None));
        let bridge = Link { kind: Some("bridge".into()), ..veth(7, 2, Some(3)) };
        assert!(!belongs(&bridge, &inner, Some(3)));
    }

    #[test]
    fn what_is_no_veth_is_named() {
        let macvlan = Link { kind: Some("macvlan".into()), ..veth(2, 7, None) };
        let error = peer_index(&macvlan).expect_err("macvlan").to_string();
        assert!(error.contains("is a macvlan, not a veth"), "{error}");
        let hardware = Link { kind: None, ..veth(2, 7, None) };
        let error = peer_index(&hardware).expect_err("hardware").to_string();
        assert!(error.contains("device of the host's"), "{error}");
        assert_eq!(peer_index(&veth(2, 7, None)).expect("a veth"), 7);
    }
}
