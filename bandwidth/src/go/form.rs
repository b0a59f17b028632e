//! How the Go plugin's objects are told from others'. It leaves no owner on anything. No I/O.

use cni_common::cni::Attachment;
use cni_common::cni::attachment::go_digest;
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{InstalledFilter, Match, Qdisc, QdiscKind};

/// The Go plugin's handle of every TBF.
pub(crate) const HANDLE: u16 = 1;
/// The Go plugin's priority of its only filter.
pub(super) const PRIORITY: u16 = 1;

/// The name of its IFB, in which the interface does not count.
pub(super) fn ifb_name(attachment: &Attachment) -> String {
    let digits = go_digest(&format!("{}{}", attachment.network, attachment.container_id), 12);
    format!("bwp{digits}")
}

pub(super) fn is_ifb_of_go(link: &Link) -> bool {
    let digits = link.name.strip_prefix("bwp");
    link.kind.as_deref() == Some("ifb")
        && link.alias.is_none()
        && digits.is_some_and(|digits| {
            digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

pub(super) fn is_filter_of_go(filter: &InstalledFilter) -> bool {
    filter.priority == PRIORITY
        && filter.kind == "u32"
        && filter.protocol == Match::Everything.protocol()
        && filter.words == Match::Everything.words()
}

pub(crate) fn is_tbf_of_go(root: &Qdisc) -> bool {
    root.handle == HANDLE && matches!(root.kind, QdiscKind::Tbf(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_go_plugin_s() {
        for (network, id, expected) in [
            ("cni-plugin-bandwidth-test", "dummy", "bwpa8eda89404b7"),
            ("n", "c1", "bwp9b00b9b7c279"),
            ("h2chain", "cidA", "bwpcf1fd164c068"),
        ] {
            let attachment = Attachment {
                network: network.into(),
                container_id: id.into(),
                ifname: "eth0".into(),
            };
            assert_eq!(ifb_name(&attachment), expected);
        }
    }
}
