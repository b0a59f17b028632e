//! Whether two expression lists mean the same.
//!
//! What a version of nft makes of a listed rule need not be what we sent: it compares the first
//! byte of an address where a mask would do, and neighbouring fields in one go; and the kernel
//! adds defaults that nobody sent. So comparisons are broken down into single bytes, and everything
//! else is compared attribute by attribute.

use crate::kernel::attributes::{Attributes, be32, find, walk};

// enum nft_list_attributes, nft_expr_attributes, nft_data_attributes
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;

/// Whether `installed` means what `wanted` does.
pub(super) fn same_expressions(wanted: &[u8], installed: &[u8]) -> bool {
    is_listed_as_sent(wanted, installed) || has_same_steps(wanted, installed)
}

/// What nobody loaded anew, the kernel lists expression by expression as it was sent, but for the names
/// of sets without a name.
fn is_listed_as_sent(wanted: &[u8], installed: &[u8]) -> bool {
    let (mut wanted, mut installed) = (walk(wanted), walk(installed));
    loop {
        match (wanted.next(), installed.next()) {
            (None, None) => return true,
            (Some(Some((_, want))), Some(Some((_, have))))
                if want == have || same_expression(want, have) => {}
            _ => return false,
        }
    }
}

fn same_expression(wanted: &[u8], installed: &[u8]) -> bool {
    let ((Some(name), want), (Some(found), have)) = (parts(wanted), parts(installed)) else {
        return false;
    };
    name == found && same_attributes(name, want, have)
}

/// An expression's name and data.
fn parts(expression: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let (mut name, mut data) = (None, &[][..]);
    for (kind, value) in walk(expression).flatten() {
        match kind {
            EXPR_NAME => name = Some(value),
            EXPR_DATA => data = value,
            _ => {}
        }
    }
    (name, data)
}

fn has_same_steps(wanted: &[u8], installed: &[u8]) -> bool {
    let lists = (steps(wanted), steps(installed));
    let (Some(wanted), Some(installed)) = lists else { return false };
    wanted.len() == installed.len()
        && wanted.iter().zip(&installed).all(|(want, have)| want.is(have))
}

/// One thing that a rule does.
#[derive(Debug)]
enum Step<'a> {
    /// Goes on if these bits of a byte have this value.
    Equal(Byte<'a>),
    /// Goes on unless all these bytes have these values.
    Differ(Vec<Byte<'a>>),
    /// Anything else: an expression's name and data.
    Other(&'a [u8], &'a [u8]),
}

/// A byte of a packet or of what the kernel knows of it, and what it is compared with.
#[derive(Debug, PartialEq, Eq)]
struct Byte<'a> {
    source: Source<'a>,
    position: usize,
    mask: u8,
    value: u8,
}

/// Where a register's content comes from: the expression's name, and what identifies the source
/// within it (a header, a key).
type Source<'a> = (&'a [u8], &'a [u8]);

/// A register that was loaded and not used yet.
struct Load<'a> {
    register: &'a [u8],
    source: Source<'a>,
    /// Where in the source the register begins, in bytes.
    start: usize,
    mask: Option<&'a [u8]>,
    /// The expressions that made it so, in case that something else than a comparison uses it.
    raw: Vec<(&'a [u8], &'a [u8])>,
}

fn steps(list: &[u8]) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    let mut loads: Vec<Load<'_>> = Vec::new();
    for expression in walk(list) {
        let (name, data) = parts(expression?.1);
        let name = name?;
        let parts = Attributes::parse(data)?;
        let understood = match name {
            b"payload\0" | b"meta\0" | b"ct\0" => {
                load(name, data, &parts).map(|load| loads.push(load))
            }
            b"bitwise\0" => mask(&mut loads, data, &parts),
            b"cmp\0" => compare(&mut loads, &parts).map(|compared| steps.extend(compared)),
            _ => None,
        };
        if understood.is_none() {
            flush(&mut loads, &mut steps);
            steps.push(Step::Other(name, data));
        }
    }
    flush(&mut loads, &mut steps);
    Some(steps)
}

/// What fills a register.
fn load<'a>(name: &'a [u8], data: &'a [u8], parts: &Attributes<'a>) -> Option<Load<'a>> {
    // The first two attributes are the same in all three: enum nft_meta_attributes, nft_ct_attributes,
    // nft_payload_attributes.
    const DESTINATION: u16 = 1;
    const KEY_OR_BASE: u16 = 2;
    const PAYLOAD_OFFSET: u16 = 3;
    const CT_DIRECTION: u16 = 3;
    let start = match name {
        b"payload\0" => be32(parts.get(PAYLOAD_OFFSET)?)? as usize,
        b"ct\0" if parts.get(CT_DIRECTION).is_some() => return None,
        _ => 0,
    };
    Some(Load {
        register: parts.get(DESTINATION)?,
        source: (name, parts.get(KEY_OR_BASE)?),
        start,
        mask: None,
        raw: vec![(name, data)],
    })
}

/// Masks a register in place; `None` if the expression does something else.
fn mask<'a>(loads: &mut [Load<'a>], data: &'a [u8], parts: &Attributes<'a>) -> Option<()> {
    const SOURCE: u16 = 1;
    const DESTINATION: u16 = 2;
    const MASK: u16 = 4;
    const XOR: u16 = 5;
    let register = parts.get(SOURCE)?;
    let load = loads.iter_mut().find(|load| load.register == register && load.mask.is_none())?;
    let mask = parts.nested(MASK)?.get(DATA_VALUE)?;
    let xor = parts.nested(XOR)?.get(DATA_VALUE)?;
    if parts.get(DESTINATION)? != register || xor.iter().any(|byte| *byte != 0) {
        return None;
    }
    load.mask = Some(mask);
    load.raw.push((b"bitwise\0", data));
    Some(())
}

/// The comparison of a register that was just loaded with constants.
fn compare<'a>(loads: &mut Vec<Load<'a>>, parts: &Attributes<'a>) -> Option<Vec<Step<'a>>> {
    const SOURCE: u16 = 1;
    const OPERATOR: u16 = 2;
    const DATA: u16 = 3;
    const EQUAL: u32 = 0;
    const DIFFERENT: u32 = 1;
    let register = parts.get(SOURCE)?;
    let operator = be32(parts.get(OPERATOR)?)?;
    let values = parts.nested(DATA)?.get(DATA_VALUE)?;
    let [load] = loads.as_slice() else { return None };
    if load.register != register || !matches!(operator, EQUAL | DIFFERENT) {
        return None;
    }
    let mask = |index: usize| load.mask.map_or(Some(u8::MAX), |mask| mask.get(index).copied());
    let mut bytes = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        // What no bit of is compared, is not compared.
        let mask = mask(index)?;
        if mask != 0 || *value != 0 {
            let (source, position) = (load.source, load.start + index);
            bytes.push(Byte { source, position, mask, value: *value });
        }
    }
    loads.clear();
    Some(match operator {
        EQUAL => bytes.into_iter().map(Step::Equal).collect(),
        _ => vec![Step::Differ(bytes)],
    })
}

fn flush<'a>(loads: &mut Vec<Load<'a>>, steps: &mut Vec<Step<'a>>) {
    let raw = loads.drain(..).flat_map(|load| load.raw);
    steps.extend(raw.map(|(name, data)| Step::Other(name, data)));
}

impl Step<'_> {
    fn is(&self, installed: &Self) -> bool {
        match (self, installed) {
            (Self::Equal(want), Self::Equal(have)) => want == have,
            (Self::Differ(want), Self::Differ(have)) => want == have,
            (Self::Other(name, want), Self::Other(installed_name, have)) => {
                name == installed_name && same_attributes(name, want, have)
            }
            _ => false,
        }
    }
}

/// Whether the two have the same attributes, but for defaults that only one of them spells out.
fn same_attributes(expression: &[u8], wanted: &[u8], installed: &[u8]) -> bool {
    let is_there = |(kind, want)| match find(installed, kind) {
        Some(have) => same_value(expression, kind, want, have),
        None => is_default(expression, kind, want),
    };
    let is_expected =
        |(kind, have)| find(wanted, kind).is_some() || is_default(expression, kind, have);
    walk(wanted).all(|attribute| attribute.is_some_and(is_there))
        && walk(installed).all(|attribute| attribute.is_some_and(is_expected))
}

const LOOKUP_SET: u16 = 1;
const LOOKUP_SET_ID: u16 = 4;
const NAT_FLAGS: u16 = 7;

fn same_value(expression: &[u8], kind: u16, wanted: &[u8], installed: &[u8]) -> bool {
    wanted == installed
        || match (expression, kind) {
            // The kernel numbers anonymous sets; their content cannot change.
            (b"lookup\0", LOOKUP_SET) => {
                wanted.starts_with(b"__set") && installed.starts_with(b"__set")
            }
            _ => false,
        }
}

/// Whether an attribute says what the kernel does without it.
fn is_default(expression: &[u8], kind: u16, value: &[u8]) -> bool {
    /// That there are addresses and ports to translate to.
    const MAP_IPS: u32 = 1;
    const PROTO_SPECIFIED: u32 = 1 << 1;
    match (expression, kind) {
        // A set's ID means something within its batch only.
        (b"lookup\0", LOOKUP_SET_ID) => true,
        (b"nat\0", NAT_FLAGS) => {
            be32(value).is_some_and(|flags| flags & !(MAP_IPS | PROTO_SPECIFIED) == 0)
        }
        _ => value.iter().all(|byte| *byte == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::expressions::rule_expressions;
    use super::super::{Family, KeyPart, L4Protocol, Operand, Rule, Selector, Statement};
    use super::*;
    use crate::kernel::ip::IpVersion;
    use netlink_packet_core::{DefaultNla, Emitable as _};

    fn ours(statements: Vec<Statement>) -> Vec<u8> {
        rule_expressions(Family::Ip, &Rule { chain: "c".to_owned(), statements, comment: None })
    }

    fn source_is(network: &str, negated: bool) -> Statement {
        let operand = Operand::Network(network.parse().expect("a network"));
        Statement::Match { selector: Selector::Ip4Source, negated, operand }
    }

    fn destination_is(network: &str) -> Statement {
        let operand = Operand::Network(network.parse().expect("a network"));
        Statement::Match { selector: Selector::Ip4Destination, negated: false, operand }
    }

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let nla = DefaultNla::new(kind, value.to_vec());
        let mut bytes = vec![0; nla.buffer_len()];
        nla.emit(&mut bytes);
        bytes
    }

    fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
        let name = nla(EXPR_NAME, &[name.as_bytes(), &[0]].concat());
        nla(1, &[name, nla(EXPR_DATA, &data.concat())].concat())
    }

    fn number(kind: u16, value: u32) -> Vec<u8> {
        nla(kind, &value.to_be_bytes())
    }

    fn load(offset: u32, length: u32) -> Vec<u8> {
        let data = [number(1, 1), number(2, 1), number(3, offset), number(4, length)];
        expression("payload", &data)
    }

    fn masked(mask: &[u8]) -> Vec<u8> {
        let length = u32::try_from(mask.len()).expect("short");
        let (mask, xor) = (nla(DATA_VALUE, mask), nla(DATA_VALUE, &vec![0; mask.len()]));
        let data = [number(1, 1), number(2, 1), number(3, length), nla(4, &mask), nla(5, &xor)];
        expression("bitwise", &data)
    }

    fn compared(operator: u32, value: &[u8]) -> Vec<u8> {
        expression("cmp", &[number(1, 1), number(2, operator), nla(3, &nla(DATA_VALUE, value))])
    }

    #[test]
    fn a_mask_of_whole_bytes_is_a_shorter_load() {
        for (operator, negated) in [(0, false), (1, true)] {
            let ours = ours(vec![source_is("127.0.0.0/8", negated)]);
            let long = [load(12, 4), masked(&[255, 0, 0, 0]), compared(operator, &[127, 0, 0, 0])];
            let short = [load(12, 1), compared(operator, &[127])];
            assert!(same_expressions(&ours, &long.concat()), "{negated}");
            assert!(same_expressions(&ours, &short.concat()), "{negated}");
            let other = [load(12, 1), compared(operator, &[126])];
            assert!(!same_expressions(&ours, &other.concat()), "{negated}");
            let opposite = [load(12, 1), compared(1 - operator, &[127])];
            assert!(!same_expressions(&ours, &opposite.concat()), "{negated}");
        }
    }

    #[test]
    fn neighbouring_fields_may_be_compared_in_one_go() {
        let ours = ours(vec![source_is("10.0.0.1/32", false), destination_is("10.0.0.2/32")]);
        let merged = [load(12, 8), compared(0, &[10, 0, 0, 1, 10, 0, 0, 2])];
        assert!(same_expressions(&ours, &merged.concat()));
        let other = [load(12, 8), compared(0, &[10, 0, 0, 1, 10, 0, 0, 3])];
        assert!(!same_expressions(&ours, &other.concat()));
        let less = [load(12, 4), compared(0, &[10, 0, 0, 1])];
        assert!(!same_expressions(&ours, &less.concat()));
    }

    #[test]
    fn a_negated_pair_is_not_two_negated_comparisons() {
        let merged = [load(12, 8), compared(1, &[10, 0, 0, 1, 10, 0, 0, 2])].concat();
        let two = ours(vec![source_is("10.0.0.1/32", true), source_is("10.0.0.2/32", true)]);
        assert!(!same_expressions(&two, &merged));
    }

    #[test]
    fn a_mask_within_a_byte_counts() {
        let ours = ours(vec![source_is("10.16.0.0/12", false)]);
        let exact = [load(12, 4), masked(&[255, 240, 0, 0]), compared(0, &[10, 16, 0, 0])];
        assert!(same_expressions(&ours, &exact.concat()));
        let wider = [load(12, 4), masked(&[255, 224, 0, 0]), compared(0, &[10, 0, 0, 0])];
        assert!(!same_expressions(&ours, &wider.concat()));
    }

    #[test]
    fn order_and_what_is_not_compared_count() {
        let lookup = |first| {
            let protocols = vec![L4Protocol::Tcp, L4Protocol::Udp];
            let mut statements = vec![Statement::ProtocolIn(protocols), Statement::Accept];
            if first {
                statements.insert(0, source_is("10.0.0.0/8", false));
            } else {
                statements.insert(1, source_is("10.0.0.0/8", false));
            }
            ours(statements)
        };
        assert!(same_expressions(&lookup(true), &lookup(true)));
        assert!(!same_expressions(&lookup(true), &lookup(false)));
        let marks = [Statement::MarkSet(1), Statement::MarkSet(2), Statement::MarkClear(1)];
        for (index, one) in marks.iter().enumerate() {
            for (other, two) in marks.iter().enumerate() {
                let same = same_expressions(&ours(vec![one.clone()]), &ours(vec![two.clone()]));
                assert_eq!(same, index == other);
            }
        }
    }

    #[test]
    fn what_the_kernel_adds_must_be_a_default() {
        const LOOKUP_FLAGS: u16 = 5;
        const RANDOM: u32 = 1 << 2;
        let source = KeyPart::from(Selector::Ip4Source);
        let lookup = ours(vec![Statement::InSet { key: vec![source], set: "s".to_owned() }]);
        let looked_up = |flags| {
            let data = [nla(LOOKUP_SET, b"s\0"), number(2, 1), number(LOOKUP_FLAGS, flags)];
            [load(12, 4), expression("lookup", &data)].concat()
        };
        assert!(same_expressions(&lookup, &looked_up(0)));
        assert!(!same_expressions(&lookup, &looked_up(1)), "\"!= @s\" is no \"@s\"");

        let (version, map) = (IpVersion::V4, "m".to_owned());
        let dnat = ours(vec![Statement::DnatByMap { version, key: vec![source], map }]);
        let translated = |flags| {
            let found = [nla(LOOKUP_SET, b"m\0"), number(2, 1), number(3, 1)];
            let nat = [(1, 1), (2, 2), (3, 1), (4, 1), (5, 9), (6, 9), (NAT_FLAGS, flags)];
            let nat = nat.map(|(kind, value)| number(kind, value));
            [load(12, 4), expression("lookup", &found), expression("nat", &nat)].concat()
        };
        assert!(same_expressions(&dnat, &translated(3)));
        assert!(!same_expressions(&dnat, &translated(3 | RANDOM)));

        let masquerade = ours(vec![Statement::Masquerade]);
        assert!(same_expressions(&masquerade, &expression("masq", &[])));
        assert!(!same_expressions(&masquerade, &expression("masq", &[number(1, RANDOM)])));
    }

    #[test]
    fn garbage_is_like_nothing() {
        let ours = ours(vec![Statement::Accept]);
        for garbage in [&b"\x01"[..], &[255; 40], &[]] {
            assert!(!same_expressions(&ours, garbage));
        }
    }
}
