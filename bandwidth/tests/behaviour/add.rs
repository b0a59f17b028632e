//! What ADD makes, and what it refuses.

use cni_testbox::{Attachment, TestBox, bandwidth, cases, listed, sh, tc};
use serde_json::{Value, json};

use crate::support::{redirect, u32_filters};

cases! {
    both_directions, ours;
    egress_alone, ours;
    ingress_alone, ours;
    limits_from_the_runtime, ours;
    own_limits_win, ours;
    unrelated_interfaces_are_kept, ours;
    the_host_end_need_not_be_named, ours;
    no_veth_no_limit, ours;
    no_limits, ours;
    an_update_in_place, ours;
    limits_that_are_dropped, ours;
    extreme_rates, ours;
    latency_and_placeholders, ours;
    one_process_and_few_messages, ours;
}

const PLACEHOLDER: u64 = 4_294_967_295;

fn both_directions(b: &TestBox) {
    for (number, version) in (1..).zip(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]) {
        let container = b.pair(&format!("c{number}"), number);
        sh(&format!("ip link set {} mtu 1400", container.host_end()));
        let call = bandwidth("ADD", &container).set("cniVersion", version);
        let outcome = call.ingress(8, 8).egress(16, 8).run(b).success();
        let result = outcome.json();
        let last = result["interfaces"].as_array().and_then(|list| list.last()).expect("entries");
        let ifb = last["name"].as_str().expect("a name");
        assert_eq!(outcome.interfaces(), [&container.host_end(), &container.ifname, ifb]);
        assert_eq!(last.get("sandbox").and_then(Value::as_str).unwrap_or_default(), "");

        let link = &listed(&format!("ip -j -d link show dev {ifb}"))[0];
        assert_eq!((&link["mtu"], &link["address"]), (&json!(1400), &last["mac"]));
        assert_eq!(link["ifalias"], format!("net/{}/eth0", container.container.id));
        assert!(link["flags"].as_array().is_some_and(|flags| flags.contains(&json!("UP"))));
        assert_eq!((tc::rate(ifb), tc::rate(&container.host_end())), (Some(2), Some(1)));
        assert_eq!(tc::qdiscs(&container.host_end()).len(), 2, "a TBF and a clsact qdisc");
        assert_eq!(redirect(&container.host_end()).as_deref(), Some(ifb));
        assert_eq!(u32_filters(&container.host_end(), "ingress").len(), 1);
        // A full frame fits into a bucket that was asked to hold one byte.
        assert!(outcome.stderr.contains("ingressBurst of 1 bytes lets no full frame pass"));
    }
}

fn egress_alone(b: &TestBox) {
    let container = b.pair("c1", 1);
    bandwidth("ADD", &container).ingress(0, 0).egress(8000, 80).run(b).success();
    assert_eq!(tc::ifbs().len(), 1);
    assert_eq!(tc::rate(&container.host_end()), None);
    assert_eq!(tc::rate(&tc::ifbs()[0]), Some(1000));
}

fn ingress_alone(b: &TestBox) {
    let container = b.pair("c1", 1);
    bandwidth("ADD", &container).ingress(8000, 80).egress(0, 0).run(b).success();
    assert_eq!(tc::ifbs(), Vec::<String>::new());
    assert_eq!(tc::qdiscs(&container.host_end()).len(), 1);
    assert_eq!(tc::rate(&container.host_end()), Some(1000));
}

fn limits_from_the_runtime(b: &TestBox) {
    let container = b.pair("c1", 1);
    // The key as upstream's own files spell it, the fields as containerd does.
    let limits = json!({ "bandWidth": {
        "IngressRate": 8_000_000, "IngressBurst": 80_000, "EgressRate": 16_000_000, "EgressBurst": 80_000,
    } });
    bandwidth("ADD", &container).set("runtimeConfig", limits).run(b).success();
    assert_eq!(tc::rate(&container.host_end()), Some(1_000_000));
    assert_eq!(tc::rate(&tc::ifbs()[0]), Some(2_000_000));
}

fn own_limits_win(b: &TestBox) {
    let container = b.pair("c1", 1);
    let limits = json!({ "bandwidth": { "ingressRate": 8000, "ingressBurst": 8000 } });
    let call = bandwidth("ADD", &container).set("runtimeConfig", limits);
    call.clone()
        .set("ingressBurst", 123)
        .run(b)
        .expect_error_with(7, &["if burst is set, rate must also be set"]);
    call.set("egressRate", 0).run(b).success();
    assert_eq!((tc::rate(&container.host_end()), tc::ifbs().len()), (None, 0));
}

fn unrelated_interfaces_are_kept(b: &TestBox) {
    let container = b.pair("c1", 1);
    let interfaces = json!([
        { "name": "other1" }, { "name": "other2" }, { "name": "veth1", "x-vendor": 1 },
        { "name": "eth0", "sandbox": container.container.netns.path() },
    ]);
    let previous = json!({ "cniVersion": "1.0.0", "interfaces": interfaces, "x-top": [1] });
    let outcome = bandwidth("ADD", &container)
        .set("prevResult", previous)
        .egress(8000, 8000)
        .run(b)
        .success();
    assert_eq!(outcome.interfaces()[..4], ["other1", "other2", "veth1", "eth0"]);
    assert_eq!(outcome.interfaces()[4..], tc::ifbs());
    assert_eq!(outcome.json()["interfaces"][2]["x-vendor"], 1);
    assert_eq!(outcome.json()["x-top"], json!([1]));
}

fn the_host_end_need_not_be_named(b: &TestBox) {
    let container = b.pair("c1", 1);
    for interfaces in [json!([]), json!([{ "name": "lo" }])] {
        let previous = json!({ "cniVersion": "1.0.0", "interfaces": interfaces });
        bandwidth("ADD", &container)
            .set("prevResult", previous)
            .ingress(8000, 8000)
            .run(b)
            .success();
        assert_eq!(tc::rate(&container.host_end()), Some(1000));
        sh("tc qdisc del dev veth1 root");
    }
}

fn no_veth_no_limit(b: &TestBox) {
    let container = b.pair("c1", 1);
    sh("ip link add link veth1 name mv0 type macvlan; ip link set mv0 netns c1");
    // The other end of a pair in a third namespace, with an index that exists here as well.
    sh("ip netns add c3; ip -n c3 link add far0 type veth peer name near0 netns c1");
    for (ifname, words) in [
        ("mv0", "\"mv0\" is a macvlan, not a veth"),
        ("lo", "\"lo\" is a device of the host's, not a veth"),
        ("eth7", "there is no interface \"eth7\""),
        ("near0", "is not in the namespace that bandwidth runs in"),
    ] {
        let odd = Attachment { ifname: ifname.into(), ..container.clone() };
        bandwidth("ADD", &odd).ingress(8000, 8000).run(b).expect_error_with(7, &[words]);
        // Without a limit it is none of bandwidth's business.
        bandwidth("ADD", &odd).run(b).success();
        bandwidth("CHECK", &odd).run(b).success();
    }
    assert_eq!(tc::rate(&container.host_end()), None);
}

fn no_limits(b: &TestBox) {
    let container = b.pair("c1", 1);
    let outcome = bandwidth("ADD", &container).run(b).success();
    assert_eq!(outcome.interfaces(), ["veth1", "eth0"]);
    assert_eq!((tc::rate(&container.host_end()), tc::ifbs().len()), (None, 0));
    let call = bandwidth("ADD", &container).without("prevResult");
    call.run(b).expect_error_with(7, &["must be called as chained plugin"]);
}

fn an_update_in_place(b: &TestBox) {
    let container = b.pair("c1", 1);
    let call = bandwidth("ADD", &container).egress(8_000_000, 80_000);
    let first = call.clone().ingress(8_000_000, 80_000).run(b).success().interfaces();
    let index = || listed("ip -j link show type ifb")[0]["ifindex"].clone();
    let before = index();
    let second =
        call.egress(16_000_000, 80_000).ingress(24_000_000, 80_000).run(b).success().interfaces();
    assert_eq!(first, second);
    assert_eq!(before, index(), "the IFB stays");
    assert_eq!(
        (tc::rate(&container.host_end()), tc::rate(&tc::ifbs()[0])),
        (Some(3_000_000), Some(2_000_000))
    );
    assert_eq!(u32_filters(&container.host_end(), "ingress").len(), 1);
}

fn limits_that_are_dropped(b: &TestBox) {
    let container = b.pair("c1", 1);
    let call = bandwidth("ADD", &container);
    let both = call.clone().ingress(8000, 80_000).egress(8000, 80_000);
    both.run(b).success();
    call.clone().egress(8000, 80_000).run(b).success();
    assert_eq!((tc::rate(&container.host_end()), tc::ifbs().len()), (None, 1));
    both.run(b).success();
    call.clone().ingress(8000, 80_000).run(b).success();
    assert_eq!((tc::rate(&container.host_end()), tc::ifbs().len()), (Some(1000), 0));
    assert_eq!(tc::qdiscs(&container.host_end()).len(), 1, "no idle clsact qdisc");
    both.run(b).success();
    call.run(b).success();
    assert_eq!(tc::qdiscs(&container.host_end())[0]["kind"], "noqueue");
    assert_eq!((tc::qdiscs(&container.host_end()).len(), tc::ifbs().len()), (1, 0));
}

fn extreme_rates(b: &TestBox) {
    let container = b.pair("c1", 1);
    for rate in [8000, 1_000_000, 34_359_738_368, 100_000_000_000, 400_000_000_000, u64::MAX] {
        for burst in [8, 80_000, PLACEHOLDER, 34_359_738_352] {
            let limits =
                |command| bandwidth(command, &container).ingress(rate, burst).egress(rate, burst);
            limits("ADD").run(b).success();
            assert_eq!(tc::rate(&container.host_end()), Some(rate / 8));
            assert_eq!(tc::rate(&tc::ifbs()[0]), Some(rate / 8));
            limits("CHECK").run(b).success();
        }
    }
}

fn latency_and_placeholders(b: &TestBox) {
    let container = b.pair("c1", 1);
    let limit = || tc::tbf("veth1").expect("a bucket")["limit"].as_u64();
    let burst = || tc::tbf("veth1").expect("a bucket")["burst"].as_u64();
    for placeholder in [2_147_483_647, PLACEHOLDER, 34_359_738_359] {
        let call = bandwidth("ADD", &container).ingress(80_000_000, placeholder);
        call.run(b).success();
        assert_eq!(burst(), Some(100_000), "10 ms");
        // Elsewhere the kernel keeps a number for a queue that is not in use.
        call.clone().set("latency", 100).set("queue", "fifo").run(b).success();
        // `tc` prints either the limit or what it computes from it.
        let latency = tc::tbf("veth1").expect("a bucket")["lat"].as_u64();
        assert!(limit() == Some(1_000_000) || latency == Some(90_000), "{latency:?}");
        call.set("honorRuntimeBurst", true).run(b).success();
        assert!(burst().is_some_and(|burst| burst > 10_000_000));
    }
}

fn one_process_and_few_messages(b: &TestBox) {
    let container = b.pair("c1", 1);
    let calls = "trace=execve,sendto,sendmsg,recvfrom,recvmsg";
    let strace = ["strace", "-f", "-o", "/run/trace", "-e", calls];
    let limits = bandwidth("ADD", &container).under(&strace);
    limits.ingress(8_000_000, PLACEHOLDER).egress(8_000_000, PLACEHOLDER).run(b).success();
    let trace = std::fs::read_to_string("/run/trace").expect("strace wrote");
    let count = |call: &str| trace.lines().filter(|line| line.contains(call)).count();
    assert_eq!(count("execve("), 1);
    let all = trace.lines().filter(|line| line.contains("nlmsg_len")).count();
    println!("{all} messages in both ways");
    assert!((10..=40).contains(&all), "{all} messages in both ways");
}
