//! A plan in the words of traffic control: qdiscs, IFBs, filters, and how ours are told. No I/O.

use cni_common::cni::OwnerTag;
use cni_common::kernel::tc::{
    Action, ETH_P_8021AD, ETH_P_8021Q, Filter, Hook, InstalledFilter, Match, Qdisc, QdiscKind, Side,
};
use ipnet::IpNet;

use crate::bucket::Limiter;
use crate::config::Subnets;
use crate::host_end::{HOOKS, HostEnd};
use crate::plan::Plan;

/// The kind of link that takes in what a filter redirects.
pub(crate) const IFB: &str = "ifb";

/// The handle of our TBFs. Its number is the evidence that they are ours.
pub(super) const HANDLE: u16 = 0xb0;

/// The minor number of our filters' classid, if the clsact qdisc was made for them.
pub(super) const CLSACT_IS_OURS: u16 = 1;
/// If it was there before.
pub(super) const CLSACT_IS_FOREIGN: u16 = 2;

/// The priorities of our filters are around this, one for each hook and protocol. Nothing else has a
/// reason to be there: they come after whatever asks for a priority, and what does not ask is put
/// in front of them. The hooks do not share any, because u32 lists what has the same priority
/// at either hook as one.
const PRIORITIES: u16 = 0xbd00;

fn base(hook: Hook) -> u16 {
    match hook {
        Hook::Ingress => PRIORITIES,
        Hook::Egress => PRIORITIES + 0x10,
    }
}

fn priority(hook: Hook, matches: Match) -> u16 {
    let base = base(hook);
    match matches {
        Match::TaggedSubnet(..) | Match::TaggedEtherType(_) => base - 2,
        Match::EtherType(_) => base - 1,
        Match::Subnet(_, IpNet::V4(_)) => base + 1,
        Match::Subnet(_, IpNet::V6(_)) => base + 2,
        Match::Everything => base + 3,
    }
}

/// Whether a filter at a hook is one of this plugin's.
pub(super) fn is_our_filter(hook: Hook, filter: &InstalledFilter) -> bool {
    let ours = base(hook) - 2..=base(hook) + 3;
    filter.kind == "u32" && ours.contains(&filter.priority) && filter.action.is_some()
}

/// Those that are this plugin's: a veth end has one attachment, so they are the attachment's.
pub(super) fn our_filters(end: &HostEnd, hook: Hook) -> impl Iterator<Item = &InstalledFilter> {
    end.filters(hook).iter().filter(move |filter| is_our_filter(hook, filter))
}

/// What our filters say about the clsact qdisc; none if there are no filters of ours.
pub(super) fn clsact_is(end: &HostEnd) -> Option<u16> {
    HOOKS
        .into_iter()
        .find_map(|hook| our_filters(end, hook).next())
        .map(|filter| filter.class_minor)
}

/// The links that our filters redirect to.
pub(crate) fn redirected_to(end: &HostEnd) -> Vec<u32> {
    HOOKS.into_iter().flat_map(|hook| redirected_at(end, hook)).collect()
}

/// The same of one hook.
pub(super) fn redirected_at(end: &HostEnd, hook: Hook) -> Vec<u32> {
    let target = |filter: &InstalledFilter| match filter.action {
        Some(Action::Redirect(link)) => Some(link),
        _ => None,
    };
    our_filters(end, hook).filter_map(target).collect()
}

/// Whether a root qdisc is one of this plugin's TBFs.
pub(crate) fn is_our_tbf(root: &Qdisc) -> bool {
    root.handle == HANDLE && matches!(root.kind, QdiscKind::Tbf(_))
}

/// What the names of IFBs behind a hook begin with.
const fn ifb_prefix(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => "bwp",
        Hook::Egress => "bwi",
    }
}

/// Whether the IFB of this name has what goes into a container, which leaves the host's end.
pub(crate) fn limits_ingress(ifb: &str) -> bool {
    ifb.starts_with(ifb_prefix(Hook::Egress))
}

/// The name of the IFB behind a hook of an attachment's host end. The network does not count, so
/// that DEL finds it under whatever name the network has by then.
pub(super) fn ifb_name(tag: &OwnerTag, hook: Hook) -> String {
    let prefix = ifb_prefix(hook);
    // The kernel's limit is 15 bytes.
    format!("{prefix}{}", &OwnerTag::short_name_of(tag.owner())[..12])
}

/// The name that it had in layout 1, which had the network in it.
pub(super) fn older_ifb_name(tag: &OwnerTag, hook: Hook) -> String {
    format!("{}{}", ifb_prefix(hook), &tag.short_name()[..12])
}

/// The limiter that is the host end's root qdisc. It needs no redirect, but meets every packet.
pub(super) fn root(plan: &Plan) -> Option<Limiter> {
    plan.ingress.filter(|_| plan.subnets == Subnets::All)
}

/// The redirect at a hook of the host's end.
pub(super) fn redirect(plan: &Plan, hook: Hook) -> Option<Redirect<'_>> {
    let limiter = match hook {
        // What comes in by the host's end comes out of the container.
        Hook::Ingress => plan.egress,
        Hook::Egress => plan.ingress.filter(|_| plan.subnets != Subnets::All),
    }?;
    Some(Redirect { limiter, hook, subnets: &plan.subnets })
}

/// An IFB with a limiter, and the packets that are sent through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirect<'a> {
    /// The root qdisc of the IFB.
    pub(super) limiter: Limiter,
    hook: Hook,
    subnets: &'a Subnets,
}

impl Redirect<'_> {
    /// The side of a packet that names the remote end.
    fn remote(&self) -> Side {
        match self.hook {
            Hook::Ingress => Side::Destination,
            Hook::Egress => Side::Source,
        }
    }

    /// The filters that lead to the IFB with this index, in the order they run.
    pub(super) fn filters(&self, ifb: u32, class_minor: u16) -> Vec<Filter> {
        let redirect = Action::Redirect(ifb);
        let filter = |matches, action| Filter {
            priority: priority(self.hook, matches),
            matches,
            action,
            class_minor,
        };
        let each = |subnets: &[IpNet], action| {
            let matches = |subnet: &IpNet| {
                let remote = self.remote();
                [Match::Subnet(remote, *subnet), Match::TaggedSubnet(remote, *subnet)]
            };
            subnets
                .iter()
                .flat_map(matches)
                .map(|matches| filter(matches, action))
                .collect::<Vec<_>>()
        };
        let mut filters = match self.subnets {
            Subnets::All => vec![filter(Match::Everything, redirect)],
            Subnets::Only(subnets) => {
                let mut filters = each(subnets, redirect);
                filters.extend(UNSEEN.map(|matches| filter(matches, redirect)));
                filters
            }
            Subnets::Except(subnets) => {
                let mut filters = each(subnets, Action::Pass);
                filters.push(filter(Match::Everything, redirect));
                filters
            }
        };
        // The kernel lists them so; within one priority the order does not matter.
        filters.sort_by_key(|filter| filter.priority);
        filters
    }
}

/// Frames in which the addresses are not where a filter looks for them: those with an 802.1ad tag
/// or with more than one tag. Linux takes any number of tags of VLAN 0 off a packet that it
/// receives, so whoever sends one could choose not to be limited if these were let through.
const UNSEEN: [Match; 3] = [
    Match::TaggedEtherType(ETH_P_8021Q),
    Match::TaggedEtherType(ETH_P_8021AD),
    Match::EtherType(ETH_P_8021AD),
];

#[cfg(test)]
mod tests {
    use super::*;
    use cni_common::cni::Attachment;

    use crate::bucket::{Bucket, Packets};
    use crate::config::{Bits, BitsPerSecond, Config, Limit, QueueKind};

    fn tag(ifname: &str) -> OwnerTag {
        Attachment { network: "n".into(), container_id: "c".into(), ifname: ifname.into() }.tag()
    }

    fn plan(subnets: Subnets) -> Plan {
        let limit = Limit { rate: BitsPerSecond(8_000_000), burst: Bits(800_000) };
        let config = Config {
            ingress: Some(limit),
            egress: Some(limit),
            subnets: subnets.clone(),
            queue: QueueKind::Best,
            latency: 25,
            honor_runtime_burst: false,
        };
        let packets = Packets { mtu: 1500, gso_max_size: 65_536 };
        let limiter = Some(Bucket::new(limit, &config, packets).limiter);
        let (ingress, egress, warnings) = (limiter, limiter, Vec::new());
        Plan { tag: tag("eth0"), ingress, egress, subnets, warnings }
    }

    #[test]
    fn without_subnets_only_egress_is_redirected() {
        let plan = plan(Subnets::All);
        assert_eq!(root(&plan), plan.ingress);
        assert_eq!(redirect(&plan, Hook::Egress), None);
        let filters = redirect(&plan, Hook::Ingress).expect("a redirect").filters(7, 1);
        let expected = Filter {
            priority: 0xbd03,
            matches: Match::Everything,
            action: Action::Redirect(7),
            class_minor: 1,
        };
        assert_eq!(filters, [expected]);
    }

    #[test]
    fn subnets_name_the_remote_end() {
        let subnets: Vec<IpNet> =
            ["fd00::/8", "10.0.0.0/8"].map(|text| text.parse().expect("a subnet")).to_vec();
        let plan = plan(Subnets::Except(subnets));
        assert_eq!(root(&plan), None);
        for (hook, side, base) in
            [(Hook::Ingress, Side::Destination, 0xbd00), (Hook::Egress, Side::Source, 0xbd10)]
        {
            let filters = redirect(&plan, hook).expect("a redirect").filters(7, 1);
            let told: Vec<_> = filters.iter().map(|f| (f.priority, f.matches, f.action)).collect();
            let subnet = |text: &str| Match::Subnet(side, text.parse().expect("a subnet"));
            let tagged = |text: &str| Match::TaggedSubnet(side, text.parse().expect("a subnet"));
            assert_eq!(
                told,
                [
                    (base - 2, tagged("fd00::/8"), Action::Pass),
                    (base - 2, tagged("10.0.0.0/8"), Action::Pass),
                    (base + 1, subnet("10.0.0.0/8"), Action::Pass),
                    (base + 2, subnet("fd00::/8"), Action::Pass),
                    (base + 3, Match::Everything, Action::Redirect(7)),
                ]
            );
        }
    }

    /// Only what certainly leads elsewhere is let through.
    #[test]
    fn tags_that_hide_an_address_are_shaped() {
        let plan = plan(Subnets::Only(vec!["10.0.0.0/8".parse().expect("a subnet")]));
        let filters = redirect(&plan, Hook::Ingress).expect("a redirect").filters(7, 1);
        assert!(filters.iter().all(|filter| filter.action == Action::Redirect(7)));
        for matches in UNSEEN {
            assert!(filters.iter().any(|filter| filter.matches == matches), "{matches:?}");
        }
        // All of one priority have one protocol.
        let mut protocols: Vec<_> =
            filters.iter().map(|filter| (filter.priority, filter.matches.protocol())).collect();
        protocols.dedup();
        assert_eq!(protocols, [(0xbcfe, 0x8100), (0xbcff, 0x88a8), (0xbd01, 0x0800)]);
    }

    #[test]
    fn no_two_redirects_share_an_ifb() {
        let names = [("eth0", Hook::Ingress), ("eth0", Hook::Egress), ("eth1", Hook::Ingress)]
            .map(|(ifname, hook)| ifb_name(&tag(ifname), hook));
        assert!(names.iter().all(|name| name.len() == 15));
        assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
    }
}
