//! An attachment and its owner tag.
//!
//! Every kernel object that a plugin makes carries the tag of the attachment it was made for, so
//! that DEL and GC remove exactly that attachment's state without any other knowledge.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256, Sha512};

use crate::kernel::nft::Element;

/// One interface of one container on one network: what ADD makes and DEL removes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The container ID.
    pub container_id: String,
    /// The interface name inside the container.
    pub ifname: String,
}

/// `network/containerID/ifname`, at most [`OwnerTag::MAX_LEN`] bytes.
///
/// None of the parts can hold a `/`, so the tag is unambiguous. A part that is too long is cut
/// and ends in `~` (which no name can hold) and 128 bits of its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerTag(String);

/// Longest network name that is kept as it is, in bytes.
const NETWORK_LEN: usize = 38;
/// Longest container ID that is kept as it is: nerdctl's are a namespace, `-` and 64 digits.
const CONTAINER_LEN: usize = 73;
/// Hex digits of the digest that replaces the tail of a longer part.
const DIGEST_LEN: usize = 32;

impl Attachment {
    /// The tag of everything this attachment owns.
    #[must_use]
    pub fn tag(&self) -> OwnerTag {
        OwnerTag(format!(
            "{}/{}/{}",
            fit(&self.network, NETWORK_LEN),
            fit(&self.container_id, CONTAINER_LEN),
            self.ifname
        ))
    }
}

impl OwnerTag {
    /// nft's limit for a comment (`NFTNL_UDATA_COMMENT_MAXLEN`), the smallest of all carriers'.
    pub const MAX_LEN: usize = NETWORK_LEN + CONTAINER_LEN + 15 + 2;

    /// The tag in text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name of 15 hex digits for objects whose key must be short.
    #[must_use]
    pub fn short_name(&self) -> String {
        Self::short_name_of(&self.0)
    }

    /// The short name of the tag that a comment holds.
    #[must_use]
    pub fn short_name_of(comment: &str) -> String {
        let mut digits = hex_digest(comment);
        digits.truncate(15);
        digits
    }

    /// Who owns it, `containerID/ifname`: unique on a host, whatever the network is called.
    #[must_use]
    pub fn owner(&self) -> &str {
        owner_of(&self.0).unwrap_or(&self.0)
    }

    /// Whether a comment is the tag of this container and interface. The network is not compared:
    /// it may have been renamed since ADD.
    #[must_use]
    pub fn is_same_attachment(&self, comment: &str) -> bool {
        let owner = self.owner();
        // Most comments are others', and not looked at any closer.
        comment.ends_with(owner) && owner_of(comment) == Some(owner)
    }

    /// Whether an element is commented with the tag of this container and interface.
    #[must_use]
    pub fn owns(&self, element: &Element) -> bool {
        element.comment.as_deref().is_some_and(|comment| self.is_same_attachment(comment))
    }

    /// Whether an element of the owner is there as it is wanted, but for the network's name.
    #[must_use]
    pub fn has(&self, wanted: &Element, held: &Element) -> bool {
        (&wanted.key, &wanted.data) == (&held.key, &held.data) && self.owns(held)
    }

    /// A name of 15 hex digits for the owner, whatever the network is called.
    #[must_use]
    pub fn owner_name(&self) -> String {
        Self::short_name_of(self.owner())
    }

    /// The owner's name of the tag that a comment holds.
    #[must_use]
    pub fn owner_name_of(comment: &str) -> String {
        Self::short_name_of(owner_of(comment).unwrap_or(comment))
    }

    /// Whether a comment is the tag of another attachment of the same container.
    #[must_use]
    pub fn is_sibling(&self, comment: &str) -> bool {
        owner_of(comment).is_some_and(|other| other != self.owner())
            && Self::is_one_container(&self.0, comment)
    }

    /// Whether two comments are tags of attachments of one container.
    #[must_use]
    pub fn is_one_container(one: &str, other: &str) -> bool {
        let container = |tag| owner_of(tag).and_then(|owner| owner.split('/').next());
        container(one).is_some() && container(one) == container(other)
    }

    /// The tag and the number behind it of an owner's name as layouts above 1 have it, where that is all there
    /// is room for: `network/containerID/ifname/2`.
    #[must_use]
    pub fn numbered(text: &str) -> Option<(&str, u32)> {
        let (tag, number) = text.rsplit_once('/')?;
        owner_of(tag)?;
        Some((tag, number.parse().ok()?))
    }

    /// Whether a comment is the tag of an attachment to `network`.
    #[must_use]
    pub fn belongs_to(comment: &str, network: &str) -> bool {
        comment
            .strip_prefix(&fit(network, NETWORK_LEN))
            .is_some_and(|rest| rest.starts_with('/') && rest.matches('/').count() == 2)
    }
}

impl std::fmt::Display for OwnerTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What GC may remove: whatever is owned by an attachment to the network that is not valid.
#[derive(Clone, Debug)]
pub struct Stale {
    network: String,
    valid: HashSet<OwnerTag>,
}

impl Stale {
    /// Everything of the network but these attachments'.
    pub fn new(network: impl Into<String>, valid: impl IntoIterator<Item = Attachment>) -> Self {
        let valid = valid.into_iter().map(|attachment| attachment.tag()).collect();
        Self { network: network.into(), valid }
    }

    /// The network's name.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Whether a comment is the tag of such an attachment.
    #[must_use]
    pub fn includes(&self, comment: &str) -> bool {
        OwnerTag::belongs_to(comment, &self.network)
            && !self.valid.contains(&OwnerTag(comment.to_owned()))
    }

    /// Whether any attachment of the container is valid.
    #[must_use]
    pub fn spares_container(&self, container_id: &str) -> bool {
        let container = fit(container_id, CONTAINER_LEN);
        self.valid.iter().any(|tag| tag.0.split('/').nth(1) == Some(container.as_str()))
    }
}

/// A name of 12 hex digits for objects that belong to a network.
#[must_use]
pub fn network_short_name(network: &str) -> String {
    let mut digits = hex_digest(network);
    digits.truncate(12);
    digits
}

/// What follows the network in a tag, if the text is one.
fn owner_of(tag: &str) -> Option<&str> {
    let (_, owner) = tag.split_once('/')?;
    (owner.matches('/').count() == 1).then_some(owner)
}

fn fit(part: &str, limit: usize) -> String {
    if part.len() <= limit {
        return part.to_owned();
    }
    // Names that reach this point were validated as ASCII; cut on a boundary all the same.
    let mut head = limit - DIGEST_LEN - 1;
    while !part.is_char_boundary(head) {
        head -= 1;
    }
    format!("{}~{}", &part[..head], &hex_digest(part)[..DIGEST_LEN])
}

fn hex_digest(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// The first digits of a text's SHA-512, of which the Go plugins make names.
#[must_use]
pub fn go_digest(text: &str, digits: usize) -> String {
    let mut all = hex(&Sha512::digest(text.as_bytes()));
    all.truncate(digits);
    all
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits =
        |byte: &u8| [byte >> 4, byte & 0xf].map(|digit| char::from(DIGITS[usize::from(digit)]));
    bytes.iter().flat_map(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attachment(network: &str, container_id: &str, ifname: &str) -> Attachment {
        Attachment {
            network: network.into(),
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn a_fourth_part_is_a_layouts_number() {
        assert_eq!(OwnerTag::numbered("net/c1/eth0/2"), Some(("net/c1/eth0", 2)));
        for other in
            ["net/c1/eth0", "net/c1/eth0/", "net/c1/eth0/x", "a/net/c1/eth0/2", "c1/eth0/2", "2"]
        {
            assert_eq!(OwnerTag::numbered(other), None, "{other}");
        }
        // To whoever knows of no numbers, it is nobody's.
        let tag = attachment("net", "c1", "eth0").tag();
        assert!(
            !tag.is_same_attachment("net/c1/eth0/2")
                && !OwnerTag::belongs_to("net/c1/eth0/2", "net")
        );
    }

    #[test]
    fn usual_names_are_readable() {
        let id = format!("default-{}", "a".repeat(64));
        assert_eq!(attachment("podnet", &id, "eth0").tag().as_str(), format!("podnet/{id}/eth0"));
    }

    #[test]
    fn a_comment_belongs_to_its_network_only() {
        assert!(OwnerTag::belongs_to("net/c/eth0", "net"));
        assert!(!OwnerTag::belongs_to("net/c/eth0", "ne"));
        assert!(!OwnerTag::belongs_to("net2/c/eth0", "net"));
        assert!(!OwnerTag::belongs_to("net/c", "net"));
        assert!(!OwnerTag::belongs_to("some comment", "net"));
    }

    #[test]
    fn stale_is_what_the_network_has_besides_the_valid() {
        let stale = Stale::new("net", [attachment("net", "c", "eth0")]);
        assert!(!stale.includes("net/c/eth0"));
        assert!(stale.includes("net/c/eth1") && stale.includes("net/d/eth0"));
        assert!(!stale.includes("other/d/eth0") && !stale.includes("by hand"));
        assert!(stale.spares_container("c") && !stale.spares_container("d"));
    }

    #[test]
    fn siblings_are_other_attachments_of_one_container() {
        let tag = attachment("net", "c", "eth0").tag();
        assert!(tag.is_sibling("other/c/eth1") && tag.is_sibling("net/c/eth1"));
        assert!(
            !tag.is_sibling("net/c/eth0") && !tag.is_sibling("net/d/eth0") && !tag.is_sibling("c")
        );
    }

    #[test]
    fn an_attachment_is_known_under_any_network() {
        let tag = attachment("net", "c", "eth0").tag();
        assert_eq!(tag.owner(), "c/eth0");
        assert_eq!(tag.owner_name(), OwnerTag::owner_name_of("renamed/c/eth0"));
        for same in ["net/c/eth0", "renamed/c/eth0"] {
            assert!(tag.is_same_attachment(same), "{same}");
        }
        for other in ["net/c/eth1", "net/d/eth0", "c/eth0", "net/net/c/eth0", "eth0", ""] {
            assert!(!tag.is_same_attachment(other), "{other}");
        }
        // Cut parts end in a digest of the whole.
        let (long, longer) = ("c".repeat(100), "c".repeat(101));
        let tag = attachment(&"n".repeat(100), &long, "eth0").tag();
        assert!(tag.is_same_attachment(attachment("net", &long, "eth0").tag().as_str()));
        assert!(!tag.is_same_attachment(attachment("net", &longer, "eth0").tag().as_str()));
    }

    proptest! {
        #[test]
        fn tags_fit_and_differ(
            a in "[a-z]{1,300}", b in "[a-z]{1,300}", c in "[a-z]{1,15}",
            d in "[a-z]{1,300}", e in "[a-z]{1,300}", f in "[a-z]{1,15}",
        ) {
            let (one, two) = (attachment(&a, &b, &c), attachment(&d, &e, &f));
            prop_assert!(one.tag().as_str().len() <= OwnerTag::MAX_LEN);
            prop_assert!(OwnerTag::belongs_to(one.tag().as_str(), &a));
            prop_assert_eq!(one == two, one.tag() == two.tag());
            prop_assert_eq!((b, c) == (e, f), one.tag().is_same_attachment(two.tag().as_str()));
        }
    }

    #[test]
    fn long_names_that_share_a_head_differ() {
        let (long, longer) = ("n".repeat(300), "n".repeat(301));
        assert_ne!(attachment(&long, "c", "i").tag(), attachment(&longer, "c", "i").tag());
        assert!(!OwnerTag::belongs_to(attachment(&long, "c", "i").tag().as_str(), &longer));
        assert_eq!(OwnerTag::MAX_LEN, 128);
    }
}
