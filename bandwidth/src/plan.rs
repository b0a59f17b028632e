//! What must hold for an attachment: a token bucket for each direction, and for which remote
//! addresses. No I/O.

use cni_common::cni::{Attachment, OwnerTag};

use crate::bucket::{Bucket, Limiter, Packets};
use crate::config::{Config, Subnets};

/// The limits of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) tag: OwnerTag,
    /// Rate, burst and queue of what goes into the container; none is no limit.
    pub(crate) ingress: Option<Limiter>,
    /// The same of what comes out of it.
    pub(crate) egress: Option<Limiter>,
    /// The remote addresses that both are about.
    pub(crate) subnets: Subnets,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
}

impl Plan {
    /// What `config` asks for, if packets are of this size.
    pub(crate) fn new(attachment: &Attachment, config: &Config, packets: Packets) -> Self {
        let mut warnings = Vec::new();
        let mut bucket = |key, limit| {
            let bucket = Bucket::new(limit, config, packets);
            warnings.extend(raised_burst(key, bucket));
            bucket.limiter
        };
        let ingress = config.ingress.map(|limit| bucket("ingressBurst", limit));
        let egress = config.egress.map(|limit| bucket("egressBurst", limit));
        let (tag, subnets) = (attachment.tag(), config.subnets.clone());
        Self { tag, ingress, egress, subnets, warnings }
    }
}

fn raised_burst(key: &str, bucket: Bucket) -> Option<String> {
    let asked = bucket.raised_from?;
    let burst = u64::from(bucket.limiter.tbf.burst.0);
    Some(format!(
        "{key} of {asked} bytes lets no full frame pass: raised to {burst} bytes; set {key} to at \
         least {} bits",
        burst * 8
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Bits, BitsPerSecond, Limit, QueueKind};

    #[test]
    fn a_raised_burst_is_told() {
        let attachment =
            Attachment { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() };
        let config = Config {
            ingress: Some(Limit { rate: BitsPerSecond(8000), burst: Bits(80) }),
            egress: None,
            subnets: Subnets::All,
            queue: QueueKind::Best,
            latency: 25,
            honor_runtime_burst: false,
        };
        let packets = Packets { mtu: 1500, gso_max_size: 65_536 };
        let plan = Plan::new(&attachment, &config, packets);
        assert_eq!(
            plan.warnings,
            ["ingressBurst of 10 bytes lets no full frame pass: raised to 1522 bytes; set \
              ingressBurst to at least 12176 bits"]
        );
    }
}
