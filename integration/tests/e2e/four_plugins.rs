//! All four plugins in one conflist, run by our runner, in every order.

use cni_chain::{NetworkList, Runner, RuntimeConf};
use serde_json::{Value, json};

use cni_testbox::{
    GO_PLUGINS, HOST_V4, HOST_V6, Implementation, OUT_V4, TestBox, Transport, capabilities, cases,
    run, tool,
};

cases! {
    every_order_of_the_four, ours;
}

const PORT: u16 = 8080;

fn entries() -> [Value; 4] {
    [
        json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
        json!({ "type": "firewall", "ingressPolicy": "same-bridge" }),
        json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
        json!({ "type": "tuning", "mtu": 1400, "sysctl": { "net.core.somaxconn": "512" } }),
    ]
}

fn bridge() -> Value {
    json!({
        "type": "bridge", "bridge": "br1", "isGateway": true, "hairpinMode": true,
        "ipam": { "type": "host-local",
            "ranges": [[{ "subnet": "10.88.1.0/24" }], [{ "subnet": "fd88:1::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] },
    })
}

/// All orders of `rest`, each behind `chosen`.
fn orders(chosen: Vec<Value>, rest: &[Value]) -> Vec<Vec<Value>> {
    if rest.is_empty() {
        return vec![chosen];
    }
    let mut all = Vec::new();
    for (index, next) in rest.iter().enumerate() {
        let others: Vec<Value> = [&rest[..index], &rest[index + 1..]].concat();
        all.extend(orders([chosen.clone(), vec![next.clone()]].concat(), &others));
    }
    all
}

fn every_order_of_the_four(b: &TestBox) {
    let ours = Implementation::Ours.plugin("portmap");
    let ours = ours.parent().expect("a directory").to_owned();
    let runner = Runner::new(vec![ours, GO_PLUGINS.into()], "/run/cache".into());
    let orders = orders(Vec::new(), &entries());
    assert_eq!(orders.len(), 24);
    for (index, order) in orders.into_iter().enumerate() {
        let names: Vec<String> = order.iter().map(|entry| entry["type"].to_string()).collect();
        println!("{}", names.join(" "));
        let plugins = [vec![bridge()], order].concat();
        let list = json!({ "cniVersion": "1.0.0", "name": "four", "plugins": plugins });
        let list = NetworkList::from_bytes(list.to_string().as_bytes()).expect("a conflist");
        let container = b.container(&format!("c{index}"));
        container.netns.serve(&container.id, 80);
        let conf = RuntimeConf {
            container_id: container.id.clone(),
            netns: container.netns.path().display().to_string(),
            ifname: "eth0".into(),
            args: Vec::new(),
            capability_args: capabilities(PORT),
        };
        let result = runner.add(&list, &conf).expect("ADD").to_string();
        assert!(result.contains("\"mtu\":1400") && result.contains("bwp"), "{result}");
        runner.check(&list, &conf).expect("CHECK");
        for transport in Transport::ALL {
            b.out.reach(transport, HOST_V4, PORT).by(&container.id).seen_as(OUT_V4);
            b.out.reach(transport, HOST_V6, PORT).by(&container.id);
            b.host.reach(transport, "127.0.0.1", PORT).by(&container.id);
            container.netns.reach(transport, HOST_V4, PORT).by(&container.id);
        }
        runner.del(&list, &conf).expect("DEL");
        runner.del(&list, &conf).expect("DEL again");
        for transport in Transport::ALL {
            b.out.cannot_reach(transport, HOST_V4, PORT);
        }
        nothing_is_left(&container.id);
    }
}

fn nothing_is_left(id: &str) {
    let rules = run(tool("nft").args(["list", "ruleset"]));
    assert!(!rules.contains(id), "{id} is in the ruleset: {rules}");
    let links = run(tool("ip").args(["-o", "link"]));
    assert!(!links.contains("bwp"), "{links}");
    let states = std::fs::read_dir("/run/cni/tuning").map(|files| {
        files
            .flatten()
            .filter(|file| file.file_name().to_string_lossy().ends_with(".state"))
            .count()
    });
    assert_eq!(states.unwrap_or(0), 0);
}
