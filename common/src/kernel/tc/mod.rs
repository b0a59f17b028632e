//! Traffic control: token bucket filters (TBF) and the queues inside them, clsact qdiscs and u32 filters
//! (rtnetlink).
//!
//! What is sent and what is read is built and parsed by pure functions; [`Tc`] only carries it.
//! The crate's types serve where they are complete; TBF and what is written of `fq_codel` are missing there.

mod filter;
mod fq_codel;
mod tbf;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption};
use nix::errno::Errno;

use crate::kernel::attributes::{Attributes, word};
use crate::kernel::link::Links;
use crate::kernel::rtnetlink::{Bundle, Rtnetlink, RtnetlinkError};
use filter::U32;

pub use filter::{Action, ETH_P_8021AD, ETH_P_8021Q, Filter, InstalledFilter, Match, Side, Word};
pub use fq_codel::{FqCodel, InstalledFqCodel, Microseconds};
pub use tbf::{Bytes, BytesPerSecond, InstalledTbf, PEAK, Tbf};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;

const CLSACT: &str = "clsact";
const INGRESS: &str = "ingress";
const TBF: &str = "tbf";
const SCH_TBF: &str = "sch_tbf";
const FQ_CODEL: &str = "fq_codel";
/// The module that has it.
pub const SCH_FQ_CODEL: &str = "sch_fq_codel";

/// A queueing discipline (qdisc).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// Its handle's major number; 0 if the kernel chose the qdisc by itself.
    pub handle: u16,
    /// What it is.
    pub kind: QdiscKind,
    /// How many packets wait in it.
    pub waiting: u32,
}

/// The kinds that the plugins tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QdiscKind {
    /// Token bucket filter.
    Tbf(InstalledTbf),
    /// A queue for each flow.
    FqCodel(InstalledFqCodel),
    /// Filters for what comes in.
    Ingress,
    /// Filters for what comes in and what goes out.
    Clsact,
    /// Any other, by its name.
    Other(String),
}

/// Where on a link a filter sees packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// As they come in from the link.
    Ingress,
    /// As they go out to the link.
    Egress,
}

/// A change of what is at the hooks of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookChange {
    /// Gives the link a clsact qdisc: a hook for what comes in, and one for what goes out.
    AddClsact,
    /// Takes the clsact or ingress qdisc away, with all its filters.
    DeleteClsact(QdiscKind),
    /// Adds a u32 filter behind those of its priority.
    AddFilter(Hook, InstalledFilter),
    /// Removes every filter of one priority.
    DeleteFilters(Hook, u16),
}

impl HookChange {
    fn request(&self, link: u32) -> Request {
        match self {
            Self::AddClsact => {
                Request { flags: CREATE, ..clsact_request(RTM_NEWQDISC, link, CLSACT) }
            }
            Self::DeleteClsact(kind) => delete_clsact_request(link, kind),
            Self::AddFilter(hook, filter) => filter_request(link, *hook, filter),
            Self::DeleteFilters(hook, priority) => delete_filters_request(link, *hook, *priority),
        }
    }

    /// What became of it, by the kernel's answer.
    fn judge(&self, outcome: Result<(), RtnetlinkError>) -> Result<(), RtnetlinkError> {
        match self {
            Self::DeleteClsact(_) | Self::DeleteFilters(..) => unless_missing(outcome),
            Self::AddClsact => outcome.map_err(|error| error.without("sch_ingress", Errno::ENOENT)),
            Self::AddFilter(..) => outcome.map_err(|error| {
                let module = error.message.as_deref().and_then(module_of_filter);
                module.map_or(error.clone(), |module| error.without(module, Errno::ENOENT))
            }),
        }
    }
}

/// Traffic control in the calling thread's network namespace.
#[derive(Debug)]
pub struct Tc {
    rtnetlink: Rtnetlink,
}

impl Tc {
    /// Works by the socket that `links` has.
    #[must_use]
    pub fn beside(links: &Links) -> Self {
        Self { rtnetlink: links.rtnetlink() }
    }

    /// The root qdisc: that of what a link sends.
    pub fn root(&mut self, link: u32) -> Result<Option<Qdisc>, RtnetlinkError> {
        self.qdisc(message(link, TcHandle::UNSPEC, TcHandle::ROOT))
    }

    /// The clsact qdisc of a link, or the ingress qdisc that is in its place.
    pub fn clsact(&mut self, link: u32) -> Result<Option<Qdisc>, RtnetlinkError> {
        self.qdisc(message(link, TcHandle::UNSPEC, TcHandle::INGRESS))
    }

    fn qdisc(&mut self, query: TcMessage) -> Result<Option<Qdisc>, RtnetlinkError> {
        let mut qdisc = None;
        // What is asked for is sent as a notification, which goes to the asker only as an echo. Of the
        // kernel's own choice there is none; that nothing came, only the acknowledgement proves.
        let flags = NLM_F_ECHO | NLM_F_ACK;
        let outcome = self
            .rtnetlink
            .request(RTM_GETQDISC, flags, query, |payload| qdisc = parse_qdisc(payload));
        match outcome {
            Ok(()) => Ok(qdisc),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a TBF the root qdisc of a link, or changes the one with this handle in place.
    pub fn set_tbf(&mut self, link: u32, handle: u16, tbf: Tbf) -> Result<(), RtnetlinkError> {
        self.send(tbf_request(link, handle, tbf))
            .map_err(|error| error.without(SCH_TBF, Errno::ENOENT))
    }

    /// The same, with an `fq_codel` for its queue, in one datagram: made, or changed in place if `queue` is its
    /// handle already. If the kernel has none, the TBF is there all the same, and the error names the module.
    pub fn set_tbf_with(
        &mut self,
        link: u32,
        handle: u16,
        tbf: Tbf,
        (queue, fq_codel): (u16, FqCodel),
    ) -> Result<(), RtnetlinkError> {
        let requests =
            [tbf_request(link, handle, tbf), fq_codel_request(link, handle, queue, fq_codel)];
        let mut outcomes = self.send_all(requests)?.into_iter().zip([SCH_TBF, SCH_FQ_CODEL]);
        outcomes.try_for_each(|(outcome, module)| {
            outcome.map_err(|error| error.without(module, Errno::ENOENT))
        })
    }

    /// The same, with the queue that a TBF has by itself in the place of one that was given to it.
    pub fn set_tbf_alone(
        &mut self,
        link: u32,
        handle: u16,
        tbf: Tbf,
    ) -> Result<(), RtnetlinkError> {
        // A TBF without any queue makes its own as soon as it is changed.
        let requests = [delete_queue_request(link, handle), tbf_request(link, handle, tbf)];
        let mut outcomes = self.send_all(requests)?.into_iter();
        outcomes.next().map_or(Ok(()), unless_missing)?;
        outcomes.collect()
    }

    /// The queue that was given to a TBF. Of its own, and of none, nothing is said.
    pub fn queue(&mut self, link: u32, handle: u16) -> Result<Option<Qdisc>, RtnetlinkError> {
        self.qdisc(message(link, TcHandle::UNSPEC, inside(handle)))
    }

    /// Takes the clsact or ingress qdisc away, with all its filters.
    pub fn delete_clsact(&mut self, link: u32, kind: &QdiscKind) -> Result<(), RtnetlinkError> {
        unless_missing(self.send(delete_clsact_request(link, kind)))
    }

    /// Gives a link back the root qdisc that the kernel chooses.
    pub fn delete_root(&mut self, link: u32) -> Result<(), RtnetlinkError> {
        unless_missing(self.send(delete_root_request(link)))
    }

    /// The filters at a hook, in the order they run.
    pub fn filters(
        &mut self,
        link: u32,
        hook: Hook,
    ) -> Result<Vec<InstalledFilter>, RtnetlinkError> {
        const EINVAL: i32 = Errno::EINVAL as i32;
        let query = message(link, TcHandle::UNSPEC, hook.handle());
        match self.rtnetlink.dump(RTM_GETTFILTER, &query, parse_filter) {
            // What Linux says of a link without a clsact qdisc, and of egress at an ingress qdisc.
            Err(error) if error.is_missing() || error.errno == EINVAL => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    /// Changes what is at the hooks of a link, all in one datagram: who is killed has made all of it
    /// or nothing. What became of each is returned in its order.
    pub fn change_hooks(
        &mut self,
        link: u32,
        changes: &[HookChange],
    ) -> Result<Vec<Result<(), RtnetlinkError>>, RtnetlinkError> {
        let outcomes = self.send_all(changes.iter().map(|change| change.request(link)))?;
        Ok(changes.iter().zip(outcomes).map(|(change, outcome)| change.judge(outcome)).collect())
    }

    /// Removes every filter of one priority; none is no error.
    pub fn delete_filters(
        &mut self,
        link: u32,
        hook: Hook,
        priority: u16,
    ) -> Result<(), RtnetlinkError> {
        unless_missing(self.send(delete_filters_request(link, hook, priority)))
    }

    /// Sends all in one datagram. What became of each is returned in its order.
    fn send_all(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Vec<Result<(), RtnetlinkError>>, RtnetlinkError> {
        let mut bundle = Bundle::default();
        for Request { kind, flags, message } in requests {
            bundle.add(kind, flags, &message);
        }
        self.rtnetlink.request_all(bundle)
    }

    fn send(&mut self, request: Request) -> Result<(), RtnetlinkError> {
        let Request { kind, flags, message } = request;
        self.rtnetlink.request(kind, flags | NLM_F_ACK, message, |_| {})
    }
}

/// The module that the kernel lacks for a filter, by its words: the errno would be that of a missing link, too.
fn module_of_filter(words: &str) -> Option<&'static str> {
    match words {
        "TC classifier not found" => Some("cls_u32"),
        "Failed to load TC action module" => Some("act_mirred"),
        _ => None,
    }
}

fn unless_missing(outcome: Result<(), RtnetlinkError>) -> Result<(), RtnetlinkError> {
    match outcome {
        Err(error) if error.is_missing() => Ok(()),
        outcome => outcome,
    }
}

impl Hook {
    fn handle(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

/// What is sent, but for the flags that every request has.
#[derive(Debug)]
struct Request {
    kind: u16,
    flags: u16,
    message: TcMessage,
}

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

fn message(link: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = TcHeader {
        // The kernel's index is a positive `int`.
        index: link.cast_signed(),
        handle,
        parent,
        ..TcHeader::default()
    };
    message
}

fn tbf_request(link: u32, handle: u16, tbf: Tbf) -> Request {
    let handle = TcHandle { major: handle, minor: 0 };
    let mut message = message(link, handle, TcHandle::ROOT);
    message.attributes = vec![
        TcAttribute::Kind(TBF.to_owned()),
        TcAttribute::Options(tbf.options().into_iter().map(TcOption::Other).collect()),
    ];
    Request { kind: RTM_NEWQDISC, flags: NLM_F_CREATE | NLM_F_REPLACE, message }
}

/// A TBF's only class, which its queue hangs on.
fn inside(tbf: u16) -> TcHandle {
    TcHandle { major: tbf, minor: 1 }
}

fn fq_codel_request(link: u32, tbf: u16, handle: u16, queue: FqCodel) -> Request {
    let mut message = message(link, TcHandle { major: handle, minor: 0 }, inside(tbf));
    message.attributes = vec![
        TcAttribute::Kind(FQ_CODEL.to_owned()),
        TcAttribute::Options(queue.options().into_iter().map(TcOption::Other).collect()),
    ];
    Request { kind: RTM_NEWQDISC, flags: NLM_F_CREATE | NLM_F_REPLACE, message }
}

fn delete_queue_request(link: u32, tbf: u16) -> Request {
    let message = message(link, TcHandle::UNSPEC, inside(tbf));
    Request { kind: RTM_DELQDISC, flags: 0, message }
}

fn clsact_request(kind: u16, link: u32, name: &str) -> Request {
    let handle = TcHandle { major: u16::MAX, minor: 0 };
    let mut message = message(link, handle, TcHandle::INGRESS);
    message.attributes = vec![TcAttribute::Kind(name.to_owned())];
    Request { kind, flags: 0, message }
}

fn delete_clsact_request(link: u32, kind: &QdiscKind) -> Request {
    let name = if *kind == QdiscKind::Clsact { CLSACT } else { INGRESS };
    clsact_request(RTM_DELQDISC, link, name)
}

fn delete_root_request(link: u32) -> Request {
    let message = message(link, TcHandle::UNSPEC, TcHandle::ROOT);
    Request { kind: RTM_DELQDISC, flags: 0, message }
}

fn delete_filters_request(link: u32, hook: Hook, priority: u16) -> Request {
    let message = filters_message(link, hook, priority);
    Request { kind: RTM_DELTFILTER, flags: 0, message }
}

fn filters_message(link: u32, hook: Hook, priority: u16) -> TcMessage {
    let mut message = message(link, TcHandle::UNSPEC, hook.handle());
    message.header.info = u32::from(priority) << 16;
    message
}

fn filter_request(link: u32, hook: Hook, filter: &InstalledFilter) -> Request {
    let mut message = filters_message(link, hook, filter.priority);
    message.header.info |= u32::from(filter.protocol.to_be());
    message.attributes = vec![
        TcAttribute::Kind(U32.to_owned()),
        TcAttribute::Options(filter.options().into_iter().map(TcOption::U32).collect()),
    ];
    Request { kind: RTM_NEWTFILTER, flags: CREATE, message }
}

/// The four words after the family of a `struct tcmsg`, and the attributes.
fn parse_message(payload: &[u8]) -> Option<([u32; 4], Attributes<'_>)> {
    let (header, rest) = payload.split_at_checked(20)?;
    let word = |at: usize| word(header, at);
    Some(([word(4)?, word(8)?, word(12)?, word(16)?], Attributes::parse(rest)?))
}

fn parse_qdisc(payload: &[u8]) -> Option<Qdisc> {
    let ([_, handle, ..], attributes) = parse_message(payload)?;
    let kind = match attributes.text(TCA_KIND)?.as_str() {
        TBF => QdiscKind::Tbf(InstalledTbf::parse(&attributes.nested(TCA_OPTIONS)?)?),
        FQ_CODEL => QdiscKind::FqCodel(InstalledFqCodel::parse(&attributes.nested(TCA_OPTIONS)?)?),
        INGRESS => QdiscKind::Ingress,
        CLSACT => QdiscKind::Clsact,
        other => QdiscKind::Other(other.to_owned()),
    };
    let waiting = attributes.nested(TCA_STATS2).and_then(|stats| stats.word(TCA_STATS_QUEUE));
    Some(Qdisc { handle: TcHandle::from(handle).major, kind, waiting: waiting.unwrap_or_default() })
}

/// `None` for the parts of a classifier that are no filter themselves, such as hash tables.
fn parse_filter(payload: &[u8]) -> Option<InstalledFilter> {
    let ([_, handle, _, info], attributes) = parse_message(payload)?;
    if handle == 0 {
        return None;
    }
    InstalledFilter::parse(info, attributes.text(TCA_KIND)?, attributes.nested(TCA_OPTIONS))
}

#[cfg(test)]
mod tests;
