//! `shapedSubnets` and `unshapedSubnets`: which packets meet a bucket, by its counters.

use serde_json::{Value, json};

use crate::testbox::{Call, Container, boxed, ifbs, listed, run};

boxed! { only_some_are_shaped all_but_some_are_shaped }

/// The second host address of each family is the one that the subnets are about.
const SUBNETS: [&str; 2] = ["192.0.2.0/24", "2001:db8::/32"];

fn with_remote_addresses() -> Container {
    let container = Container::new("c1", 1);
    run("ip addr add 192.0.2.1/32 dev lo; ip addr add 2001:db8::1/128 dev lo");
    container.run("ip route add default via 10.9.1.1");
    container.run("ip -6 route add default via fd00:9:1::1");
    container
}

/// How many packets each bucket let pass: into the container, out of it.
fn passed() -> [u64; 2] {
    ["bwi", "bwp"].map(|prefix| {
        let ifb = ifbs().into_iter().find(|name| name.starts_with(prefix)).expect("an IFB");
        let qdiscs = listed(&format!("tc -s -j qdisc show dev {ifb}"));
        qdiscs[0]["packets"].as_u64().expect("a counter")
    })
}

fn packets_of_twenty_pings(container: &Container, remote: &str) -> [u64; 2] {
    // The neighbours are known from the first.
    container.run(&format!("ping -c 1 -W 5 {remote}"));
    let before = passed();
    container.run(&format!("ping -c 20 -i 0.02 -W 5 {remote}"));
    let after = passed();
    [after[0] - before[0], after[1] - before[1]]
}

fn packets_by_remote(key: &str) -> [[u64; 2]; 4] {
    let container = with_remote_addresses();
    let limits = |command| {
        let call = Call::new(command, &container).set(key, json!(SUBNETS));
        call.ingress(80_000_000, 800_000).egress(80_000_000, 800_000)
    };
    let result = limits("ADD").ok().json();
    let last = result["interfaces"].as_array().and_then(|list| list.last()).map(|i| &i["name"]);
    assert!(last.and_then(Value::as_str).is_some_and(|name| name.starts_with("bwp")));
    limits("CHECK").ok();
    ["192.0.2.1", "2001:db8::1", "10.9.1.1", "fd00:9:1::1"]
        .map(|remote| packets_of_twenty_pings(&container, remote))
}

fn only_some_are_shaped() {
    assert_eq!(packets_by_remote("shapedSubnets"), [[20, 20], [20, 20], [0, 0], [0, 0]]);
}

fn all_but_some_are_shaped() {
    // Frames that are no IP at all, such as a neighbour's question, count among the rest.
    let [v4, v6, rest4, rest6] = packets_by_remote("unshapedSubnets");
    assert!(v4.iter().chain(&v6).all(|packets| *packets <= 5), "{v4:?} {v6:?}");
    assert!(
        rest4.iter().chain(&rest6).all(|packets| (20..=25).contains(packets)),
        "{rest4:?} {rest6:?}"
    );
}
