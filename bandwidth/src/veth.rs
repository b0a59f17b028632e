//! The host's end of a container's veth pair, found by its index and nothing else.

use std::io;
use std::path::Path;

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::{Link, Links};
use cni_common::kernel::netns::Netns;

use crate::backend::refused;

pub(crate) const VETH: &str = "veth";

/// The host's end of `ifname` in the namespace at `netns`.
pub(crate) fn host_end(links: &mut Links, netns: &str, ifname: &str) -> Result<Link, CniError> {
    let unusable = |error: io::Error| {
        CniError::new(
            ErrorCode::InvalidNetns,
            format!("cannot enter CNI_NETNS {netns:?}: is the container still running?"),
        )
        .with_details(error.to_string())
    };
    let container = Netns::open(Path::new(netns)).map_err(unusable)?;
    let id = links
        .id_of(&container)
        .map_err(refused(|| "ask for the container's namespace".to_owned()))?;
    let inner = look_inside(links, &container, id, ifname)
        .map_err(unusable)?
        .ok_or_else(|| {
            CniError::config(format!(
                "there is no interface {ifname:?} in {netns}: put bandwidth behind the plugin that makes it"
            ))
        })?;
    let peer = peer_index(&inner)?;
    let outer = links
        .by_index(peer)
        .map_err(refused(|| "look for the host's end of the veth".to_owned()))?;
    outer.filter(|outer| belongs(outer, &inner, id)).ok_or_else(|| {
        CniError::config(format!(
            "the other end of {ifname:?} (index {peer}) is not in the namespace that bandwidth runs in: \
             limits can only be set where that end is"
        ))
    })
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

fn peer_index(inner: &Link) -> Result<u32, CniError> {
    let name = &inner.name;
    if inner.kind.as_deref() != Some(VETH) {
        let kind = inner.kind.as_deref().unwrap_or("device of the host's");
        return Err(CniError::config(format!(
            "{name:?} is a {kind}, not a veth, and so has no end on the host that could be shaped: remove \
             bandwidth from this network, or make the interface with bridge or ptp"
        )));
    }
    inner.peer.ok_or_else(|| CniError::config(format!("{name:?} has no other end")))
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
        assert!(
            peer_index(&macvlan).expect_err("macvlan").msg.contains("is a macvlan, not a veth")
        );
        let hardware = Link { kind: None, ..veth(2, 7, None) };
        assert!(peer_index(&hardware).expect_err("hardware").msg.contains("device of the host's"));
        assert_eq!(peer_index(&veth(2, 7, None)), Ok(7));
    }
}
