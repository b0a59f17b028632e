//! u32 filters: which packets they mean and what becomes of those.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType,
    TcFilterU32Option, TcHandle, TcMirror, TcMirrorActionType, TcU32Key, TcU32Selector,
    TcU32SelectorFlags,
};

use crate::kernel::attributes::{Attributes, word};

const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;

const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

pub(super) const U32: &str = "u32";
const MIRRED: &str = "mirred";

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

    /// As the kernel takes it, if it is u32.
    pub(super) fn options(&self) -> Vec<TcFilterU32Option> {
        let class = TcHandle { major: 1, minor: self.class_minor };
        let mut options = vec![TcFilterU32Option::ClassId(class)];
        if let Some(Action::Redirect(target)) = self.action {
            options.push(TcFilterU32Option::Action(vec![redirect(target)]));
        }
        options.push(TcFilterU32Option::Selector(selector(&self.words)));
        options
    }

    /// None for the hash tables and the classifier that u32 lists among its filters.
    pub(super) fn parse(info: u32, kind: String, options: Option<Attributes<'_>>) -> Option<Self> {
        if kind == U32 && options.as_ref()?.get(TCA_U32_SEL).is_none() {
            return None;
        }
        let options = options.filter(|_| kind == U32).unwrap_or_default();
        let class = options.word(TCA_U32_CLASSID);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "priority and protocol are the two halves"
        )]
        let (priority, protocol) = ((info >> 16) as u16, u16::from_be(info as u16));
        Some(Self {
            priority,
            protocol,
            words: options.get(TCA_U32_SEL).map(parse_words).unwrap_or_default(),
            action: parse_action(&kind, &options),
            class_minor: class.map_or(0, |class| TcHandle::from(class).minor),
            kind,
        })
    }
}

impl From<&Filter> for InstalledFilter {
    fn from(filter: &Filter) -> Self {
        Self {
            priority: filter.priority,
            protocol: filter.matches.protocol(),
            kind: U32.to_owned(),
            words: filter.matches.words(),
            action: Some(filter.action),
            class_minor: filter.class_minor,
        }
    }
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
