//! `fq_codel` in a token bucket: that it is there and stays in order, and that a full link answers with it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cni_testbox::{Attachment, Call, TestBox, attempt, bandwidth, cases, eventually, sh, tc};
use serde_json::{Value, json};

use crate::require_guest;

cases! {
    every_bucket_has_one, ours;
    changed_in_place_under_load, ours;
    one_that_is_gone, ours;
    buckets_of_before, ours;
    a_full_link_answers, ours;
    nothing_is_lost_on_a_slow_link, ours;
}

const PLACEHOLDER: u64 = 4_294_967_295;

fn limited(command: &str, container: &Attachment, mbit: u64) -> Call {
    let rate = mbit * 1_000_000;
    bandwidth(command, container).ingress(rate, PLACEHOLDER).egress(rate, PLACEHOLDER)
}

/// The options of the queue in the bucket of a link.
#[track_caller]
fn options(link: &str) -> Value {
    let queue = tc::queue(link).unwrap_or_else(|| panic!("{link} has no queue"));
    assert_eq!((&queue["kind"], &queue["handle"]), (&json!("fq_codel"), &json!("b1:")));
    queue["options"].clone()
}

/// Of the host's end and of the IFBs, as `tc` reads it.
fn every_bucket_has_one(b: &TestBox) {
    require_guest();
    let container = b.pair("c1", 1);
    let veth = container.host_end();
    for (mbit, target, interval, memory) in [
        (1, 73_055, 730_559, 365_280),
        (10, 7_304, 99_999, 500_000),
        (100, 4_999, 99_999, 5_000_000),
    ] {
        for subnets in [json!([]), json!(["10.0.0.0/8"])] {
            let call = |command| {
                limited(command, &container, mbit).set("unshapedSubnets", subnets.clone())
            };
            call("ADD").run(b).success();
            call("CHECK").run(b).success();
            let mut links = tc::ifbs();
            if subnets == json!([]) {
                links.push(veth.clone());
            }
            assert_eq!(links.len(), 2);
            for link in links {
                let options = options(&link);
                assert_eq!(options["target"], target, "{options}");
                assert_eq!(options["interval"], interval, "{options}");
                assert_eq!(options["memory_limit"], memory, "{options}");
                assert_eq!(options["ecn"], true, "{options}");
            }
        }
    }
    limited("DEL", &container, 1).run(b).success();
    assert_eq!((tc::qdiscs(&veth)[0]["kind"].clone(), tc::ifbs().len()), (json!("noqueue"), 0));
}

/// What waits is not lost with the limit that it waited for.
fn changed_in_place_under_load(b: &TestBox) {
    require_guest();
    let container = b.pair("c1", 1);
    let veth = container.host_end();
    limited("ADD", &container, 5).run(b).success();
    let _flood = Flood::into(b, &container, 2);
    let sent = || {
        let found = sh(&format!("tc -s -j qdisc show dev {veth}"));
        let qdiscs: Vec<Value> = serde_json::from_str(&found).expect("JSON");
        let queue = qdiscs.iter().find(|qdisc| qdisc["kind"] == "fq_codel").expect("a queue");
        queue["packets"].as_u64().expect("a number")
    };
    eventually("the flood has begun", || sent() > 50);
    for mbit in [8, 3, 5] {
        let before = sent();
        limited("ADD", &container, mbit).run(b).success();
        assert!(sent() >= before, "the queue was made anew");
        limited("CHECK", &container, mbit).run(b).success();
    }
    for queue in ["fifo", "fq_codel"] {
        let call = |command| limited(command, &container, 5).set("queue", queue);
        call("ADD").run(b).success();
        call("CHECK").run(b).success();
        assert_eq!(tc::queue(&veth).is_some(), queue == "fq_codel");
    }
}

/// A bucket without any queue passes nothing.
fn one_that_is_gone(b: &TestBox) {
    require_guest();
    let container = b.pair("c1", 1);
    let veth = container.host_end();
    let ping = || attempt(&format!("ping -c 1 -W 2 {}", container.v4())).status.success();
    limited("ADD", &container, 10).run(b).success();
    assert!(ping());
    sh(&format!("tc qdisc del dev {veth} parent b0:1"));
    assert!(!ping());
    let gone = format!("the fq_codel of {veth} is gone");
    limited("CHECK", &container, 10).run(b).expect_error_with(100, &[&gone]);
    limited("ADD", &container, 10).run(b).success();
    limited("CHECK", &container, 10).run(b).success();
    assert!(ping());
    sh(&format!("tc qdisc change dev {veth} parent b0:1 handle b1: fq_codel target 50ms"));
    limited("CHECK", &container, 10).run(b).expect_error_with(100, &["the queue of", &veth]);
    limited("ADD", &container, 10).run(b).success();
    limited("CHECK", &container, 10).run(b).success();
}

/// As versions made them that knew one queue only: sound as they are, and better after the next ADD.
fn buckets_of_before(b: &TestBox) {
    require_guest();
    let container = b.pair("c1", 1);
    let veth = container.host_end();
    limited("ADD", &container, 10).set("queue", "fifo").run(b).success();
    assert_eq!(tc::queue(&veth), None);
    limited("CHECK", &container, 10).run(b).success();
    limited("ADD", &container, 10).run(b).success();
    for link in [veth, tc::ifbs()[0].clone()] {
        options(&link);
    }
    limited("CHECK", &container, 10).run(b).success();
}

/// The mean of twenty pings in milliseconds, and how many were answered.
#[track_caller]
fn pings(container: &Attachment) -> (f64, u64) {
    let said = sh(&format!("ping -q -i 0.2 -c 20 -W 5 {} || true", container.v4()));
    let numbers = said.rsplit(" = ").next().unwrap_or_default();
    let mean = numbers.split('/').nth(1).and_then(|mean| mean.parse().ok());
    let answered = said.split(", ").nth(1).and_then(|words| words.split(' ').next()?.parse().ok());
    (mean.unwrap_or(f64::NAN), answered.unwrap_or_else(|| panic!("{said}")))
}

/// With eight senders that take what they get. Both are measured here, because a guest is slow.
fn a_full_link_answers(b: &TestBox) {
    require_guest();
    for (number, mbit) in [(1, 2), (2, 5)] {
        let container = b.pair(&format!("c{number}"), number);
        let [fair, fifo] = ["fq_codel", "fifo"].map(|queue| {
            let call = limited("ADD", &container, mbit).set("queue", queue);
            call.run(b).success();
            let flood = Flood::into(b, &container, 8);
            let (mean, answered) = pings(&container);
            drop(flood);
            println!("{mbit} Mbit/s, {queue}: {mean} ms, {answered} of 20");
            (mean, answered)
        });
        assert_eq!(fair.1, 20, "pings were lost at {mbit} Mbit/s");
        assert!(fair.0 < fifo.0 / 2.0, "{} ms, and {} ms with fifo", fair.0, fifo.0);
        limited("DEL", &container, mbit).run(b).success();
    }
}

/// Each frame takes 12 ms there: with the usual target each would have waited too long.
fn nothing_is_lost_on_a_slow_link(b: &TestBox) {
    require_guest();
    let container = b.pair("c1", 1);
    limited("ADD", &container, 1).run(b).success();
    for flows in [1, 8] {
        let _flood = Flood::into(b, &container, flows);
        let (mean, answered) = pings(&container);
        println!("{flows} flows: {mean} ms, {answered} of 20");
        assert_eq!(answered, 20, "pings were lost beside {flows} flows");
    }
}

/// Senders on the host that fill a container's limit for as long as this lives.
struct Flood {
    ended: Arc<AtomicBool>,
    senders: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn into(b: &TestBox, container: &Attachment, flows: usize) -> Self {
        let address: SocketAddr = format!("{}:5001", container.v4()).parse().expect("an address");
        let listener =
            container.container.netns.enter(|| TcpListener::bind(address)).expect("bind");
        let ended = Arc::new(AtomicBool::new(false));
        let connect = || TcpStream::connect(address).expect("connect");
        let senders = (0..flows).map(|_| {
            let mut source = b.host.enter(connect);
            let (mut sink, _) = listener.accept().expect("accept");
            std::thread::spawn(move || {
                let mut block = vec![0; 1 << 16];
                while sink.read(&mut block).is_ok_and(|count| count > 0) {}
            });
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || {
                let block = vec![0; 1 << 14];
                while !ended.load(Ordering::Relaxed) && source.write_all(&block).is_ok() {}
            })
        });
        Self { senders: senders.collect(), ended }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            let _ = sender.join();
        }
    }
}
