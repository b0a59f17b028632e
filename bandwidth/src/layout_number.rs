//! The number of the layout of what an attachment has: in the alias of its interfaces, behind the owner's tag.
//!
//! Layouts 1 and 2 have none there; 1 had other names for IFBs. Whoever makes a newer one says it at the
//! host's end in any case, which every command looks at, and at the IFBs, for GC and for a DEL without a
//! namespace.

use std::borrow::Borrow;

use cni_common::cni::protocol::CniError;
use cni_common::cni::{Failure as _, OwnerTag};
use cni_common::kernel::layout::Newer;
use cni_common::kernel::link::Link;

/// The number of this layout. It rises whenever an older version would do harm to what this one makes;
/// that one refuses the attachment then.
const LAYOUT: u32 = 2;

/// The owner's tag and the number in the alias of an interface, if a newer version wrote it.
pub(crate) fn newer(link: &Link) -> Option<(&str, u32)> {
    let numbered = link.alias.as_deref().and_then(OwnerTag::numbered);
    numbered.filter(|(_, number)| *number > LAYOUT)
}

/// Fails if a newer version made what the attachment has at an interface. The tag is seldom needed.
pub(crate) fn refuse_newer<T: Borrow<OwnerTag>>(
    link: &Link,
    tag: impl FnOnce() -> T,
) -> Result<(), CniError> {
    match newer(link) {
        Some((owner, number)) if tag().borrow().is_same_attachment(owner) => {
            Err(refusal(link, number))
        }
        _ => Ok(()),
    }
}

/// The error of a command that meets what a newer version made.
pub(crate) fn refusal(link: &Link, number: u32) -> CniError {
    let place = format!("interface {}", link.name);
    Newer { place, number, known: LAYOUT }.into_cni("cannot work with the limits")
}
