//! The names of an attachment's chains and the comment of its entry rules. Pure.
//!
//! They are those of the Go portmap, because tools read them (nerdctl finds used ports in them) and
//! because nodes are upgraded in place; but our comments name the interface, too, and which of its list's
//! portmap entries made them.

use cni_common::cni::Attachment;
use cni_common::cni::attachment::go_digest;

/// The length of a chain name that the Go plugins cut theirs to.
const CHAIN_LEN: usize = 28;
/// A comment has 256 bytes with its terminator; the Go plugin cuts longer ones so.
const COMMENT_LEN: usize = 255;
const CUT: &str = "...";

/// The interface that Go's chain names and comments, which know none, stand for.
const USUAL_IFNAME: &str = "eth0";

/// Names of an attachment's chains and the comment of its entry rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(super) attachment: Attachment,
    /// Which entry of the attachment's list it is.
    gate: Option<String>,
    /// The chain with its translations: Go's, whose name knows no interface, for `eth0`.
    pub(crate) chain: String,
    /// The chain if another attachment has that one, whose digest has no separator between network and
    /// container in it, or another entry.
    pub(crate) alternative: String,
    /// Go's chain for this network and container.
    pub(crate) go_chain: String,
    /// The chain of the old `CNI-HOSTPORT-SNAT`.
    pub(crate) old_snat_chain: String,
    /// `dnat name: "…" id: "…" if: "…"`, and `gate: "…"`
    pub(crate) comment: String,
    /// The same as earlier versions cut it off where it was too long.
    cut_comment: String,
    /// The same as Go writes it, which knows no interface.
    pub(crate) go_comment: String,
}

impl Names {
    /// Of everything that the attachment has, and of the entry that gates nothing.
    pub(crate) fn new(attachment: &Attachment) -> Self {
        Self::of_entry(attachment, None)
    }

    /// Of the portmap entry that gates its mappings so.
    pub(crate) fn of_entry(attachment: &Attachment, gate: Option<String>) -> Self {
        let Attachment { network, container_id, ifname } = attachment;
        let go_chain = hashed("CNI-DN-", &format!("{network}{container_id}"));
        let of_interface = format!("{network}/{container_id}/{ifname}");
        let of_gate = gate.as_deref().unwrap_or_default();
        let alternative = hashed("CNI-DN-", &format!("{of_interface}/{of_gate}"));
        let plain = dnat(network, container_id);
        let chain = match ifname.as_str() {
            USUAL_IFNAME => go_chain.clone(),
            _ => hashed("CNI-DN-", &of_interface),
        };
        let end = match &gate {
            Some(gate) => format!(" if: \"{ifname}\" gate: \"{gate}\""),
            None => format!(" if: \"{ifname}\""),
        };
        let mut comment = format!("{plain}{end}");
        let cut_comment = fit(comment.clone());
        if comment.len() > COMMENT_LEN {
            // Of a network that is too long to be named, the name in tags.
            let tag = attachment.tag();
            let short = tag.as_str().split('/').next().unwrap_or_default();
            comment = format!("{}{end}", dnat(short, container_id));
        }
        Self {
            attachment: attachment.clone(),
            gate,
            chain,
            alternative,
            go_chain,
            old_snat_chain: hashed("CNI-SN-", &format!("{network}{container_id}")),
            comment: fit(comment),
            cut_comment,
            go_comment: fit(plain),
        }
    }

    /// What every comment of the container's entries holds, unless it is cut off.
    pub(super) fn id_in_comments(&self) -> String {
        format!("id: \"{}\"", self.attachment.container_id)
    }

    /// Every chain that may be the attachment's.
    pub(crate) fn chains(&self) -> [&String; 4] {
        [&self.chain, &self.alternative, &self.go_chain, &self.old_snat_chain]
    }

    /// Whether an entry rule with this comment and target is the attachment's, whatever its network
    /// was called then. `leads_to_us` says whether the target translates to the container's
    /// addresses only: Go's comments do not tell a container's interfaces apart.
    pub(crate) fn owns(
        &self,
        comment: &str,
        target: &str,
        leads_to_us: impl FnOnce() -> bool,
    ) -> bool {
        match owner(comment) {
            // One that is cut off names the network at best.
            None => {
                let own = [&self.comment, &self.cut_comment, &self.go_comment];
                own.iter().any(|own| *own == comment)
                    && self.chains().iter().any(|chain| *chain == target)
            }
            Some(Owner { attachment, .. })
                if attachment.container_id != self.attachment.container_id =>
            {
                false
            }
            Some(Owner { is_exact: true, attachment, .. }) => {
                attachment.ifname == self.attachment.ifname
            }
            Some(Owner { attachment, .. }) => attachment == self.attachment || leads_to_us(),
        }
    }

    /// Whether one of the attachment's comments is of this entry. What the Go plugin made for all of a
    /// list goes with the first that is added again.
    pub(super) fn is_of_entry(&self, comment: &str) -> bool {
        owner(comment).is_none_or(|owner| self.is_of(&owner))
    }

    /// The same for who a comment names.
    pub(super) fn is_of(&self, owner: &Owner) -> bool {
        !owner.is_exact || owner.gate == self.gate
    }

    /// Whether no packet gets past this entry's mapping to that one's of the same port.
    pub(super) fn shadows(&self, owner: &Owner) -> bool {
        self.gate.is_none() || self.gate == owner.gate
    }

    /// Whether that one's mapping of the same port takes packets from this entry's if it comes first.
    pub(super) fn meets(&self, owner: &Owner) -> bool {
        owner.gate.is_none() || self.gate == owner.gate
    }

    /// Whether an owner is this entry's of this attachment.
    pub(super) fn is_same_entry(&self, owner: &Owner) -> bool {
        let Attachment { container_id, ifname, .. } = &self.attachment;
        (&owner.attachment.container_id, &owner.attachment.ifname) == (container_id, ifname)
            && self.is_of(owner)
    }

    /// Whether a comment of ours is this entry's, whatever the network was called then.
    pub(super) fn is_renamed(&self, comment: &str) -> bool {
        owner(comment).is_some_and(|owner| owner.is_exact && self.is_same_entry(&owner))
    }
}

/// How a comment begins.
fn dnat(network: &str, container_id: &str) -> String {
    format!("dnat name: \"{network}\" id: \"{container_id}\"")
}

fn fit(comment: String) -> String {
    if comment.len() <= COMMENT_LEN {
        return comment;
    }
    // Names are ASCII; the Go plugin cuts at the same place.
    format!("{}{CUT}", &comment[..COMMENT_LEN - 2]).chars().take(COMMENT_LEN).collect()
}

/// Whose an entry rule is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) attachment: Attachment,
    /// Whether the comment names the interface. Go's does not, and may be of any.
    pub(super) is_exact: bool,
    /// Which entry's it is, as far as the comment tells.
    gate: Option<String>,
}

impl Owner {
    /// What tells its entry from others of the attachment's list.
    pub(super) fn gate(&self) -> Option<&str> {
        self.gate.as_deref()
    }
}

/// Whose an entry rule with this comment is; `None` for one that is cut off or somebody else's.
pub(super) fn owner(comment: &str) -> Option<Owner> {
    let rest = comment.strip_prefix("dnat name: \"")?;
    let (network, rest) = rest.split_once("\" id: \"")?;
    let (container_id, rest) = rest.split_once('"')?;
    let is_exact = !rest.is_empty();
    let (ifname, rest) = match rest {
        "" => (USUAL_IFNAME, ""),
        _ => rest.strip_prefix(" if: \"")?.split_once('"')?,
    };
    let gate = match rest {
        "" => None,
        _ => Some(rest.strip_prefix(" gate: \"")?.strip_suffix('"')?.to_owned()),
    };
    let attachment = Attachment {
        network: network.to_owned(),
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
    };
    Some(Owner { attachment, is_exact, gate })
}

fn hashed(prefix: &str, text: &str) -> String {
    format!("{prefix}{}", go_digest(text, CHAIN_LEN - prefix.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(network: &str, container_id: &str, ifname: &str) -> Attachment {
        Attachment {
            network: network.into(),
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn chain_names_of_the_go_plugin() {
        let chain = |network: &str, id: &str| Names::new(&attachment(network, id, "eth0")).chain;
        assert_eq!(chain("h1net", "cid-one"), "CNI-DN-ede3ff773324b439b90d0");
        assert_eq!(hashed("CNI-", "test1234"), "CNI-2bbe0c48b91a7d1b8a6753a8");
        let other = Names::new(&attachment("h1net", "cid-one", "net1"));
        assert_ne!(other.chain, chain("h1net", "cid-one"));
        assert_eq!(other.go_chain, chain("h1net", "cid-one"));
    }

    #[test]
    fn a_long_network_leaves_room_for_the_rest() {
        let attachment = attachment(&"n".repeat(300), "cid-one", "eth0");
        let of = |gate: &str| Names::of_entry(&attachment, Some(gate.to_owned()));
        let [one, two] = ["0123456789ab", "ba9876543210"].map(of);
        assert_ne!(one.comment, two.comment);
        let owner = owner(&one.comment).expect("whole");
        assert_eq!(owner.attachment.tag(), attachment.tag());
        assert!(one.is_same_entry(&owner) && !two.is_same_entry(&owner));
        assert!(one.owns(&one.comment, "CNI-DN-any", || false));
        // What an earlier version made goes with DEL as well.
        let before = fit(format!("{} if: \"eth0\"", dnat(&attachment.network, "cid-one")));
        assert!(one.owns(&before, &one.chain, || false) && one.comment.len() <= COMMENT_LEN);
    }

    #[test]
    fn comments_name_the_owner() {
        for ifname in ["eth0", "net1"] {
            let attachment = attachment("h1net", "cid-one", ifname);
            let comment = Names::new(&attachment).comment;
            let of = |gate| Owner { attachment: attachment.clone(), is_exact: true, gate };
            assert_eq!(owner(&comment), Some(of(None)));
            let gate = Some("0123456789ab".to_owned());
            let gated = Names::of_entry(&attachment, gate.clone());
            assert_eq!(owner(&gated.comment), Some(of(gate)));
            assert!(gated.is_of_entry(&gated.comment) && !gated.is_of_entry(&comment));
            assert!(gated.is_of_entry(&gated.go_comment) && gated.alternative != gated.chain);
        }
        for foreign in ["", "something", "dnat name: \"x", "dnat name: \"x\" id: \"y..."] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
        let long = Names::new(&attachment("n", &"c".repeat(300), "eth0")).comment;
        assert_eq!(long.len(), COMMENT_LEN);
        let names = Names::new(&attachment("n", &"c".repeat(300), "eth0"));
        assert!(names.owns(&long, &names.chain, || false));
        assert!(!names.owns(&long, "CNI-DN-another", || true));
        let names = |ifname| Names::new(&attachment("renamed", "cid-one", ifname));
        let before = |ifname| Names::new(&attachment("h1net", "cid-one", ifname));
        for (own, other) in [("eth0", "net1"), ("net1", "eth0")] {
            assert!(names(own).owns(&before(own).comment, "CNI-DN-x", || false));
            assert!(!names(own).owns(&before(other).comment, "CNI-DN-x", || true));
            // Go's, of any interface.
            let of_go = before(own).go_comment;
            assert!(names(own).owns(&of_go, "CNI-DN-x", || true));
            assert!(!names(own).owns(&of_go, "CNI-DN-x", || false));
        }
        assert!(before("eth0").owns(&before("eth0").go_comment, "CNI-DN-x", || false));
    }
}
