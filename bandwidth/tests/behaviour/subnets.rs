//! `shapedSubnets` and `unshapedSubnets`: which packets meet a bucket, by its counters.

use cni_testbox::{Attachment, Call, TestBox, bandwidth, cases, listed, sh, tc};
use serde_json::{Value, json};

use crate::frame::{Frame, TAG_8021AD, TAG_8021Q};
use crate::support::inside;

cases! {
    only_some_are_shaped, ours;
    all_but_some_are_shaped, ours;
    priority_tags_do_not_evade_a_limit, ours;
    tagged_packets_to_unshaped_subnets_pass, ours;
}

/// The second host address of each family is the one that the subnets are about.
const SUBNETS: [&str; 2] = ["192.0.2.0/24", "2001:db8::/32"];

fn with_remote_addresses(b: &TestBox) -> Attachment {
    let container = b.pair("c1", 1);
    sh("ip addr add 192.0.2.1/32 dev lo; ip addr add 2001:db8::1/128 dev lo");
    inside(&container, "ip route add default via 10.9.1.1");
    inside(&container, "ip -6 route add default via fd00:9:1::1");
    container
}

/// How many packets each bucket let pass: into the container, out of it.
fn passed() -> [u64; 2] {
    ["bwi", "bwp"].map(|prefix| {
        let ifb = tc::ifbs().into_iter().find(|name| name.starts_with(prefix)).expect("an IFB");
        let qdiscs = listed(&format!("tc -s -j qdisc show dev {ifb}"));
        qdiscs[0]["packets"].as_u64().expect("a counter")
    })
}

fn packets_of_twenty_pings(container: &Attachment, remote: &str) -> [u64; 2] {
    // The neighbours are known from the first.
    inside(container, &format!("ping -c 1 -W 5 {remote}"));
    let before = passed();
    inside(container, &format!("ping -c 20 -i 0.02 -W 5 {remote}"));
    let after = passed();
    [after[0] - before[0], after[1] - before[1]]
}

fn limited(command: &str, container: &Attachment, key: &str) -> Call {
    let call = bandwidth(command, container).set(key, json!(SUBNETS));
    call.ingress(80_000_000, 800_000).egress(80_000_000, 800_000)
}

fn packets_by_remote(b: &TestBox, key: &str) -> [[u64; 2]; 4] {
    let container = with_remote_addresses(b);
    let limits = |command| limited(command, &container, key);
    let result = limits("ADD").run(b).success().json();
    let last = result["interfaces"].as_array().and_then(|list| list.last()).map(|i| &i["name"]);
    assert!(last.and_then(Value::as_str).is_some_and(|name| name.starts_with("bwp")));
    limits("CHECK").run(b).success();
    ["192.0.2.1", "2001:db8::1", "10.9.1.1", "fd00:9:1::1"]
        .map(|remote| packets_of_twenty_pings(&container, remote))
}

fn only_some_are_shaped(b: &TestBox) {
    assert_eq!(packets_by_remote(b, "shapedSubnets"), [[20, 20], [20, 20], [0, 0], [0, 0]]);
}

fn all_but_some_are_shaped(b: &TestBox) {
    // Frames that are no IP at all, such as a neighbour's question, count among the rest.
    let [v4, v6, rest4, rest6] = packets_by_remote(b, "unshapedSubnets");
    assert!(v4.iter().chain(&v6).all(|packets| *packets <= 5), "{v4:?} {v6:?}");
    assert!(
        rest4.iter().chain(&rest6).all(|packets| (20..=25).contains(packets)),
        "{rest4:?} {rest6:?}"
    );
}

/// Whether ten frames from and to `remote` met a bucket, into the container and out of it. A few
/// more that nobody asked for, such as a neighbour's question, may have been on their way.
fn is_shaped(container: &Attachment, remote: &str, tags: &[u16]) -> [bool; 2] {
    const FRAMES: usize = 10;
    let frame = Frame::new(container, remote, tags);
    let before = passed();
    frame.send_into(container, FRAMES);
    let between = passed();
    frame.send_out_of(container, FRAMES);
    let after = passed();
    [between[0] - before[0], after[1] - between[1]].map(|passed| {
        let is_shaped = passed >= FRAMES as u64;
        let unasked = if is_shaped { passed - FRAMES as u64 } else { passed };
        assert!(unasked <= 5, "{remote} {tags:x?}: {passed} of {FRAMES}");
        is_shaped
    })
}

/// Linux takes tags with VLAN ID 0 for priorities and delivers what is in them, however many there are.
fn priority_tags_do_not_evade_a_limit(b: &TestBox) {
    let container = with_remote_addresses(b);
    limited("ADD", &container, "shapedSubnets").run(b).success();
    limited("CHECK", &container, "shapedSubnets").run(b).success();
    let echoes = || {
        let text = sh("grep ^Icmp: /proc/net/snmp | tail -n 1");
        text.split_whitespace().nth(9).and_then(|word| word.parse::<u64>().ok()).expect("InEchos")
    };
    for tags in [
        &[][..],
        &[TAG_8021Q],
        &[TAG_8021AD],
        &[TAG_8021Q, TAG_8021Q],
        &[TAG_8021Q, TAG_8021AD],
        &[TAG_8021AD, TAG_8021Q, TAG_8021Q],
    ] {
        let before = echoes();
        assert_eq!(is_shaped(&container, "192.0.2.1", tags), [true; 2], "{tags:x?}");
        assert_eq!(echoes() - before, 10, "{tags:x?}: the host takes them for untagged");
        assert_eq!(is_shaped(&container, "2001:db8::1", tags), [true; 2], "{tags:x?}");
    }
    for remote in ["10.9.1.1", "fd00:9:1::1"] {
        assert_eq!(is_shaped(&container, remote, &[TAG_8021Q]), [false; 2], "{remote}");
    }
    limited("DEL", &container, "shapedSubnets").run(b).success();
    assert_eq!((tc::qdiscs(&container.host_end()).len(), tc::ifbs().len()), (1, 0));
}

fn tagged_packets_to_unshaped_subnets_pass(b: &TestBox) {
    let container = with_remote_addresses(b);
    // The neighbours are known from the first.
    for gateway in ["10.9.1.1", "fd00:9:1::1"] {
        inside(&container, &format!("ping -c 1 -W 5 {gateway}"));
    }
    limited("ADD", &container, "unshapedSubnets").run(b).success();
    limited("CHECK", &container, "unshapedSubnets").run(b).success();
    for remote in ["192.0.2.1", "2001:db8::1"] {
        assert_eq!(is_shaped(&container, remote, &[TAG_8021Q]), [false; 2], "{remote}");
    }
    for remote in ["10.9.1.1", "fd00:9:1::1"] {
        assert_eq!(is_shaped(&container, remote, &[TAG_8021Q]), [true; 2], "{remote}");
    }
}
