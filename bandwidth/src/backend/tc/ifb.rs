//! The IFBs of an attachment: made, told from others', and given their owner.

use cni_common::cni::OwnerTag;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::{Link, LinkChange};
use cni_common::kernel::tc::Hook;

use super::layout::{IFB, ifb_name};
use crate::host::{Host, refused};

/// Whether an interface of the right name is the attachment's. One without an alias was left by
/// an older version's ADD that was killed.
fn is_owned_by(link: &Link, tag: &OwnerTag) -> bool {
    link.kind.as_deref() == Some(IFB)
        && link.alias.as_deref().is_none_or(|alias| tag.is_same_attachment(alias))
}

/// The attachment's IFB behind a hook.
pub(super) fn find(host: &mut Host, tag: &OwnerTag, hook: Hook) -> Result<Option<Link>, CniError> {
    Ok(host.link(&ifb_name(tag, hook))?.filter(|found| is_owned_by(found, tag)))
}

/// The attachment's IFB behind a hook: made if missing, up, and with the veth's MTU.
pub(super) fn ensure(
    host: &mut Host,
    veth: &Link,
    tag: &OwnerTag,
    hook: Hook,
) -> Result<Link, CniError> {
    let name = ifb_name(tag, hook);
    let wanted = LinkChange {
        mtu: Some(veth.mtu),
        up: Some(true),
        // The TBF has a queue of its own.
        tx_queue_len: Some(0),
        ..LinkChange::default()
    };
    let found = host.link(&name)?;
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
