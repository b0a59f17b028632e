//! What several files of cases need.

use cni_testbox::{Attachment, Call, Implementation, TestBox, bandwidth, link, must_fail, sh, tc};
use serde_json::Value;

/// A call with a limit of 1 MB/s and 100 kB for each direction.
pub(crate) fn limited(command: &str, attachment: &Attachment) -> Call {
    bandwidth(command, attachment).ingress(8_000_000, 800_000).egress(8_000_000, 800_000)
}

/// Runs a command in the container, which must succeed.
#[track_caller]
pub(crate) fn inside(attachment: &Attachment, command: &str) -> String {
    sh(&format!("ip netns exec {} {command}", attachment.container.id))
}

/// The u32 filters at a hook of a link.
pub(crate) fn u32_filters(link: &str, hook: &str) -> Vec<Value> {
    let mut filters = tc::filters(link, hook);
    filters.retain(|filter| filter["options"]["match"].is_object());
    filters
}

/// The interface that what comes out of the container is redirected to.
pub(crate) fn redirect(link: &str) -> Option<String> {
    let filters = u32_filters(link, "ingress");
    let action = &filters.first()?["options"]["actions"][0];
    Some(action["to_dev"].as_str().unwrap_or_default().to_owned())
}

/// The owner that an interface of the host names.
#[track_caller]
pub(crate) fn alias(interface: &str) -> Option<String> {
    let found = link("", interface).expect("an interface");
    found["ifalias"].as_str().map(str::to_owned)
}

/// The host's address on a container's pair of veths.
pub(crate) fn host_v4(attachment: &Attachment) -> String {
    let address = attachment.v4();
    let (subnet, _) = address.rsplit_once('.').expect("four numbers");
    format!("{subnet}.1")
}

/// Nothing limits the container, nothing names it, and packets pass.
#[track_caller]
pub(crate) fn assert_clean(attachment: &Attachment) {
    let veth = attachment.host_end();
    assert_eq!(tc::ifbs(), Vec::<String>::new());
    let kinds: Vec<_> = tc::qdiscs(&veth).iter().map(|qdisc| qdisc["kind"].clone()).collect();
    assert_eq!(kinds, ["noqueue"]);
    assert_eq!(alias(&veth), None);
    inside(attachment, &format!("ping -c 1 -W 5 {}", host_v4(attachment)));
}

/// The case must fail on the Go plugin and pass on ours.
pub(crate) fn fails_on_go_only(case: impl Fn(Implementation)) {
    must_fail("a fault of the Go plugin", || case(Implementation::Go));
    case(Implementation::Ours);
}

/// A container for each, so that what one plugin leaves is not in the other's way.
pub(crate) fn container_of(b: &TestBox, implementation: Implementation) -> Attachment {
    if implementation == Implementation::Go { b.pair("go", 2) } else { b.pair("ours", 1) }
}
