//! What limits one link: our token bucket, which is its root qdisc, and the queue in it. Set, changed in
//! place, compared, and put back.

use std::thread::sleep;
use std::time::Duration;

use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::Link;
use cni_common::kernel::tc::{Bytes, BytesPerSecond, InstalledFqCodel, Qdisc, QdiscKind, Tbf};

use super::layout::{HANDLE, is_our_tbf};
use crate::bucket::Limiter;
use crate::config::QueueKind;
use crate::host::{Host, refused};

/// The handle of our queues, by which they are told from what somebody else put into our bucket.
const QUEUE: u16 = 0xb1;

/// What there is on a link.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    root: Option<Qdisc>,
    /// What the bucket was given for a queue; none is its own, or none at all.
    queue: Option<Qdisc>,
}

impl Held {
    pub(super) fn look(
        host: &mut Host,
        link: &Link,
        root: Option<Qdisc>,
    ) -> Result<Self, CniError> {
        let queue = match &root {
            Some(root) if is_our_tbf(root) => host.queue(link, HANDLE)?,
            _ => None,
        };
        Ok(Self { root, queue })
    }

    /// Whether the bucket has a queue that somebody else gave it. That one stays.
    fn is_foreign(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.handle != QUEUE)
    }

    fn fq_codel(&self) -> Option<InstalledFqCodel> {
        match self.queue {
            Some(Qdisc { handle: QUEUE, kind: QdiscKind::FqCodel(found), .. }) => Some(found),
            _ => None,
        }
    }

    /// Whether another queue in the place of this one would lose packets.
    fn has_waiting(&self) -> bool {
        self.root.as_ref().is_some_and(|root| is_our_tbf(root) && root.waiting > 0)
    }
}

/// What becomes of a bucket and its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The bucket is set, and has the queue that it has.
    Bucket,
    /// It gets an `fq_codel`, or keeps that; if there can be none, it does without if it may.
    FqCodel { is_needed: bool },
    /// It gets a queue of its own back.
    Fifo,
}

/// What to do where there is `held` and `queue` is asked for.
fn change(held: &Held, queue: QueueKind) -> Change {
    let has_fq_codel = held.fq_codel().is_some();
    match queue {
        QueueKind::FqCodel => Change::FqCodel { is_needed: true },
        _ if held.is_foreign() => Change::Bucket,
        QueueKind::Fifo => Change::Fifo,
        // Packets that wait in the queue of before would be lost; the next ADD may find none.
        QueueKind::Best if held.has_waiting() && !has_fq_codel => Change::Bucket,
        QueueKind::Best => Change::FqCodel { is_needed: false },
    }
}

/// Limits a link as wanted.
pub(super) fn set(
    host: &mut Host,
    link: &Link,
    held: &Held,
    wanted: Limiter,
) -> Result<(), CniError> {
    let change = change(held, wanted.queue);
    if change == (Change::FqCodel { is_needed: true }) && held.is_foreign() {
        return Err(foreign_queue(link));
    }
    let is_replaced = match change {
        Change::Bucket => false,
        Change::FqCodel { .. } => held.fq_codel().is_none(),
        Change::Fifo => held.fq_codel().is_some(),
    };
    if is_replaced && held.has_waiting() {
        drain(host, link, wanted.tbf.rate)?;
    }
    let index = link.index;
    let outcome = match change {
        Change::Bucket => host.kernel.set_tbf(index, HANDLE, wanted.tbf),
        Change::Fifo => host.kernel.set_tbf_alone(index, HANDLE, wanted.tbf),
        Change::FqCodel { is_needed } => {
            let otherwise = (!is_needed).then_some(wanted.tbf);
            let (tbf, queue) = wanted.with_fq_codel();
            host.kernel.set_tbf_with(index, HANDLE, tbf, (QUEUE, queue), otherwise)
        }
    };
    outcome.map_err(refused(|| format!("limit what {} sends", link.name)))
}

fn foreign_queue(link: &Link) -> CniError {
    let name = &link.name;
    CniError::new(
        ErrorCode::Kernel,
        format!(
            "the limit of {name} has a queue that another program set up: remove it (tc qdisc del dev {name} \
             parent {HANDLE:x}:1) or remove \"queue\""
        ),
    )
}

/// Puts back what was there.
pub(super) fn restore(host: &mut Host, link: &Link, held: &Held) -> Result<(), CniError> {
    let Some(Qdisc { kind: QdiscKind::Tbf(tbf), .. }) = held.root else { return Ok(()) };
    let tbf = tbf.made_by();
    let outcome = match held.fq_codel() {
        Some(queue) => {
            let queue = (QUEUE, queue.made_by());
            host.kernel.set_tbf_with(link.index, HANDLE, tbf, queue, None)
        }
        None if held.is_foreign() => host.kernel.set_tbf(link.index, HANDLE, tbf),
        None => host.kernel.set_tbf_alone(link.index, HANDLE, tbf),
    };
    outcome.map_err(refused(|| format!("limit {} as before", link.name)))
}

/// What is not as wanted.
pub(super) fn mismatch(name: &str, held: &Held, wanted: Limiter) -> Option<String> {
    let Some(Qdisc { kind: QdiscKind::Tbf(found), .. }) = held.root else {
        return Some(format!("{name} has no limit"));
    };
    let (with_queue, queue) = wanted.with_fq_codel();
    let is_limit = wanted.tbf.is(found) || with_queue.is(found);
    if !is_limit {
        return Some(format!("the limit of {name} differs: {found:?} instead of {:?}", wanted.tbf));
    }
    match (wanted.queue, held.fq_codel()) {
        (QueueKind::Fifo, Some(_)) => Some(format!("the queue of {name} is fq_codel, not fifo")),
        (_, Some(found)) if !queue.is(found) => {
            Some(format!("the queue of {name} differs: {found:?} instead of {queue:?}"))
        }
        (QueueKind::FqCodel, None) => Some(format!("the queue of {name} is not fq_codel")),
        (_, None) if held.queue.is_none() && !wanted.tbf.is(found) => {
            Some(format!("the fq_codel of {name} is gone, and nothing passes"))
        }
        _ => None,
    }
}

/// The name of the queue that packets wait in, if they are limited.
pub(crate) fn queue_name(host: &mut Host, link: &Link) -> Result<&'static str, CniError> {
    Ok(match host.queue(link, HANDLE)?.map(|queue| queue.kind) {
        Some(QdiscKind::FqCodel(_)) => "fq_codel",
        Some(_) => "another program's",
        None => "fifo",
    })
}

/// Lets our bucket send all that waits for it.
pub(super) fn drain(host: &mut Host, link: &Link, rate: BytesPerSecond) -> Result<(), CniError> {
    /// What a link moves in no time.
    const OPEN: Tbf = Tbf {
        rate: BytesPerSecond(1 << 36),
        burst: Bytes(1 << 30),
        limit: Bytes(1 << 30),
        piece: None,
    };
    /// What a stack hands down in one piece, in bytes.
    const SEGMENT: u64 = 65_536;
    const MOST: Duration = Duration::from_secs(2);
    host.kernel
        .set_tbf(link.index, HANDLE, OPEN)
        .map_err(refused(|| format!("open {}", link.name)))?;
    // The first in its queue waits for as long as it was told before.
    let waits = Duration::from_micros(SEGMENT * 1_000_000 / rate.0.max(1));
    sleep((waits + Duration::from_millis(20)).min(MOST));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_common::kernel::tc::InstalledTbf;

    fn held(waiting: u32, queue: Option<Qdisc>) -> Held {
        let tbf = InstalledTbf::new(BytesPerSecond(1), 1, Bytes(1));
        Held { root: Some(Qdisc { handle: HANDLE, kind: QdiscKind::Tbf(tbf), waiting }), queue }
    }

    #[test]
    fn nobody_s_packets_are_lost_for_a_better_queue() {
        let netem = Qdisc { handle: 5, kind: QdiscKind::Other("netem".to_owned()), waiting: 0 };
        for (held, expected) in [
            (Held::default(), Change::FqCodel { is_needed: false }),
            (held(0, None), Change::FqCodel { is_needed: false }),
            (held(1, None), Change::Bucket),
            (held(0, Some(netem.clone())), Change::Bucket),
        ] {
            assert_eq!(change(&held, QueueKind::Best), expected, "{held:?}");
        }
        assert_eq!(change(&held(1, None), QueueKind::FqCodel), Change::FqCodel { is_needed: true });
        assert_eq!(change(&held(0, None), QueueKind::Fifo), Change::Fifo);
        assert_eq!(change(&held(0, Some(netem)), QueueKind::Fifo), Change::Bucket);
    }
}
