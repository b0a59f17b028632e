//! What is sent, against what `tc` sends; what is read back; the arithmetic, against exact one.

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, Emitable as _};
use proptest::prelude::*;

use super::*;
use crate::kernel::attributes::list as attributes;

const CAPTURE: &str = include_str!("capture.txt");
/// The links of the capture.
const V0: u32 = 3;
const I0: u32 = 4;
const NETLINK_HEADER: usize = 16;
/// `TCA_TBF_RTAB` and `TCA_TBF_PTAB`, the tables of costs for kernels before 3.8, which `tc` still sends. We do not.
const TABLES: [u16; 2] = [2, 3];

/// The message that `tc` sent for this command.
fn sent_by_tc(command: &str) -> Vec<u8> {
    let mut lines = CAPTURE.lines().skip_while(|line| *line != format!("tc {command}"));
    let digits = lines.nth(1).unwrap_or_else(|| panic!("no capture of tc {command}"));
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn body(message: &TcMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// Type, flags and everything after the header; the length is checked, the sequence number is not.
fn assert_same(request: &Request, tc: &[u8]) {
    let ours = body(&request.message);
    assert_eq!(tc[NETLINK_HEADER..], ours, "the message");
    assert_eq!(u16::from_ne_bytes([tc[4], tc[5]]), request.kind, "the type");
    // NLM_F_REQUEST and NLM_F_ACK are on every request.
    assert_eq!(u16::from_ne_bytes([tc[6], tc[7]]), request.flags | 5, "the flags");
}

/// `tc`'s message without the tables of costs.
fn without_tables(tc: &[u8]) -> Vec<u8> {
    let (head, rest) = tc.split_at(NETLINK_HEADER + 20);
    let mut bytes = head.to_vec();
    for (kind, value) in attributes(rest).expect("attributes") {
        let kept = |(kind, value): (u16, &[u8])| {
            (!TABLES.contains(&kind)).then(|| DefaultNla::new(kind, value.to_vec()))
        };
        let value = if kind == TCA_OPTIONS {
            let nested = attributes(value).expect("options");
            emitted(&nested.into_iter().filter_map(kept).collect::<Vec<_>>())
        } else {
            value.to_vec()
        };
        bytes.extend(emitted(&[DefaultNla::new(kind, value)]));
    }
    bytes
}

fn emitted(list: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; list.buffer_len()];
    list.emit(&mut bytes);
    bytes
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

#[test]
fn token_buckets_are_sent_as_by_tc() {
    for (command, rate, burst, limit) in [
        ("rate 8000000bps burst 10000 limit 50000", 8_000_000, 10_000, 50_000),
        // Past 32 bits, with the rate in 64.
        (
            "rate 5000000000bps burst 50000000 limit 175000000",
            5_000_000_000,
            50_000_000,
            175_000_000,
        ),
    ] {
        let tbf = Tbf {
            rate: BytesPerSecond(rate),
            burst: Bytes(burst),
            limit: Bytes(limit),
            piece: None,
        };
        let tc = sent_by_tc(&format!("qdisc replace dev v0 root handle b0: tbf {command}"));
        assert_same(&tbf_request(V0, 0xb0, tbf), &without_tables(&tc));
    }
}

#[test]
fn what_cuts_up_segments_is_sent_as_by_tc() {
    let (rate, piece) = (BytesPerSecond(125_000), Some(Bytes(1522)));
    let tbf = Tbf { rate, burst: Bytes(3044), limit: Bytes(10_653), piece };
    let tc = sent_by_tc(
        "qdisc replace dev v0 root handle b0: tbf rate 125000bps burst 3044 limit 10653 \
         peakrate 1000000000bps minburst 1522",
    );
    assert_same(&tbf_request(V0, 0xb0, tbf), &without_tables(&tc));
}

#[test]
fn queues_are_sent_as_by_tc() {
    let queue = FqCodel {
        target: Microseconds(18_264),
        interval: Microseconds(182_640),
        memory_limit: Bytes(65_536),
    };
    let command = "qdisc replace dev v0 parent b0:1 handle b1: fq_codel target 18264us \
                   interval 182640us memory_limit 65536 ecn";
    assert_same(&fq_codel_request(V0, 0xb0, 0xb1, queue), &sent_by_tc(command));
    let command = "qdisc del dev v0 parent b0:1";
    assert_same(&delete_queue_request(V0, 0xb0), &sent_by_tc(command));
}

#[test]
fn clsact_qdiscs_are_sent_as_by_tc() {
    let add = Request { flags: CREATE, ..clsact_request(RTM_NEWQDISC, V0, CLSACT) };
    assert_same(&add, &sent_by_tc("qdisc add dev v0 clsact"));
    for name in [CLSACT, INGRESS] {
        let tc = sent_by_tc(&format!("qdisc del dev v0 {name}"));
        assert_same(&clsact_request(RTM_DELQDISC, V0, name), &tc);
    }
    assert_same(&delete_root_request(V0), &sent_by_tc("qdisc del dev v0 root"));
}

#[test]
fn filters_are_sent_as_by_tc() {
    let subnet = |side, text| Match::Subnet(side, net(text));
    let redirect = Action::Redirect(I0);
    for (hook, command, priority, matches, action) in [
        (
            Hook::Ingress,
            "filter add dev v0 ingress protocol all prio 48387 u32 match u32 0 0 flowid 1:1 \
             action mirred egress redirect dev i0",
            48387,
            Match::Everything,
            redirect,
        ),
        (
            Hook::Ingress,
            "filter add dev v0 ingress protocol ip prio 48385 u32 match ip dst 10.0.0.0/8 flowid 1:1",
            48385,
            subnet(Side::Destination, "10.0.0.0/8"),
            Action::Pass,
        ),
        (
            Hook::Egress,
            "filter add dev v0 egress protocol ip prio 48385 u32 match ip src 192.168.4.0/22 \
             flowid 1:1 action mirred egress redirect dev i0",
            48385,
            // Host bits do not count.
            subnet(Side::Source, "192.168.5.1/22"),
            redirect,
        ),
        (
            Hook::Egress,
            "filter add dev v0 egress protocol ipv6 prio 48386 u32 match ip6 src fd00:1:2::/47 \
             flowid 1:1 action mirred egress redirect dev i0",
            48386,
            subnet(Side::Source, "fd00:1:2::/47"),
            redirect,
        ),
        (
            Hook::Ingress,
            "filter add dev v0 ingress protocol 802.1Q prio 48382 u32 match u32 0x0800 0xffff at -4 \
             match ip dst 10.0.0.0/8 flowid 1:1 action mirred egress redirect dev i0",
            48382,
            Match::TaggedSubnet(Side::Destination, net("10.0.0.0/8")),
            redirect,
        ),
        (
            Hook::Egress,
            "filter add dev v0 egress protocol 802.1Q prio 48398 u32 match u32 0x86dd 0xffff at -4 \
             match ip6 src fd00:1:2::/47 flowid 1:1",
            48398,
            Match::TaggedSubnet(Side::Source, net("fd00:1:2::/47")),
            Action::Pass,
        ),
        (
            Hook::Ingress,
            "filter add dev v0 ingress protocol 802.1Q prio 48382 u32 match u32 0x88a8 0xffff at -4 \
             flowid 1:1 action mirred egress redirect dev i0",
            48382,
            Match::TaggedEtherType(ETH_P_8021AD),
            redirect,
        ),
        (
            Hook::Ingress,
            "filter add dev v0 ingress protocol 802.1ad prio 48383 u32 match u32 0 0 flowid 1:1 \
             action mirred egress redirect dev i0",
            48383,
            Match::EtherType(ETH_P_8021AD),
            redirect,
        ),
    ] {
        let filter = Filter { priority, matches, action, class_minor: 1 };
        assert_same(&filter_request(V0, hook, &(&filter).into()), &sent_by_tc(command));
    }
    let tc = sent_by_tc("filter del dev v0 ingress prio 48385");
    assert_same(&delete_filters_request(V0, Hook::Ingress, 48385), &tc);
}

#[test]
fn queries_are_sent_as_by_tc() {
    let tc = sent_by_tc("-j filter show dev v0 ingress");
    let query = message(V0, TcHandle::UNSPEC, Hook::Ingress.handle());
    assert_eq!(tc[NETLINK_HEADER..], body(&query));
}

/// The kernel reports a filter in the attributes that it takes.
#[test]
fn a_filter_survives_the_way_to_the_kernel_and_back() {
    for (matches, action) in [
        (Match::Everything, Action::Redirect(7)),
        (Match::Subnet(Side::Source, net("10.0.0.0/8")), Action::Pass),
        (Match::Subnet(Side::Destination, net("2001:db8::1/128")), Action::Redirect(9)),
        (Match::Subnet(Side::Source, net("::/0")), Action::Pass),
        (Match::TaggedSubnet(Side::Destination, net("2001:db8::1/128")), Action::Redirect(9)),
        (Match::TaggedSubnet(Side::Source, net("0.0.0.0/0")), Action::Pass),
        (Match::TaggedEtherType(ETH_P_8021Q), Action::Redirect(9)),
        (Match::EtherType(ETH_P_8021AD), Action::Redirect(9)),
    ] {
        let filter = Filter { priority: 7, matches, action, class_minor: 2 };
        let mut request = filter_request(V0, Hook::Ingress, &(&filter).into()).message;
        request.header.handle = TcHandle { major: 0x8000, minor: 0x0800 };
        let installed = parse_filter(&body(&request)).expect("a filter");
        assert!(installed.is(&filter), "{installed:?}");
        assert_eq!(installed.class_minor, 2);
        assert!(!installed.is(&Filter { priority: 8, ..filter }));
        assert!(!installed.is(&Filter { action: Action::Redirect(1), ..filter }));
        assert!(
            !installed
                .is(&Filter { matches: Match::Subnet(Side::Source, net("10.0.0.0/9")), ..filter })
        );
    }
}

#[test]
fn a_prefix_of_no_length_matches_the_family() {
    for everything in ["0.0.0.0/0", "::/0"] {
        let words = Match::Subnet(Side::Source, net(everything)).words();
        assert_eq!(words, Match::Everything.words());
    }
}

#[test]
fn garbage_is_not_parsed() {
    for bytes in [&[][..], &[0; 19], &[0; 20], &[255; 64]] {
        assert_eq!(parse_qdisc(bytes), None);
        assert_eq!(parse_filter(bytes), None);
    }
}

proptest! {
    /// The kernel multiplies by a reciprocal of 31 bits or more wherever the rate allows it.
    #[test]
    fn ticks_are_those_of_exact_arithmetic(rate in 1..=1_u64 << 31, burst: u32) {
        let tbf = Tbf { rate: BytesPerSecond(rate), burst: Bytes(burst), limit: Bytes(0), piece: None };
        let exact = u128::from(burst) * 1_000_000_000 / u128::from(rate) / 64;
        let ticks = tbf.burst_ticks();
        prop_assert!(ticks <= exact);
        prop_assert!(exact - ticks <= 1 + exact / 1_000_000_000);
    }

    #[test]
    fn no_rate_is_too_large(rate: u64, burst: u32) {
        let tbf = Tbf { rate: BytesPerSecond(rate), burst: Bytes(burst), limit: Bytes(7), piece: None };
        #[expect(clippy::cast_possible_truncation, reason = "as the kernel reports it")]
        let burst_ticks = tbf.burst_ticks() as u32;
        let installed = InstalledTbf::new(tbf.rate, burst_ticks, tbf.limit);
        prop_assert!(tbf.is(installed));
        let longer = InstalledTbf { limit: Bytes(8), ..installed };
        let faster = InstalledTbf { rate: BytesPerSecond(rate ^ 1), ..installed };
        prop_assert!(!tbf.is(longer));
        prop_assert!(!tbf.is(faster));
    }

    #[test]
    fn a_bucket_can_be_made_again(rate in 1..=1_u64 << 40, burst: u32) {
        let tbf = Tbf { rate: BytesPerSecond(rate), burst: Bytes(burst), limit: Bytes(7), piece: None };
        if let Ok(burst_ticks) = u32::try_from(tbf.burst_ticks()) {
            let installed = InstalledTbf::new(tbf.rate, burst_ticks, tbf.limit);
            let again = installed.made_by();
            prop_assert_eq!(again.burst_ticks(), tbf.burst_ticks());
            prop_assert!(again.burst <= tbf.burst);
        }
    }

    #[test]
    fn pieces_are_told_and_made_again(piece in 1_u32..1 << 20) {
        let bytes = |piece| Tbf {
            rate: BytesPerSecond(125_000),
            burst: Bytes(3044),
            limit: Bytes(7),
            piece: Some(Bytes(piece)),
        };
        let body = body(&tbf_request(V0, 0xb0, bytes(piece)).message);
        let QdiscKind::Tbf(sent) = parse_qdisc(&body).expect("a qdisc").kind else { panic!() };
        // What the kernel computes of it.
        let ticks = |tbf: Tbf| u32::try_from(tbf.burst_ticks()).expect("a short time");
        let reported = InstalledTbf { peak: (PEAK, piece >> 6), burst_ticks: ticks(bytes(piece)), ..sent };
        prop_assert!(bytes(piece).is(reported));
        prop_assert!(reported.made_by().is(reported));
        prop_assert!(!bytes(piece + 256).is(reported));
        let whole = Tbf { piece: None, ..bytes(piece) };
        prop_assert!(!whole.is(reported));
    }

    #[test]
    fn any_bytes_can_be_read(bytes: Vec<u8>) {
        let _ = (parse_qdisc(&bytes), parse_filter(&bytes));
    }
}
