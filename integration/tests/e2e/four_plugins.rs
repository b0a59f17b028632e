//! All four plugins in one conflist, run by our runner, in every order.

use cni_chain::{NetworkList, Runner, RuntimeConf};
use cni_common::protocol::json::{Json, Object};
use serde_json::{Value, json};

use crate::implementation::{GO_PLUGINS, Implementation};
use crate::testbox::{Call, HOST_V4, HOST_V6, OUT_V4, TestBox, Transport, run, tool};

cases! {
    every_order_of_the_four, ours;
    a_whole_chain_upgraded_in_place, ours;
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

fn capabilities() -> Object {
    let text = json!({
        // As containerd spells them.
        "portMappings": [
            { "HostPort": PORT, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" },
            { "HostPort": PORT, "ContainerPort": 80, "Protocol": "udp", "HostIP": "" }],
        "bandwidth": { "IngressRate": 100_000_000, "IngressBurst": 4_294_967_295u64,
            "EgressRate": 50_000_000, "EgressBurst": 4_294_967_295u64 },
    });
    match Json::parse(text.to_string().as_bytes()) {
        Ok(Json::Object(object)) => object,
        other => panic!("{other:?}"),
    }
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
            capability_args: capabilities(),
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

/// Containers of a chain of Debian's Go plugins; then the binaries are swapped.
fn a_whole_chain_upgraded_in_place(b: &TestBox) {
    let ours = Implementation::Ours.plugin("portmap");
    let ours = ours.parent().expect("a directory").to_owned();
    let go = Runner::new(vec![GO_PLUGINS.into()], "/run/cache".into());
    let ours = Runner::new(vec![ours, GO_PLUGINS.into()], "/run/cache".into());
    let chain = |version: &str| {
        let plugins = [vec![bridge()], entries().to_vec()].concat();
        let list = json!({ "cniVersion": version, "name": "four", "plugins": plugins });
        NetworkList::from_bytes(list.to_string().as_bytes()).expect("a conflist")
    };
    let list = chain("1.0.0");
    let confs: Vec<RuntimeConf> = (0..50u16)
        .map(|index| {
            let container = b.container(&format!("c{index}"));
            container.netns.serve(&container.id, 80);
            let mut capabilities = capabilities();
            let mappings = json!([
                { "hostPort": PORT + index, "containerPort": 80, "protocol": "tcp" },
                { "hostPort": PORT + index, "containerPort": 80, "protocol": "udp" }]);
            let mappings = Json::parse(mappings.to_string().as_bytes()).expect("JSON");
            capabilities.set("portMappings", mappings);
            RuntimeConf {
                container_id: container.id.clone(),
                netns: container.netns.path().display().to_string(),
                ifname: "eth0".into(),
                args: Vec::new(),
                capability_args: capabilities,
            }
        })
        .collect();
    for conf in &confs {
        go.add(&list, conf).expect("ADD by the Go plugins");
    }
    let flow = b.out.udp_flow(40_000, HOST_V4, PORT);
    flow.reach().by("c0");
    for conf in confs.iter().skip(1) {
        ours.del(&list, conf).expect("DEL of what the Go plugins made");
        flow.reach().by("c0");
    }
    ours.del(&list, &confs[0]).expect("DEL of the last one");
    // GC is a command of CNI 1.1.0, which Debian's bridge does not know: the four are asked alone.
    for plugin in ["portmap", "firewall", "bandwidth", "tuning"] {
        let call = Call::of_network("GC", "four");
        let call = call.set("type", json!(plugin)).set("cni.dev/valid-attachments", json!([]));
        call.run_named(Implementation::Ours, plugin).expect_silence();
    }
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = run(&mut tool(program));
        // The Go firewall's shared chains stay: an administrator may have rules in CNI-ADMIN.
        let of_containers = |line: &&str| {
            let mapped = line.contains("CNI-DN-") || line.contains("CNI-HOSTPORT");
            let accepted = line.starts_with("-A CNI-FORWARD") && line.ends_with("ACCEPT");
            (mapped && !line.contains("GUARD")) || accepted
        };
        let left: Vec<&str> = rules.lines().filter(of_containers).collect();
        assert_eq!(left, Vec::<&str>::new(), "{program}");
    }
    assert!(!run(tool("nft").args(["list", "tables"])).contains("cni_portmap"));
    for conf in &confs {
        nothing_is_left(&format!("/{}/", conf.container_id));
    }
    let backups = std::fs::read_dir("/run/cni/tuning").map(|files| {
        files.flatten().filter(|file| file.file_name().to_string_lossy().ends_with(".json")).count()
    });
    assert_eq!(backups.unwrap_or(0), 0, "the Go tuning's backups");
}
