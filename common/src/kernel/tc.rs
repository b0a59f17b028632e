//! Traffic control: token bucket filters (TBF), clsact qdiscs and u32 filters (rtnetlink).
//!
//! What is sent and what is read is built and parsed by pure functions; [`Tc`] only carries it.
//! The crate's types serve where they are complete; TBF is missing there.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE,
};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMirror, TcMirrorActionType, TcOption,
    TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use nix::errno::Errno;

use crate::kernel::attributes::{Attributes, word};
use crate::kernel::link::Links;
use crate::kernel::rtnetlink::{Rtnetlink, RtnetlinkError};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;

const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;

const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

const CLSACT: &str = "clsact";
const INGRESS: &str = "ingress";
const TBF: &str = "tbf";
const U32: &str = "u32";
const MIRRED: &str = "mirred";

/// Nanoseconds per tick of the packet scheduler: `PSCHED_SHIFT` is 6 in every kernel since 2.6.36.
const TICK_SHIFT: u32 = 6;

/// A rate as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BytesPerSecond(pub u64);

/// An amount that the kernel keeps in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u32);

/// A token bucket filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tbf {
    /// How fast the bucket fills.
    pub rate: BytesPerSecond,
    /// The size of the bucket.
    pub burst: Bytes,
    /// The length of the queue in front of it.
    pub limit: Bytes,
}

/// A token bucket filter as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstalledTbf {
    /// How fast the bucket fills.
    pub rate: BytesPerSecond,
    /// The time the bucket takes to fill, in scheduler ticks, modulo 2^32.
    pub burst_ticks: u32,
    /// The length of the queue.
    pub limit: Bytes,
}

/// A queueing discipline (qdisc).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// Its handle's major number; 0 if the kernel chose the qdisc by itself.
    pub handle: u16,
    /// What it is.
    pub kind: QdiscKind,
}

/// The kinds that the plugins tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QdiscKind {
    /// Token bucket filter.
    Tbf(InstalledTbf),
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

/// Which address of a packet a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The sender's.
    Source,
    /// The receiver's.
    Destination,
}

/// The packets that a filter means.
///
/// Linux takes the tag off a frame that it receives and keeps it beside the packet. For filters,
/// the tag's `EtherType` is then the protocol, though what they see is what the tag was put on.
/// u32 cannot see the tag itself, so its VLAN ID and priority may be any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Every frame of every protocol.
    Everything,
    /// Every frame of this `EtherType`, which may be that of a tag.
    EtherType(u16),
    /// Untagged packets with an address in this subnet.
    Subnet(Side, IpNet),
    /// Packets with an address in this subnet that have one 802.1Q tag.
    TaggedSubnet(Side, IpNet),
    /// Frames with an 802.1Q tag that was put on a frame of this `EtherType`.
    TaggedEtherType(u16),
}

/// The `EtherType` of an 802.1Q tag, which makes a VLAN, or with VLAN ID 0 only a priority.
pub const ETH_P_8021Q: u16 = 0x8100;
/// The `EtherType` of an 802.1ad tag (a provider's VLAN).
pub const ETH_P_8021AD: u16 = 0x88a8;

/// What a filter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let the packet go on; later filters do not see it.
    Pass,
    /// Send the packet out by the link with this index instead.
    Redirect(u32),
}

/// A u32 filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Filters run from the lowest to the highest; all of one priority have one protocol.
    pub priority: u16,
    /// The packets it means.
    pub matches: Match,
    /// What happens to them.
    pub action: Action,
    /// The minor number of the filter's classid. A clsact qdisc has no classes, so
    /// whoever makes the filter can leave a number in it.
    pub class_minor: u16,
}

/// One 32-bit word that a u32 filter compares, at an offset from the network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The bits that count.
    pub mask: u32,
    /// Their values.
    pub value: u32,
    /// In bytes.
    pub offset: i32,
}

/// A filter as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledFilter {
    /// Its priority.
    pub priority: u16,
    /// The `EtherType` it is for.
    pub protocol: u16,
    /// `u32`, `bpf`, …
    pub kind: String,
    /// The words it compares, if it is u32.
    pub words: Vec<Word>,
    /// What it does, if it is something that [`Action`] can say.
    pub action: Option<Action>,
    /// The minor number of its classid.
    pub class_minor: u16,
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
        // What is asked for is sent as a notification, which goes to the asker only as an echo.
        let outcome = self
            .rtnetlink
            .request(RTM_GETQDISC, NLM_F_ECHO, query, |payload| qdisc = parse_qdisc(payload));
        match outcome {
            Ok(()) => Ok(qdisc),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a TBF the root qdisc of a link, or changes the one with this handle in place.
    pub fn set_tbf(&mut self, link: u32, handle: u16, tbf: Tbf) -> Result<(), RtnetlinkError> {
        self.send(tbf_request(link, handle, tbf))
    }

    /// Gives a link a clsact qdisc: a hook for what comes in, and one for what goes out.
    pub fn add_clsact(&mut self, link: u32) -> Result<(), RtnetlinkError> {
        self.send(Request { flags: CREATE, ..clsact_request(RTM_NEWQDISC, link, CLSACT) })
    }

    /// Takes the clsact or ingress qdisc away, with all its filters.
    pub fn delete_clsact(&mut self, link: u32, kind: &QdiscKind) -> Result<(), RtnetlinkError> {
        let name = if *kind == QdiscKind::Clsact { CLSACT } else { INGRESS };
        unless_missing(self.send(clsact_request(RTM_DELQDISC, link, name)))
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

    /// Adds a filter.
    pub fn add_filter(
        &mut self,
        link: u32,
        hook: Hook,
        filter: &Filter,
    ) -> Result<(), RtnetlinkError> {
        self.send(filter_request(link, hook, filter))
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

    fn send(&mut self, request: Request) -> Result<(), RtnetlinkError> {
        let Request { kind, flags, message } = request;
        self.rtnetlink.request(kind, flags | NLM_F_ACK, message, |_| {})
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

impl Match {
    /// The `EtherType` of the packets.
    #[must_use]
    pub fn protocol(self) -> u16 {
        const ETH_P_ALL: u16 = 0x0003;
        match self {
            Self::Everything => ETH_P_ALL,
            Self::EtherType(ethertype) => ethertype,
            Self::Subnet(_, subnet) => ethertype(subnet),
            Self::TaggedSubnet(..) | Self::TaggedEtherType(_) => ETH_P_8021Q,
        }
    }

    /// The words that say it in u32's terms; never none, because u32 wants one.
    #[must_use]
    pub fn words(self) -> Vec<Word> {
        const ANYTHING: Word = Word { mask: 0, value: 0, offset: 0 };
        let words = match self {
            Self::Everything | Self::EtherType(_) => Vec::new(),
            Self::Subnet(side, subnet) => address_words(side, subnet),
            Self::TaggedSubnet(side, subnet) => {
                let mut words = vec![ethertype_word(ethertype(subnet))];
                words.extend(address_words(side, subnet));
                words
            }
            Self::TaggedEtherType(ethertype) => vec![ethertype_word(ethertype)],
        };
        if words.is_empty() { vec![ANYTHING] } else { words }
    }
}

fn ethertype(subnet: IpNet) -> u16 {
    match subnet {
        IpNet::V4(_) => 0x0800,
        IpNet::V6(_) => 0x86dd,
    }
}

/// The last two bytes before the network header, and two of the sender's hardware address.
fn ethertype_word(ethertype: u16) -> Word {
    Word { mask: 0xffff, value: ethertype.into(), offset: -4 }
}

fn address_words(side: Side, subnet: IpNet) -> Vec<Word> {
    let (offset, mask, value) = match (subnet.netmask(), subnet.network()) {
        (IpAddr::V4(mask), IpAddr::V4(value)) => {
            (if side == Side::Source { 12 } else { 16 }, words_v4(mask), words_v4(value))
        }
        (mask, value) => {
            (if side == Side::Source { 8 } else { 24 }, words_v6(mask), words_v6(value))
        }
    };
    let words = (0..).step_by(4).zip(mask.into_iter().zip(value));
    words
        .map(|(at, (mask, value))| Word { mask, value, offset: offset + at })
        .filter(|word| word.mask != 0)
        .collect()
}

fn words_v4(address: Ipv4Addr) -> Vec<u32> {
    vec![address.to_bits()]
}

fn words_v6(address: IpAddr) -> Vec<u32> {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
    .to_bits();
    #[expect(clippy::cast_possible_truncation, reason = "one 32-bit word at a time")]
    [96, 64, 32, 0].iter().map(|shift| (bits >> shift) as u32).collect()
}

impl InstalledFilter {
    /// Whether this is `filter`, whatever its classid.
    #[must_use]
    pub fn is(&self, filter: &Filter) -> bool {
        self.kind == U32
            && self.priority == filter.priority
            && self.protocol == filter.matches.protocol()
            && self.words == filter.matches.words()
            && self.action == Some(filter.action)
    }
}

impl Tbf {
    /// The ticks that the kernel reports for this bucket, computed as it does
    /// (`psched_ratecfg_precompute`, `psched_l2t_ns`), without a wrap.
    #[must_use]
    pub fn burst_ticks(self) -> u128 {
        let (mult, shift) = reciprocal(self.rate.0.max(1));
        ((u128::from(self.burst.0) * u128::from(mult)) >> shift) >> TICK_SHIFT
    }

    /// Whether an installed bucket is this one. Ticks count modulo 2^32, and a kernel may round
    /// them in its own way by a millionth.
    #[must_use]
    pub fn is(self, installed: InstalledTbf) -> bool {
        let ticks = self.burst_ticks();
        #[expect(clippy::cast_possible_truncation, reason = "the kernel's own truncation")]
        let distance = (ticks as u32).wrapping_sub(installed.burst_ticks).cast_signed();
        let slack = 1 + ticks / 1_000_000;
        self.rate == installed.rate
            && self.limit == installed.limit
            && u128::from(distance.unsigned_abs()) <= slack
    }
}

/// A rate as the multiplication and shift that turn bytes into nanoseconds.
fn reciprocal(rate: u64) -> (u64, u32) {
    let (mut factor, mut shift) = (1_000_000_000_u64, 0);
    loop {
        let mult = factor / rate;
        if mult & (1 << 31) != 0 || factor & (1 << 63) != 0 {
            return (mult, shift);
        }
        factor <<= 1;
        shift += 1;
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
    let mut options = vec![
        DefaultNla::new(TCA_TBF_PARMS, tbf_parameters(tbf)),
        DefaultNla::new(TCA_TBF_BURST, tbf.burst.0.to_ne_bytes().to_vec()),
    ];
    if u32::try_from(tbf.rate.0).is_err() {
        options.push(DefaultNla::new(TCA_TBF_RATE64, tbf.rate.0.to_ne_bytes().to_vec()));
    }
    message.attributes = vec![
        TcAttribute::Kind(TBF.to_owned()),
        TcAttribute::Options(options.into_iter().map(TcOption::Other).collect()),
    ];
    Request { kind: RTM_NEWQDISC, flags: NLM_F_CREATE | NLM_F_REPLACE, message }
}

/// `struct tc_tbf_qopt`. The size of the bucket in ticks is for kernels that do not know
/// `TCA_TBF_BURST` (before 3.14); it is counted as `tc` does, in whole microseconds of 32-bit rates.
fn tbf_parameters(tbf: Tbf) -> Vec<u8> {
    /// Log2 of the cell size, `LINKLAYER_ETHERNET`, overhead, cell alignment, minimal packet size.
    /// Ethernet keeps the kernel from guessing the link layer from a table of costs, so that none
    /// has to be sent.
    const SPECIFICATION: [u8; 8] = [3, 1, 0, 0, 0xff, 0xff, 0, 0];
    let rate = u32::try_from(tbf.rate.0).unwrap_or(u32::MAX);
    let micros = u64::from(tbf.burst.0) * 1_000_000 / u64::from(rate.max(1));
    let ticks = u32::try_from((micros * 1000) >> TICK_SHIFT).unwrap_or(u32::MAX);
    let mut bytes = SPECIFICATION.to_vec();
    bytes.extend(rate.to_ne_bytes());
    bytes.extend([0; 12]); // No peak rate.
    bytes.extend(tbf.limit.0.to_ne_bytes());
    bytes.extend(ticks.to_ne_bytes());
    bytes.extend([0; 4]); // No bucket for the peak rate.
    bytes
}

fn clsact_request(kind: u16, link: u32, name: &str) -> Request {
    let handle = TcHandle { major: u16::MAX, minor: 0 };
    let mut message = message(link, handle, TcHandle::INGRESS);
    message.attributes = vec![TcAttribute::Kind(name.to_owned())];
    Request { kind, flags: 0, message }
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

fn filter_request(link: u32, hook: Hook, filter: &Filter) -> Request {
    let mut message = filters_message(link, hook, filter.priority);
    message.header.info |= u32::from(filter.matches.protocol().to_be());
    let class = TcHandle { major: 1, minor: filter.class_minor };
    let mut options = vec![TcFilterU32Option::ClassId(class)];
    if let Action::Redirect(target) = filter.action {
        options.push(TcFilterU32Option::Action(vec![redirect(target)]));
    }
    options.push(TcFilterU32Option::Selector(selector(&filter.matches.words())));
    message.attributes = vec![
        TcAttribute::Kind(U32.to_owned()),
        TcAttribute::Options(options.into_iter().map(TcOption::U32).collect()),
    ];
    Request { kind: RTM_NEWTFILTER, flags: CREATE, message }
}

fn selector(words: &[Word]) -> TcU32Selector {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    // At most five: an `EtherType` and an IPv6 address.
    selector.nkeys = u8::try_from(words.len()).unwrap_or(u8::MAX);
    selector.keys = words.iter().map(key).collect();
    selector
}

fn key(word: &Word) -> TcU32Key {
    let mut key = TcU32Key::default();
    key.mask = word.mask;
    key.val = word.value;
    key.off = word.offset;
    key
}

fn redirect(target: u32) -> TcAction {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = target;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(MIRRED.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    action
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
        TBF => QdiscKind::Tbf(parse_tbf(&attributes.nested(TCA_OPTIONS)?)?),
        INGRESS => QdiscKind::Ingress,
        CLSACT => QdiscKind::Clsact,
        other => QdiscKind::Other(other.to_owned()),
    };
    Some(Qdisc { handle: TcHandle::from(handle).major, kind })
}

fn parse_tbf(options: &Attributes<'_>) -> Option<InstalledTbf> {
    let parameters = options.get(TCA_TBF_PARMS)?;
    let rate64 = options.get(TCA_TBF_RATE64).and_then(|bytes| bytes.try_into().ok());
    let rate = rate64.map(u64::from_ne_bytes).or(word(parameters, 8).map(u64::from))?;
    Some(InstalledTbf {
        rate: BytesPerSecond(rate),
        limit: Bytes(word(parameters, 24)?),
        burst_ticks: word(parameters, 28)?,
    })
}

/// `None` for the parts of a classifier that are no filter themselves, such as hash tables.
fn parse_filter(payload: &[u8]) -> Option<InstalledFilter> {
    let ([_, handle, _, info], attributes) = parse_message(payload)?;
    let kind = attributes.text(TCA_KIND)?;
    let options = attributes.nested(TCA_OPTIONS);
    if handle == 0 || (kind == U32 && options.as_ref()?.get(TCA_U32_SEL).is_none()) {
        return None;
    }
    let options = options.filter(|_| kind == U32).unwrap_or_default();
    let class = options.word(TCA_U32_CLASSID);
    #[expect(clippy::cast_possible_truncation, reason = "priority and protocol are the two halves")]
    let (priority, protocol) = ((info >> 16) as u16, u16::from_be(info as u16));
    Some(InstalledFilter {
        priority,
        protocol,
        words: options.get(TCA_U32_SEL).map(parse_words).unwrap_or_default(),
        action: parse_action(&kind, &options),
        class_minor: class.map_or(0, |class| TcHandle::from(class).minor),
        kind,
    })
}

fn parse_words(selector: &[u8]) -> Vec<Word> {
    let keys = selector.get(16..).unwrap_or_default().chunks_exact(16);
    let parse = |key: &[u8]| {
        Some(Word {
            mask: u32::from_be(word(key, 0)?),
            value: u32::from_be(word(key, 4)?),
            offset: word(key, 8)?.cast_signed(),
        })
    };
    keys.filter_map(parse).collect()
}

fn parse_action(kind: &str, options: &Attributes<'_>) -> Option<Action> {
    const EGRESS_REDIRECT: u32 = 1;
    const STOLEN: u32 = 4;
    if kind != U32 {
        return None;
    }
    let Some(actions) = options.nested(TCA_U32_ACT) else { return Some(Action::Pass) };
    // The first decides: a stolen packet meets no second.
    let action = Attributes::parse(actions.first()?)?;
    if action.text(TCA_ACT_KIND)? != MIRRED {
        return None;
    }
    let details = action.nested(TCA_ACT_OPTIONS)?;
    let parameters = details.get(TCA_MIRRED_PARMS)?;
    let (action, direction) = (word(parameters, 8)?, word(parameters, 20)?);
    let target = word(parameters, 24)?;
    (action == STOLEN && direction == EGRESS_REDIRECT).then_some(Action::Redirect(target))
}

#[cfg(test)]
#[path = "tc_tests.rs"]
mod tests;
