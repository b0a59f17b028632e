//! An attachment becomes the Go plugin's.
//!
//! Its ADD needs the places that ours has, and every exchange of a root qdisc loses packets. So what is
//! there is changed in place: the TBF of the host's end gets the Go plugin's numbers, its IFB is made with
//! a TBF before the redirect leads there, and ours goes when it has sent what it holds.

use cni_common::cni::Attachment;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::link::{Link, LinkChange};
use cni_common::kernel::tc::{
    Action, Bytes, BytesPerSecond, Filter, Hook, HookChange, InstalledTbf, Match, Tbf,
};

use super::form::{self, HANDLE, PRIORITY, is_filter_of_go, is_ifb_of_go};
use crate::config::{Config, Limit};
use crate::host::{Host, refused};
use crate::host_end::HostEnd;

/// Makes the IFB, if egress is limited, with its limit; the filter that leads there.
pub(crate) fn make_egress(
    host: &mut Host,
    end: &HostEnd,
    attachment: &Attachment,
    config: &Config,
) -> Result<Vec<HookChange>, CniError> {
    let Some(limit) = config.egress else { return Ok(Vec::new()) };
    let ifb = ensure_ifb(host, &end.link, &form::ifb_name(attachment))?;
    host.kernel
        .set_tbf(ifb.index, HANDLE, tbf(limit))
        .map_err(refused(|| format!("limit {}", ifb.name)))?;
    if end.filters(Hook::Ingress).iter().any(is_filter_of_go) {
        return Ok(Vec::new());
    }
    let filter = Filter {
        priority: PRIORITY,
        matches: Match::Everything,
        action: Action::Redirect(ifb.index),
        class_minor: 1,
    };
    Ok(vec![HookChange::AddFilter(Hook::Ingress, (&filter).into())])
}

/// The bucket that it makes of a limit for what goes into the container.
pub(crate) fn ingress(config: &Config) -> Option<Tbf> {
    config.ingress.map(tbf)
}

fn ensure_ifb(host: &mut Host, veth: &Link, name: &str) -> Result<Link, CniError> {
    let wanted = LinkChange {
        mtu: Some(veth.mtu),
        up: Some(true),
        tx_queue_len: Some(0),
        ..LinkChange::default()
    };
    if host.link(name)?.is_none() {
        host.kernel
            .create_ifb(name, &wanted, "")
            .map_err(refused(|| format!("create the IFB {name}")))?;
    }
    let refuse = || CniError::config(format!("an interface {name} is in the way: remove it"));
    host.link(name)?.filter(is_ifb_of_go).ok_or_else(refuse)
}

/// As the Go plugin computes it: microseconds of the rate, and a queue of 25 ms beside the burst; all of
/// it modulo 2^32.
#[expect(clippy::cast_possible_truncation, reason = "the Go plugin's own")]
fn tbf(limit: Limit) -> Tbf {
    let (rate, burst) = (u128::from(limit.rate.0 / 8), u128::from(limit.burst.0 / 8));
    let microseconds = (burst * 1_000_000 / rate.max(1)) as u32;
    // A tick has 64 ns.
    let burst_ticks = (u64::from(microseconds) * 1000 / 64) as u32;
    let waiting = (rate * 25_000 / 1_000_000) as u32;
    let queue = Bytes(waiting.wrapping_add(burst as u32));
    InstalledTbf::new(BytesPerSecond(limit.rate.0 / 8), burst_ticks, queue).made_by()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Bits, BitsPerSecond};

    /// What its binary made.
    #[test]
    fn buckets_are_the_go_plugin_s() {
        for (rate, burst, bytes, limit) in [
            (8_000, 8_000, 1000, 1025),
            (1_000_000, 1_000_000, 125_000, 128_125),
            (1_000_000_000, 10_000_000, 1_250_000, 4_375_000),
            // tc, which rounds to microseconds, prints 12495000.
            (30_000_000_000, 100_000_000, 12_498_720, 106_250_000),
            (1_000_000, 34_359_738_359, 21_474_834, 3123),
        ] {
            let tbf = tbf(Limit { rate: BitsPerSecond(rate), burst: Bits(burst) });
            assert_eq!(tbf.limit.0, limit, "{rate}/{burst}");
            assert!(tbf.burst.0.abs_diff(bytes) <= 2, "{rate}/{burst}: {}", tbf.burst.0);
        }
    }
}
