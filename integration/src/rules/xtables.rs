//! The matches of iptables that are in `nf_tables` as they were: structures of `<linux/netfilter/xt_*.h>`.

use super::packet::{Packet, STATE_NEW};

/// `RTN_LOCAL` of `<linux/rtnetlink.h>`, as a bit of a mask.
const LOCAL: u16 = 1 << 2;

/// Whether the packet is as a match of this name and content wants it; `None` if one cannot tell.
pub(super) fn matches(name: &str, info: &[u8], packet: &Packet) -> Option<bool> {
    match name {
        "comment" => Some(true),
        "conntrack" => conntrack(info, packet),
        "addrtype" => addrtype(info, packet),
        "tcp" | "udp" => port(name, info, packet),
        "multiport" => multiport(info, packet),
        _ => None,
    }
}

/// `struct xt_conntrack_mtinfo3`, where nothing but the state is asked for.
fn conntrack(info: &[u8], packet: &Packet) -> Option<bool> {
    const MATCH_FLAGS: usize = 146;
    const INVERT_FLAGS: usize = 148;
    const STATE_MASK: usize = 150;
    const ONLY_STATE: u16 = 1;
    /// `XT_CONNTRACK_STATE_DNAT`
    const DNAT: u16 = 1 << 7;
    if word(info, MATCH_FLAGS)? != ONLY_STATE {
        return None;
    }
    let dnat = if packet.is_dnat { DNAT } else { 0 };
    let state = u16::try_from(STATE_NEW).ok()? | dnat;
    let inverted = word(info, INVERT_FLAGS)? & ONLY_STATE != 0;
    Some((word(info, STATE_MASK)? & state != 0) != inverted)
}

/// `struct xt_addrtype_info_v1`, where nothing but the destination is asked for.
fn addrtype(info: &[u8], packet: &Packet) -> Option<bool> {
    const INVERT_DESTINATION: u16 = 2;
    let (source, destination, flags) = (word(info, 0)?, word(info, 2)?, word(info, 4)?);
    if source != 0 || flags & !INVERT_DESTINATION != 0 {
        return None;
    }
    let is_one = destination & LOCAL != 0;
    let inverted = flags & INVERT_DESTINATION != 0;
    if packet.is_local {
        return Some(is_one != inverted);
    }
    // Of another type, and of which the mask does not tell.
    (destination == LOCAL).then_some(inverted)
}

/// `struct xt_tcp` and `struct xt_udp`, where nothing but ports is asked for.
fn port(name: &str, info: &[u8], packet: &Packet) -> Option<bool> {
    const INVERT_DESTINATION: u8 = 2;
    if packet.protocol.to_string() != name {
        return Some(false);
    }
    let (flags, rest) =
        if name == "tcp" { (*info.get(11)?, info.get(8..11)?) } else { (*info.get(8)?, &[][..]) };
    let sources = word(info, 0)?..=word(info, 2)?;
    let is_plain = sources == (0..=u16::MAX) && rest.iter().all(|byte| *byte == 0);
    if !is_plain || flags & !INVERT_DESTINATION != 0 {
        return None;
    }
    let destinations = word(info, 4)?..=word(info, 6)?;
    Some(destinations.contains(&packet.destination_port) != (flags & INVERT_DESTINATION != 0))
}

/// `struct xt_multiport_v1`, for destinations.
fn multiport(info: &[u8], packet: &Packet) -> Option<bool> {
    const DESTINATION: u8 = 1;
    const PORTS: usize = 2;
    const MOST: usize = 15;
    const RANGE_FLAGS: usize = PORTS + 2 * MOST;
    const INVERT: usize = RANGE_FLAGS + MOST;
    if *info.first()? != DESTINATION {
        return None;
    }
    let count = usize::from(*info.get(1)?).min(MOST);
    let (mut found, mut at) = (false, 0);
    while at < count {
        let first = word(info, PORTS + 2 * at)?;
        let is_range = *info.get(RANGE_FLAGS + at)? != 0;
        at += usize::from(is_range);
        let last = if is_range { word(info, PORTS + 2 * at)? } else { first };
        found |= (first..=last).contains(&packet.destination_port);
        at += 1;
    }
    Some(found != (*info.get(INVERT)? != 0))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use cni_common::kernel::nft::L4Protocol;

    use super::*;

    fn packet(is_dnat: bool, is_local: bool) -> Packet {
        Packet {
            source: None,
            destination: "10.88.1.2".parse().expect("an address"),
            is_any_destination: false,
            protocol: L4Protocol::Tcp,
            destination_port: 8080,
            input: None,
            output: None,
            is_dnat,
            is_local,
        }
    }

    /// A structure of zeros with these words at these offsets.
    fn info(len: usize, words: &[(usize, u16)]) -> Vec<u8> {
        let mut info = vec![0; len];
        for (at, word) in words {
            info[*at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        info
    }

    #[test]
    fn states_of_a_first_packet() {
        const ESTABLISHED: u16 = 2;
        let asks = |flags, mask| info(164, &[(146, flags), (150, mask)]);
        let is = |info: &[u8], is_dnat| matches("conntrack", info, &packet(is_dnat, false));
        assert_eq!(is(&asks(1, ESTABLISHED | 4), true), Some(false));
        assert_eq!(is(&asks(1, 8), false), Some(true));
        assert_eq!(is(&asks(1, 1 << 7), true), Some(true));
        assert_eq!(is(&asks(1, 1 << 7), false), Some(false));
        // By status, protocol or address: not told.
        assert_eq!(is(&asks(3, 8), false), None);
        assert_eq!(is(&[], false), None);
    }

    #[test]
    fn ports() {
        let all = |words: &[(usize, u16)]| info(12, &[&[(2, u16::MAX)], words].concat());
        let tcp = |info: &[u8]| matches("tcp", info, &packet(false, true));
        assert_eq!(tcp(&all(&[(4, 8000), (6, 8100)])), Some(true));
        assert_eq!(tcp(&all(&[(4, 80), (6, 80)])), Some(false));
        // Flags of TCP are asked for.
        assert_eq!(tcp(&all(&[(4, 8080), (6, 8080), (8, 0x0200)])), None);
        assert_eq!(matches("udp", &all(&[]), &packet(false, true)), Some(false));

        let mut several =
            info(48, &[(0, u16::from_ne_bytes([1, 3])), (2, 22), (4, 8000), (6, 9000)]);
        several[2 + 2 * 15 + 1] = 1;
        let is = |info: &[u8]| matches("multiport", info, &packet(false, true));
        assert_eq!(is(&several), Some(true));
        several[2 + 2 * 15 + 15] = 1;
        assert_eq!(is(&several), Some(false));
        several[0] = 0;
        assert_eq!(is(&several), None);
    }

    #[test]
    fn types_of_the_destination() {
        let is = |destination, flags, is_local| {
            let info = info(8, &[(2, destination), (4, flags)]);
            matches("addrtype", &info, &packet(false, is_local))
        };
        assert_eq!(is(LOCAL, 0, true), Some(true));
        assert_eq!(is(LOCAL, 0, false), Some(false));
        assert_eq!(is(LOCAL, 2, false), Some(true));
        assert_eq!(is(8, 0, false), None);
        assert_eq!(matches("recent", &[], &packet(false, false)), None);
    }
}
