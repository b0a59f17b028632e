//! What must be there for an attachment: buckets, and filters that lead to them. No I/O.

use cni_common::cni::{Attachment, OwnerTag};
use cni_common::kernel::tc::{Filter, Hook, Match, Side, Tbf, Verdict};
use ipnet::IpNet;

use crate::bucket::{Bucket, Packets};
use crate::config::{Config, Subnets};

/// The handle of the bucket on the host's end. Its number is the evidence that it is ours.
pub const HANDLE: u16 = 0xb0;

/// The priorities of our filters begin here, one for each hook and protocol. Nothing else has a
/// reason to be there: they come after whatever asks for a priority, and what does not ask is put
/// in front of them. The hooks do not share any, because u32 lists what has the same priority
/// at either hook as one.
const PRIORITIES: u16 = 0xbd00;

/// Whether a priority at a hook is one of ours.
#[must_use]
pub fn is_our_priority(hook: Hook, priority: u16) -> bool {
    (1..=3).any(|protocol| priority == base(hook) + protocol)
}

fn base(hook: Hook) -> u16 {
    match hook {
        Hook::Ingress => PRIORITIES,
        Hook::Egress => PRIORITIES + 0x10,
    }
}

fn priority(hook: Hook, matches: Match) -> u16 {
    base(hook)
        + match matches {
            Match::Subnet(_, IpNet::V4(_)) => 1,
            Match::Subnet(_, IpNet::V6(_)) => 2,
            Match::Everything => 3,
        }
}

/// What must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the IFBs carry as their alias.
    pub tag: OwnerTag,
    /// The bucket of the host's end itself.
    pub root: Option<Tbf>,
    /// The detour of what goes into the container, if only some of it is shaped.
    pub ingress: Option<Detour>,
    /// The detour of what comes out of it.
    pub egress: Option<Detour>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// An IFB with a bucket, and the packets that are sent through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// The bucket on the IFB.
    pub tbf: Tbf,
    /// Where the packets leave their way.
    hook: Hook,
    subnets: Subnets,
}

impl Plan {
    /// Nothing: what DEL wants.
    #[must_use]
    pub fn nothing(attachment: &Attachment) -> Self {
        Self {
            tag: attachment.tag(),
            root: None,
            ingress: None,
            egress: None,
            warnings: Vec::new(),
        }
    }

    /// What `config` asks for.
    #[must_use]
    pub fn new(attachment: &Attachment, config: &Config, packets: Packets) -> Self {
        let mut plan = Self::nothing(attachment);
        if let Some(limit) = config.ingress {
            let tbf = plan.noted("ingressBurst", Bucket::new(limit, config, packets));
            match config.subnets {
                // A bucket on the veth itself costs no detour.
                Subnets::All => plan.root = Some(tbf),
                _ => plan.ingress = Some(detour(tbf, Hook::Egress, config)),
            }
        }
        if let Some(limit) = config.egress {
            let tbf = plan.noted("egressBurst", Bucket::new(limit, config, packets));
            plan.egress = Some(detour(tbf, Hook::Ingress, config));
        }
        plan
    }

    fn noted(&mut self, key: &str, bucket: Bucket) -> Tbf {
        if let Some(asked) = bucket.raised_from {
            let burst = u64::from(bucket.tbf.burst.0);
            self.warnings.push(format!(
                "{key} of {asked} bytes lets no full frame pass: raised to {burst} bytes; set {key} to \
                 at least {} bits",
                burst * 8
            ));
        }
        bucket.tbf
    }

    /// The detour of one hook of the host's end.
    #[must_use]
    pub fn detour(&self, hook: Hook) -> Option<&Detour> {
        match hook {
            // What comes in by the host's end comes out of the container.
            Hook::Ingress => self.egress.as_ref(),
            Hook::Egress => self.ingress.as_ref(),
        }
    }
}

fn detour(tbf: Tbf, hook: Hook, config: &Config) -> Detour {
    Detour { tbf, hook, subnets: config.subnets.clone() }
}

impl Detour {
    /// The side of a packet that names the remote end.
    fn remote(&self) -> Side {
        match self.hook {
            Hook::Ingress => Side::Destination,
            Hook::Egress => Side::Source,
        }
    }

    /// The filters that lead to the IFB with this index, in the order they run.
    #[must_use]
    pub fn filters(&self, ifb: u32, note: u16) -> Vec<Filter> {
        let redirect = Verdict::Redirect(ifb);
        let filter = |matches, verdict| Filter {
            priority: priority(self.hook, matches),
            matches,
            verdict,
            note,
        };
        let each = |subnets: &[IpNet], verdict| {
            let mut filters: Vec<Filter> = subnets
                .iter()
                .map(|subnet| filter(Match::Subnet(self.remote(), *subnet), verdict))
                .collect();
            // The kernel lists them so; within one priority the order does not matter.
            filters.sort_by_key(|filter| filter.priority);
            filters
        };
        match &self.subnets {
            Subnets::All => vec![filter(Match::Everything, redirect)],
            Subnets::Only(subnets) => each(subnets, redirect),
            Subnets::Except(subnets) => {
                let mut filters = each(subnets, Verdict::Pass);
                filters.push(filter(Match::Everything, redirect));
                filters
            }
        }
    }
}

/// The name of the IFB behind a hook of an attachment's host end.
#[must_use]
pub fn ifb_name(tag: &OwnerTag, hook: Hook) -> String {
    let prefix = match hook {
        Hook::Ingress => "bwp",
        Hook::Egress => "bwi",
    };
    // The kernel's limit is 15 bytes.
    format!("{prefix}{}", &tag.short_name()[..12])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Bits, BitsPerSecond, Limit};

    const PACKETS: Packets = Packets { mtu: 1500, gso_max_size: 65_536 };

    fn attachment(ifname: &str) -> Attachment {
        Attachment { network: "n".into(), container_id: "c".into(), ifname: ifname.into() }
    }

    fn config(subnets: Subnets) -> Config {
        let limit = Limit { rate: BitsPerSecond(8_000_000), burst: Bits(800_000) };
        Config {
            ingress: Some(limit),
            egress: Some(limit),
            subnets,
            latency: 25,
            honor_runtime_burst: false,
        }
    }

    #[test]
    fn without_subnets_only_egress_takes_a_detour() {
        let plan = Plan::new(&attachment("eth0"), &config(Subnets::All), PACKETS);
        assert!(plan.root.is_some() && plan.ingress.is_none());
        let filters = plan.egress.expect("a detour").filters(7, 1);
        let expected = Filter {
            priority: 0xbd03,
            matches: Match::Everything,
            verdict: Verdict::Redirect(7),
            note: 1,
        };
        assert_eq!(filters, [expected]);
    }

    #[test]
    fn subnets_name_the_remote_end() {
        let subnets: Vec<IpNet> =
            ["fd00::/8", "10.0.0.0/8"].map(|text| text.parse().expect("a subnet")).to_vec();
        let plan = Plan::new(&attachment("eth0"), &config(Subnets::Except(subnets)), PACKETS);
        assert_eq!(plan.root, None);
        for (hook, side, base) in
            [(Hook::Ingress, Side::Destination, 0xbd00), (Hook::Egress, Side::Source, 0xbd10)]
        {
            let filters = plan.detour(hook).expect("a detour").filters(7, 1);
            let told: Vec<_> = filters.iter().map(|f| (f.priority, f.matches, f.verdict)).collect();
            let subnet = |text: &str| Match::Subnet(side, text.parse().expect("a subnet"));
            assert_eq!(
                told,
                [
                    (base + 1, subnet("10.0.0.0/8"), Verdict::Pass),
                    (base + 2, subnet("fd00::/8"), Verdict::Pass),
                    (base + 3, Match::Everything, Verdict::Redirect(7)),
                ]
            );
        }
    }

    #[test]
    fn no_two_detours_share_an_ifb() {
        let names = [("eth0", Hook::Ingress), ("eth0", Hook::Egress), ("eth1", Hook::Ingress)]
            .map(|(ifname, hook)| ifb_name(&attachment(ifname).tag(), hook));
        assert!(names.iter().all(|name| name.len() == 15));
        assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
    }

    #[test]
    fn a_raised_burst_is_told() {
        let mut config = config(Subnets::All);
        config.egress = None;
        config.ingress = Some(Limit { rate: BitsPerSecond(8000), burst: Bits(80) });
        let plan = Plan::new(&attachment("eth0"), &config, PACKETS);
        assert_eq!(
            plan.warnings,
            ["ingressBurst of 10 bytes lets no full frame pass: raised to 1522 bytes; set \
              ingressBurst to at least 12176 bits"]
        );
    }
}
