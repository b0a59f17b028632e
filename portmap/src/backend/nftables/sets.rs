//! The sets and maps of the table `inet cni_portmap`, by their names. Pure.
//!
//! Conditions and a mark bit other than the default have maps of their own, because both gate every
//! mapping that is looked up behind them.

use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{DataType, Element, Elements, Set};

use crate::config::DEFAULT_MARK_BIT;
use crate::plan::Plan;

pub(super) use crate::host::TABLE;

/// What stands for the shared scope in [`claims`]; no gate has a name of this length.
const SHARED: &str = "shared";

/// What the names of masquerade sets begin with, and of their sources.
pub(super) const MASQUERADE: &str = "masquerade";
pub(super) const SOURCES: &str = "sources";

/// Digits of a gate's name.
const GATE_LEN: usize = 12;

/// The maps and chains that a mapping lives in, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// What its objects' names end in: empty for the shared scope.
    suffix: String,
    mark_bit: u8,
}

impl Scope {
    /// The scope of everything without conditions and with the default mark bit.
    pub(super) fn shared() -> Self {
        Self { suffix: String::new(), mark_bit: DEFAULT_MARK_BIT }
    }

    pub(super) fn of(plan: &Plan) -> Self {
        // At most 15 characters, as many as a name in `claims` may have.
        let suffix = match plan.gate() {
            None => String::new(),
            Some(gate) if plan.mark_bit == DEFAULT_MARK_BIT => format!("_{gate}"),
            Some(gate) => format!("_{gate}b{}", plan.mark_bit),
        };
        Self { suffix, mark_bit: plan.mark_bit }
    }

    /// Whether this is the scope that needs no chains of its own.
    pub(super) fn is_shared(&self) -> bool {
        self.suffix.is_empty()
    }

    /// `(host address, protocol, host port) -> (container address, container port)`
    pub(super) fn by_address(&self, version: IpVersion) -> Set {
        let name = format!("by_address{}{}", version.digit(), self.suffix);
        let key = vec![address_type(version), DataType::InetProto, DataType::InetService];
        map(name, version, key)
    }

    /// `(protocol, host port) -> (container address, container port)`
    pub(super) fn by_port(&self, version: IpVersion) -> Set {
        let name = format!("by_port{}{}", version.digit(), self.suffix);
        map(name, version, vec![DataType::InetProto, DataType::InetService])
    }

    /// `(source network, container address)`: sources of this prefix length that are masqueraded
    /// on their way to the container.
    pub(super) fn masquerade(&self, version: IpVersion, prefix_len: u8) -> Set {
        let bit = bit_suffix(self.mark_bit);
        let name = format!("{MASQUERADE}{}_{prefix_len}{bit}", version.digit());
        Set { name, key: vec![address_type(version); 2], data: vec![] }
    }

    /// `(source network)`: the networks of this prefix length that a masquerade set names. What comes
    /// from anywhere else needs no mark.
    pub(super) fn sources(&self, version: IpVersion, prefix_len: u8) -> Set {
        let bit = bit_suffix(self.mark_bit);
        let name = format!("{SOURCES}{}_{prefix_len}{bit}", version.digit());
        Set { name, key: vec![address_type(version)], data: vec![] }
    }

    /// The chain that looks up the sources of the mark bit, for all that is in the table.
    pub(super) fn sources_chain(&self) -> String {
        format!("{SOURCES}{}", self.bit_suffix())
    }

    /// The family and prefix length of a set of the scope's mark bit, whose name begins so.
    pub(super) fn prefix_of(&self, stem: &str, name: &str) -> Option<(IpVersion, u8)> {
        let rest = name.strip_prefix(stem)?.strip_suffix(&self.bit_suffix())?;
        let (digit, prefix_len) = rest.split_once('_')?;
        Some((version_of(digit)?, prefix_len.parse().ok()?))
    }

    /// Whether a masquerade set is one of the scope's mark bit.
    pub(super) fn masquerades_by(&self, name: &str) -> bool {
        name.find("_bit").map_or("", |position| &name[position..]) == self.bit_suffix()
    }

    /// `(container address, protocol, container port)`: where packets go that may carry our mark.
    pub(super) fn targets(&self, version: IpVersion) -> Set {
        let name = format!("targets{}{}", version.digit(), bit_suffix(self.mark_bit));
        let key = vec![address_type(version), DataType::InetProto, DataType::InetService];
        Set { name, key, data: vec![] }
    }

    /// How [`claims`] names the scope.
    pub(super) fn claim_name(&self) -> &str {
        self.suffix.strip_prefix('_').unwrap_or(SHARED)
    }

    /// The scope that [`claims`] names so.
    pub(super) fn named(claim_name: &str) -> Self {
        let suffix = if claim_name == SHARED { String::new() } else { format!("_{claim_name}") };
        Self::ending(&suffix)
    }

    /// The scope that a map of mappings is one of.
    pub(super) fn of_map(name: &str) -> Option<Self> {
        let stem = ["by_address", "by_port"].iter().find_map(|stem| name.strip_prefix(stem))?;
        Some(Self::ending(stem.strip_prefix(['4', '6'])?))
    }

    fn ending(suffix: &str) -> Self {
        // Behind the gate's digits.
        let bit = suffix.get(GATE_LEN + 1..).and_then(|rest| rest.strip_prefix('b'));
        let mark_bit = bit.and_then(|bit| bit.parse().ok()).unwrap_or(DEFAULT_MARK_BIT);
        Self { suffix: suffix.to_owned(), mark_bit }
    }

    pub(super) fn maps(&self) -> [Set; 4] {
        let [v4, v6] = IpVersion::ALL;
        [self.by_address(v4), self.by_port(v4), self.by_address(v6), self.by_port(v6)]
    }

    pub(super) fn mark(&self) -> u32 {
        1 << self.mark_bit
    }

    /// The name of a chain.
    pub(super) fn name(&self, stem: &str) -> String {
        format!("{stem}{}", self.suffix)
    }

    /// What the names of sets and chains end in that belong to the mark bit.
    pub(super) fn bit_suffix(&self) -> String {
        bit_suffix(self.mark_bit)
    }
}

/// Who has mappings: `short name of the owner -> number of elements it owns elsewhere`.
///
/// The element's existence makes a repeated ADD visible, and its count tells a DEL whether it
/// has found everything without reading the maps.
pub(super) fn attachments() -> Set {
    Set { name: "attachments".to_owned(), key: vec![DataType::IfName], data: vec![DataType::Mark] }
}

/// `(container address)`, owned by the newest attachment that has it: one that was given to another
/// container is nobody else's any more, whether that one's DEL came or not.
pub(super) fn addresses(version: IpVersion) -> Set {
    let name = format!("addresses{}", version.digit());
    Set { name, key: vec![address_type(version)], data: vec![] }
}

/// `(scope, host address, protocol, host port, order) -> (container address, container port)`: the
/// mappings that wait for a key that another attachment has. Empty where nothing conflicts.
pub(super) fn claims(version: IpVersion) -> Set {
    let key = vec![
        DataType::IfName,
        address_type(version),
        DataType::InetProto,
        DataType::InetService,
        DataType::Mark,
    ];
    map(format!("claims{}", version.digit()), version, key)
}

/// The sets that all scopes share.
pub(super) fn shared() -> Vec<Set> {
    let mut sets = vec![attachments()];
    sets.extend(IpVersion::ALL.map(addresses));
    sets.extend(IpVersion::ALL.map(claims));
    sets
}

/// The set that a name of ours stands for; `None` for one that an older or newer version made.
pub(super) fn by_name(name: &str) -> Option<Set> {
    if let Some(set) = shared().into_iter().find(|set| set.name == name) {
        return Some(set);
    }
    let named = |set: Set| Some(Set { name: name.to_owned(), ..set });
    let scope = Scope::shared();
    if let Some(rest) = name.strip_prefix("by_address") {
        return named(scope.by_address(version_of(rest)?));
    }
    if let Some(rest) = name.strip_prefix("by_port") {
        return named(scope.by_port(version_of(rest)?));
    }
    if let Some(rest) = name.strip_prefix("targets") {
        return named(scope.targets(version_of(rest)?));
    }
    let rest = name.strip_prefix(MASQUERADE)?;
    named(scope.masquerade(version_of(rest)?, 0))
}

/// The sources of a masquerade set.
pub(super) fn sources_beside(masquerade: &str) -> Option<String> {
    masquerade.strip_prefix(MASQUERADE).map(|rest| format!("{SOURCES}{rest}"))
}

/// One of [`Scope::sources`], of any mark bit.
pub(super) fn sources_by_name(name: &str) -> Option<Set> {
    let version = version_of(name.strip_prefix(SOURCES)?)?;
    Some(Set { name: name.to_owned(), ..Scope::shared().sources(version, 0) })
}

/// The sources of a masquerade set whose networks are single addresses.
pub(super) fn sources_of_addresses(masquerade: &str) -> Option<Set> {
    let rest = masquerade.strip_prefix(MASQUERADE)?;
    let prefix_len = rest.get(1..)?.strip_prefix('_')?.split('_').next()?;
    if prefix_len.parse() != Ok(version_of(rest)?.host_prefix()) {
        return None;
    }
    sources_by_name(&sources_beside(masquerade)?)
}

/// Adds an element to those of its set.
pub(super) fn put(elements: &mut Elements, set: Set, element: Element) {
    match elements.iter_mut().find(|(known, _)| *known == set) {
        Some((_, elements)) => elements.push(element),
        None => elements.push((set, vec![element])),
    }
}

/// The family whose digit a name goes on with.
fn version_of(rest: &str) -> Option<IpVersion> {
    IpVersion::ALL.into_iter().find(|version| rest.starts_with(version.digit()))
}

fn map(name: String, version: IpVersion, key: Vec<DataType>) -> Set {
    Set { name, key, data: vec![address_type(version), DataType::InetService] }
}

fn address_type(version: IpVersion) -> DataType {
    match version {
        IpVersion::V4 => DataType::Ipv4Addr,
        IpVersion::V6 => DataType::Ipv6Addr,
    }
}

fn bit_suffix(bit: u8) -> String {
    if bit == DEFAULT_MARK_BIT { String::new() } else { format!("_bit{bit}") }
}
