//! The IFBs of an attachment: made, told from others', and given their owner.

use cni_common::cni::OwnerTag;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::{Link, LinkChange};
use cni_common::kernel::tc::Hook;

use super::layout::{IFB, ifb_name, older_ifb_name, redirected_at};
use crate::host::{Host, refused};
use crate::host_end::HostEnd;
use crate::layout_number::refuse_newer;

/// Whether an interface of the right name is the attachment's. One without an alias was left by
/// an older version's ADD that was killed.
fn is_owned_by(link: &Link, tag: &OwnerTag) -> bool {
    link.kind.as_deref() == Some(IFB)
        && link.alias.as_deref().is_none_or(|alias| tag.is_same_attachment(alias))
}

/// The attachment's IFB behind a hook of its host end, if that is known.
pub(super) fn find(
    host: &mut Host,
    end: Option<&HostEnd>,
    tag: &OwnerTag,
    hook: Hook,
) -> Result<Option<Link>, CniError> {
    let Some(found) = host.link(&ifb_name(tag, hook))? else {
        return find_older(host, end, tag, hook);
    };
    refuse_newer(&found, || tag)?;
    Ok(Some(found).filter(|found| is_owned_by(found, tag)))
}

/// The IFB that layout 1 made under another name, and that goes on under it: a link that is up keeps its
/// name. Where the host's end is known, its redirect tells.
fn find_older(
    host: &mut Host,
    end: Option<&HostEnd>,
    tag: &OwnerTag,
    hook: Hook,
) -> Result<Option<Link>, CniError> {
    let found = match end.map(|end| redirected_at(end, hook)) {
        None => host.link(&older_ifb_name(tag, hook))?,
        // 0 is what the kernel says of one that is gone.
        Some(targets) => match targets.into_iter().find(|target| *target != 0) {
            Some(target) => host.link_by_index(target)?,
            None => None,
        },
    };
    Ok(found.filter(|found| is_owned_by(found, tag)))
}

/// The attachment's IFB behind a hook: made if missing, up, and with the veth's MTU.
pub(super) fn ensure(
    host: &mut Host,
    end: &HostEnd,
    tag: &OwnerTag,
    hook: Hook,
) -> Result<Link, CniError> {
    let veth = &end.link;
    let mut name = ifb_name(tag, hook);
    let wanted = LinkChange {
        mtu: Some(veth.mtu),
        up: Some(true),
        // The TBF has a queue of its own.
        tx_queue_len: Some(0),
        ..LinkChange::default()
    };
    let mut found = host.link(&name)?;
    if found.is_none()
        && let Some(older) = find_older(host, Some(end), tag, hook)?
    {
        name.clone_from(&older.name);
        found = Some(older);
    }
    if found.is_none() {
        match host.kernel.create_ifb(&name, &wanted, tag.as_str()) {
            Err(error) if !error.is_exists() => {
                return Err(refused(|| format!("create the IFB {name}"))(error));
            }
            _ => {}
        }
    }
    let gone = || {
        CniError::new(ErrorCode::Kernel, format!("{name} is gone: does another program remove it?"))
    };
    let ifb = match found {
        Some(found) => found,
        None => host.link(&name)?.ok_or_else(gone)?,
    };
    refuse_newer(&ifb, || tag)?;
    if !is_owned_by(&ifb, tag) {
        let owner = ifb.alias.unwrap_or_else(|| "nobody that it names".to_owned());
        return Err(CniError::new(
            ErrorCode::Kernel,
            format!(
                "an interface {name} exists and belongs to {owner}: remove it (ip link del {name})"
            ),
        ));
    }
    if ifb.mtu != veth.mtu || !ifb.up {
        host.kernel
            .change_link(ifb.index, &wanted)
            .map_err(refused(|| format!("set up {name}")))?;
    }
    if ifb.alias.as_deref() != Some(tag.as_str()) {
        // The network has another name than it had, or an older version was killed.
        host.set_alias(&ifb, tag.as_str())?;
    }
    Ok(ifb)
}
