//! `explain`: what it tells, carried out by the programs that it tells it for, is what ADD makes.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use cni_testbox::{TestBox, cases, feed, run, tool};

use crate::command::{conforms, outcome};
use crate::restore::{NAME, Node};

cases! {
    what_is_explained_is_what_add_makes, backends;
    what_is_explained_with_options_is_what_add_makes, ours;
    isolation_is_explained_as_the_bridge_needs_it, ours;
    explaining_needs_no_privilege_and_changes_nothing, ours;
    nfts_json_means_the_same, ours;
    a_refusal_of_add_is_told, ours;
}

const FILE: &str = "/run/explained.conflist";
const RESULT: &str = "/run/result.json";

/// A list of all four plugins with these keys, in a file.
fn write_list(b: &TestBox, portmap: &Value, bandwidth: &Value, tuning: &Value, firewall: &Value) {
    let entry = |kind: &str, capability: Option<&str>, keys: &Value| {
        let mut entry = json!({ "type": kind });
        if let Some(capability) = capability {
            entry["capabilities"] = json!({ capability: true });
        }
        if let Some(backend) =
            b.implementation.backend().filter(|_| kind != "bandwidth" && kind != "tuning")
        {
            entry["backend"] = json!(backend);
        }
        for (key, value) in keys.as_object().expect("keys") {
            entry[key] = value.clone();
        }
        entry
    };
    let list = json!({ "cniVersion": "1.0.0", "name": NAME, "plugins": [
        { "type": "bridge", "bridge": "br1", "isGateway": true, "hairpinMode": true,
          "ipam": { "type": "host-local",
            "ranges": [[{ "subnet": "10.88.1.0/24" }], [{ "subnet": "fd88:1::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } },
        entry("tuning", Some("mac"), tuning),
        entry("bandwidth", Some("bandwidth"), bandwidth),
        entry("portmap", Some("portMappings"), portmap),
        entry("firewall", None, firewall),
    ]});
    fs::write(FILE, list.to_string()).expect("a file");
}

const ARGUMENTS: [&str; 4] = [
    "--publish=8080:80",
    "--publish=198.51.100.1:53:5353/udp",
    "--publish=[2001:db8:100::1]:9:9/sctp",
    "--cap-args={\"bandwidth\":{\"ingressRate\":8000000,\"ingressBurst\":800000,\"egressRate\":40000000000,\"egressBurst\":80000000}}",
];

/// What the command explains of the list, as its schema has it.
#[track_caller]
fn explained(node: &Node<'_>, more: &[&str]) -> Value {
    let arguments = [&["explain", FILE, "--json"], &ARGUMENTS[..], more].concat();
    let printed = run(&mut node.cni_chain(&arguments));
    let explained: Value = serde_json::from_str(&printed).expect("JSON");
    println!("{explained:#}");
    conforms(&explained, include_str!("../../../docs/schema/explain.json"));
    explained
}

fn steps(explained: &Value) -> Vec<Value> {
    let plugins = explained["plugins"].as_array().expect("plugins");
    plugins.iter().flat_map(|plugin| plugin["steps"].as_array().expect("steps").clone()).collect()
}

/// Has each program do its part.
#[track_caller]
fn carry_out(explained: &Value, container: &str) {
    for step in steps(explained) {
        let Some(program) = step["program"].as_str() else { continue };
        let input = step["input"].as_str().expect("an input");
        match program {
            "nft -f" => {
                feed(tool("nft").args(["-c", "-f", "-"]), input);
                feed(tool("nft").args(["-f", "-"]), input);
            }
            "sh" if step["place"] == "container" => {
                feed(tool("ip").args(["netns", "exec", container, "sh", "-e"]), input);
            }
            "sh" => {
                feed(tool("sh").arg("-e"), input);
            }
            restore => {
                let (program, option) = restore.split_once(' ').expect("an option");
                feed(tool(program).args([option, "--test"]), input);
                feed(tool(program).arg(option), input);
            }
        }
    }
}

/// Everything that plugins made, but for what is new each time: indexes and an IFB's address.
fn made(b: &TestBox) -> Vec<String> {
    let state = b.state();
    let is_kept = |line: &&str| !line.is_empty() && !line.starts_with('/');
    state.lines().filter(is_kept).map(without_chance).collect()
}

fn without_chance(line: &str) -> String {
    let is_ifb = line.starts_with("link  \"bw");
    let mut words: Vec<&str> = line.split(' ').collect();
    for at in 0..words.len() {
        if words[at] == "ifindex" || (words[at] == "address" && is_ifb) {
            words[at + 1] = "-";
        }
    }
    words.join(" ")
}

/// ADD, and everything out again but the container: then the programs make the same of what is explained.
fn same_as_add(b: &TestBox) {
    let node = Node::new(b);
    let container = b.container("web");
    let add = [&["add", FILE, "web", "--container-id", "web"], &ARGUMENTS[..]].concat();
    fs::write(RESULT, run(&mut node.cni_chain(&add))).expect("a file");
    let by_add = made(b);
    assert!(by_add.iter().any(|line| line.contains("podnet/web/eth0")), "{by_add:#?}");
    run(&mut node.cni_chain(&["purge", "--all", "--yes"]));
    let purged = made(b);
    assert!(!purged.iter().any(|line| line.contains("podnet/web/eth0")), "{purged:#?}");

    let explained = explained(&node, &["--container-id", "web", "--prev-result", RESULT]);
    assert_eq!(made(b), purged);
    carry_out(&explained, &container.id);
    let differs = |one: &[String], two: &[String]| {
        one.iter().filter(|line| !two.contains(line)).cloned().collect::<Vec<_>>()
    };
    let by_programs = made(b);
    assert_eq!(differs(&by_add, &by_programs), [""; 0], "what ADD alone makes");
    assert_eq!(differs(&by_programs, &by_add), [""; 0], "what ADD does not make");
}

fn what_is_explained_is_what_add_makes(b: &TestBox) {
    let tuning = json!({ "sysctl": { "net.core.somaxconn": "512" }, "mtu": 1400 });
    write_list(b, &json!({}), &json!({}), &tuning, &json!({ "ingressPolicy": "same-bridge" }));
    same_as_add(b);
}

fn what_is_explained_with_options_is_what_add_makes(b: &TestBox) {
    b.nft("table inet site { chain forwarding { type filter hook forward priority filter; policy drop; }; }");
    write_list(
        b,
        &json!({ "onConflict": "fail", "markMasqBit": 7, "masqAll": true,
            "conditionsV4": ["ip", "saddr", "!=", "192.0.2.0/24", "iifname", "ext*"] }),
        &json!({ "unshapedSubnets": ["10.0.0.0/8", "fd00::/8"], "latency": 40 }),
        &json!({ "mac": "02:00:00:00:00:07", "promisc": true, "allmulti": true, "txQLen": 77,
            "sysctl": { "net/ipv4/conf/IFNAME/arp_filter": "1", "net.ipv4.ip_forward": 1 } }),
        &json!({ "backend": "nftables", "iptablesAdminChainName": "site-rules",
            "nftablesForwardChains": [{ "family": "inet", "table": "site", "chain": "forwarding" }] }),
    );
    same_as_add(b);
}

fn isolation_is_explained_as_the_bridge_needs_it(b: &TestBox) {
    for is_on in [false, true] {
        b.host.bridge_netfilter(is_on);
        write_list(b, &json!({}), &json!({}), &json!({}), &json!({ "ingressPolicy": "isolated" }));
        same_as_add(b);
        run(&mut Node::new(b).cni_chain(&["del", FILE, "web", "--container-id", "web"]));
        run(tool("ip").args(["netns", "del", "web"]));
    }
}

/// The same as nobody, which can see nothing.
fn unprivileged(command: &Command) -> Command {
    let mut as_nobody = tool("setpriv");
    as_nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    as_nobody.arg("--inh-caps=-all").arg(command.get_program()).args(command.get_args());
    as_nobody.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    as_nobody
}

fn explaining_needs_no_privilege_and_changes_nothing(b: &TestBox) {
    let node = Node::new(b);
    write_list(b, &json!({}), &json!({}), &json!({ "mtu": 1400 }), &json!({}));
    let before = b.state();
    let arguments = [&["explain", FILE], &ARGUMENTS[..]].concat();
    let told = run(&mut unprivileged(&node.cni_chain(&arguments)));
    assert_eq!(b.state(), before);
    for line in [
        "# plugins[0] (bridge)\n",
        "# by sh, in the container's namespace (nsenter --net=/run/netns/example):\n\
         ip link set dev eth0 mtu 1400\n",
        "tc qdisc replace dev veth0 root handle b0: tbf rate 1000000bps burst 100000 limit",
        "create element inet cni_portmap by_port4 { tcp . 8080 comment \"podnet/example/eth0\" : 10.88.1.2 . 80 }\n",
        "\nsysctl -w net/ipv4/conf/br1/route_localnet=1\n",
        "table inet cni_firewall",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    // Each line is for a program, or a comment.
    let programs = ["add ", "create ", "flush ", "tc ", "ip ", "sysctl "];
    let is_known = |line: &str| {
        line.is_empty()
            || line.starts_with('#')
            || programs.iter().any(|program| line.starts_with(program))
    };
    assert_eq!(told.lines().find(|line| !is_known(line)), None);
}

/// A reader that is not ours understands nft's JSON, and nft makes the same of it as of the text.
fn nfts_json_means_the_same(b: &TestBox) {
    let node = Node::new(b);
    b.host.bridge_netfilter(true);
    let policy = json!({ "ingressPolicy": "isolated" });
    write_list(b, &json!({}), &json!({}), &json!({}), &policy);
    let steps = steps(&explained(&node, &["--backend", "nftables"]));
    let steps: Vec<&Value> = steps.iter().filter(|step| step["program"] == "nft -f").collect();
    assert_eq!(steps.len(), 3, "portmap's, firewall's, and the bridge's");
    let mut loaded = 0;
    for step in steps {
        let json = json!({ "nftables": step["nftables"] }).to_string();
        let _: nftables::schema::Nftables<'_> = serde_json::from_str(&json).expect("nft's schema");
        // What nft cannot read before 1.1.0 is said.
        if step["note"].is_string() && run(tool("nft").arg("--version")).contains("v1.0") {
            fs::write("/run/rules.json", json).expect("a file");
            let status = tool("nft").args(["-j", "-c", "-f", "/run/rules.json"]).status();
            assert!(!status.expect("nft runs").success(), "it can: {}", step["note"]);
            continue;
        }
        loaded += 1;
        b.nft("flush ruleset");
        feed(tool("nft").args(["-j", "-f", "-"]), &json);
        let by_json = b.nft_list_all();
        b.nft("flush ruleset");
        b.nft(step["input"].as_str().expect("text"));
        // nft 1.0.6 loses a table's comment.
        let by_text = b.nft_list_all().replace("\tcomment \"cni-chain firewall\"\n", "");
        assert_eq!(by_text, by_json.replace("\tcomment \"cni-chain firewall\"\n", ""));
    }
    assert!(loaded > 0);
}

fn a_refusal_of_add_is_told(b: &TestBox) {
    let node = Node::new(b);
    write_list(b, &json!({ "markMasqBit": 77 }), &json!({}), &json!({}), &json!({}));
    let (status, stdout, _) = outcome(&mut node.cni_chain(&["explain", FILE]));
    assert_eq!(status, Some(1));
    assert!(stdout.contains("# ADD would fail: ") && stdout.contains("markMasqBit"), "{stdout}");
    assert!(!stdout.contains("plugins[4] (firewall)"), "{stdout}");

    let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"},{"type":"firewall","ingressPolicy":"isolated"}]}"#;
    fs::write(FILE, list).expect("a file");
    let (status, stdout, _) = outcome(&mut node.cni_chain(&["explain", FILE]));
    assert_eq!(status, Some(1));
    assert!(stdout.contains("needs a bridge, and the container is on none"), "{stdout}");
    let (status, _, stderr) = outcome(&mut node.cni_chain(&["explain", FILE, "-p", "1:1"]));
    assert_eq!(status, Some(1));
    assert!(stderr.contains("--publish would do nothing"), "{stderr}");
}
