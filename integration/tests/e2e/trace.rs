//! `cni-chain trace` on broken hosts: each is broken for packets, and named with its remedy at the
//! first try; mended, nothing stops the connection any more.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use cni_testbox::{
    HOST_V4, Implementation, Namespace, OUT_V4, TestBox, Transport, cases, run, sh, tool,
};
use serde_json::{Value, json};

use crate::command::conforms;
use crate::restore::{NAME, Node, PORT};

cases! {
    a_sound_host_stops_nothing, backends;
    what_took_the_mapping_away, ours;
    what_drops_on_the_way, ours;
    what_drops_beside_iptables, backends;
    what_translates_first, backends;
    what_is_wrong_with_the_host, ours;
    what_is_wrong_with_links_and_routes, ours;
    what_is_wrong_in_the_container, ours;
    who_else_has_the_port, ours;
    a_stale_flow, ours;
    trace_changes_nothing, backends;
    real_packets_are_followed, backends;
    a_killed_trace_leaves_nothing, ours;
}

/// What `trace --json` says of TCP to an address of the host.
fn trace(node: &Node<'_>, port: u16, arguments: &[&str]) -> Value {
    let port = format!("{port}/tcp");
    asked(node, &[&["trace", &port, "--json"], arguments].concat())
}

fn asked(node: &Node<'_>, arguments: &[&str]) -> Value {
    let output = node.cni_chain(arguments).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    conforms(&answer, include_str!("../../../docs/schema/trace.json"));
    let mut stops = answer["traces"].as_array().expect("traces").iter();
    let stops = stops.any(|trace| !trace["stopsAt"].is_null());
    assert_eq!(output.status.code(), Some(i32::from(stops)), "{answer:#}");
    answer
}

/// The step at which the only trace stops.
#[track_caller]
fn stop(answer: &Value) -> Value {
    let traces = answer["traces"].as_array().expect("traces");
    let [trace] = traces.as_slice() else { panic!("{answer:#}") };
    let steps = trace["steps"].as_array().expect("steps").iter();
    let found = steps.clone().find(|step| step["finding"] == "stop");
    found.unwrap_or_else(|| panic!("nothing stops it: {answer:#}")).clone()
}

/// A way to break a host, where trace is to name it, in which words, and how it is mended.
struct Break {
    script: &'static str,
    subject: &'static str,
    words: &'static [&'static str],
    remedy: &'static str,
    mending: &'static str,
}

/// Breaks and mends one after the other; `reach` is the question that fails meanwhile.
#[track_caller]
fn each(node: &Node<'_>, arguments: &[&str], breaks: &[Break], ask: &dyn Fn(bool)) {
    for Break { script, subject, words, remedy, mending } in breaks {
        sh(script);
        ask(false);
        let found = stop(&trace(node, PORT, arguments));
        assert_eq!(found["subject"], *subject, "{script}: {found:#}");
        let text = found["text"].as_str().expect("text");
        assert!(words.iter().all(|word| text.contains(word)), "{script}: {text}");
        let advice = found["remedy"].as_str().expect("a remedy");
        assert!(advice.contains(remedy), "{script}: {advice}");
        if mending.starts_with("restore") {
            run(&mut node.cni_chain(&["restore"]));
        } else {
            sh(mending);
        }
        ask(true);
        let answer = trace(node, PORT, arguments);
        assert!(answer["traces"][0]["stopsAt"].is_null(), "{mending}: {answer:#}");
    }
}

/// Asks from outside, with TCP.
fn from_outside(b: &TestBox) -> impl Fn(bool) + '_ {
    asking(&b.out, HOST_V4)
}

/// A question to the port, which "web" is to answer or nobody.
fn asking<'a>(client: &'a Namespace, address: &'a str) -> impl Fn(bool) + 'a {
    move |answers| {
        if answers {
            client.reach(Transport::Tcp, address, PORT).by("web");
        } else {
            client.cannot_reach(Transport::Tcp, address, PORT);
        }
    }
}

const OUTSIDE: [&str; 4] = ["--to", HOST_V4, "--from", OUT_V4];

fn a_sound_host_stops_nothing(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    node.serves("web", PORT);
    for arguments in [&[][..], &OUTSIDE, &["--to", "127.0.0.1"]] {
        let answer = trace(&node, PORT, arguments);
        for trace in answer["traces"].as_array().expect("traces") {
            let steps = trace["steps"].as_array().expect("steps");
            let bad = |step: &&Value| step["finding"] == "stop" || step["finding"] == "doubt";
            let bad: Vec<&Value> = steps.iter().filter(bad).collect();
            assert!(bad.is_empty(), "{arguments:?}: {bad:#?}");
        }
    }
    // Of both families and both protocols.
    let all = asked(&node, &["trace", &PORT.to_string(), "--json"]);
    assert_eq!(all["traces"].as_array().map(Vec::len), Some(4), "{all:#}");
    let nobody = stop(&trace(&node, PORT + 1, &[]));
    assert_eq!(nobody["text"], format!("no attachment here was given host port {}", PORT + 1));
}

fn what_took_the_mapping_away(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    let missing = |script| Break {
        script,
        subject: "mapping",
        words: &["podnet/web/eth0 was given *:8080/tcp", "does not have it any more"],
        remedy: "cni-chain restore",
        mending: "restore",
    };
    each(
        &node,
        &OUTSIDE,
        &[
            missing("nft flush ruleset"),
            missing("nft delete table inet cni_portmap"),
            missing("nft delete element inet cni_portmap by_port4 { tcp . 8080 }"),
        ],
        &from_outside(b),
    );
}

fn what_drops_on_the_way(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    each(
        &node,
        &OUTSIDE,
        &[
            Break {
                script: "nft 'add table inet site; add chain inet site forwarding { type filter hook forward priority \
                         5; policy drop; }; add rule inet site forwarding ct state established,related accept'",
                subject: "filters",
                words: &["table inet site drops it", "chain forwarding, by its policy drop"],
                remedy: "the plugin firewall",
                mending: "nft delete table inet site",
            },
            Break {
                script: "nft 'add table ip site; add set ip site closed { type ipv4_addr . inet_service; }; \
                         add chain ip site pre { type filter hook forward priority -10; }; \
                         add chain ip site sub; add element ip site closed { 10.88.1.2 . 80 }; \
                         add rule ip site pre tcp flags syn counter; \
                         add rule ip site pre oifname \"br1\" jump sub; \
                         add rule ip site sub ip daddr . tcp dport @closed reject'",
                subject: "filters",
                words: &["table ip site drops it", "chain sub, rule with handle"],
                remedy: "nft -a list table ip site",
                mending: "nft delete table ip site",
            },
            Break {
                script: "nft 'add table inet raw; add chain inet raw pre { type filter hook prerouting priority \
                         -300; }; add rule inet raw pre tcp dport 8000-8100 drop'",
                subject: "filters",
                words: &["table inet raw drops it"],
                remedy: "nft -a list table inet raw",
                mending: "nft delete table inet raw",
            },
            Break {
                script: "iptables-nft -P FORWARD DROP",
                subject: "filters",
                words: &["table ip filter drops it", "chain FORWARD, by its policy drop"],
                remedy: "cni-chain restore",
                mending: "iptables-nft -P FORWARD ACCEPT",
            },
            Break {
                script: "iptables-legacy -P FORWARD DROP",
                subject: "filters",
                words: &["FORWARD of iptables-legacy", "policy DROP"],
                remedy: "iptables-legacy -S",
                mending: "iptables-legacy -P FORWARD ACCEPT",
            },
        ],
        &from_outside(b),
    );
    // A condition that reading cannot judge is told as such.
    sh(
        "nft 'add table inet lim; add chain inet lim forwarding { type filter hook forward priority 0; }; \
        add rule inet lim forwarding limit rate over 100000/second drop'",
    );
    let answer = trace(&node, PORT, &OUTSIDE);
    let steps = answer["traces"][0]["steps"].as_array().expect("steps");
    let doubt = steps.iter().find(|step| step["finding"] == "doubt").expect("a doubt");
    assert!(doubt["text"].as_str().is_some_and(|text| text.contains("table inet lim may drop it")));
}

/// With its firewall plugin the container passes the drop, whatever the backend; without, trace says
/// which chain drops.
fn what_drops_beside_iptables(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    sh("iptables -N SITE; iptables -A FORWARD -j SITE; iptables -A SITE -m conntrack --ctstate \
        RELATED,ESTABLISHED -j ACCEPT");
    each(
        &node,
        &OUTSIDE,
        &[Break {
            script: "iptables -I FORWARD -p tcp -m multiport --dports 79:81,443 -m comment --comment x -j REJECT",
            subject: "filters",
            words: &["ip filter drops it", "chain FORWARD, rule with handle"],
            remedy: "nft -a list table ip filter",
            mending: "iptables -D FORWARD 1",
        }][usize::from(b.implementation == Implementation::IptablesLegacy)..],
        &from_outside(b),
    );
}

fn what_translates_first(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    b.host.serve("other", 81);
    let ask = |answers: bool| {
        let by = if answers { "web" } else { "other" };
        b.out.reach(Transport::Tcp, HOST_V4, PORT).by(by);
    };
    each(
        &node,
        &OUTSIDE,
        &[
            Break {
                script: "nft 'add table ip kube-proxy; add chain ip kube-proxy external; \
                         add map ip kube-proxy ports { type inet_proto . inet_service : verdict; }; \
                         add chain ip kube-proxy nat { type nat hook prerouting priority -100; }; \
                         add rule ip kube-proxy external meta l4proto tcp redirect to :81; \
                         add element ip kube-proxy ports { tcp . 8080 : goto external }; \
                         add rule ip kube-proxy nat fib daddr type local ip daddr != 127.0.0.0/8 \
                         meta l4proto . th dport vmap @ports'",
                subject: "translation",
                words: &["another destination first", "table ip kube-proxy, chain external"],
                remedy: "another port than 8080",
                mending: "nft delete table ip kube-proxy",
            },
            Break {
                script: "iptables -t nat -N KUBE-NODEPORTS; iptables -t nat -I PREROUTING -m addrtype \
                         --dst-type LOCAL -j KUBE-NODEPORTS; iptables -t nat -A KUBE-NODEPORTS -p tcp \
                         --dport 8080 -j REDIRECT --to-ports 81",
                subject: "translation",
                words: &["a rule of kube-proxy gives", "chain KUBE-NODEPORTS"],
                remedy: "another port than 8080",
                mending: "iptables -t nat -D PREROUTING 1",
            },
        ][..if b.implementation == Implementation::IptablesLegacy { 1 } else { 2 }],
        &ask,
    );
}

fn what_is_wrong_with_the_host(b: &TestBox) {
    let node = Node::new(b);
    let (web, _) = node.add("web", PORT);
    each(
        &node,
        &OUTSIDE,
        &[
            Break {
                script: "sysctl -qw net.ipv4.ip_forward=0",
                subject: "forwarding",
                words: &["does not forward IPv4"],
                remedy: "sysctl -w net.ipv4.ip_forward=1",
                mending: "sysctl -qw net.ipv4.ip_forward=1",
            },
            Break {
                script: "sysctl -qw net.ipv4.conf.ext0.rp_filter=1; \
                         ip link add away type veth peer name gone; ip link set away up; ip link set gone up; \
                         ip route add 198.51.100.2/32 dev away",
                subject: "reverse path",
                words: &["rp_filter is strict on ext0", "away leads back to 198.51.100.2"],
                remedy: "rp_filter to 2",
                mending: "sysctl -qw net.ipv4.conf.ext0.rp_filter=0; ip link del away",
            },
        ],
        &from_outside(b),
    );
    each(
        &node,
        &["--to", "127.0.0.1"],
        &[Break {
            script: "sysctl -qw net.ipv4.conf.br1.route_localnet=0",
            subject: "127.0.0.1",
            words: &["route_localnet is 0 on br1"],
            remedy: "cni-chain restore",
            mending: "restore",
        }],
        &asking(&b.host, "127.0.0.1"),
    );
    b.host.bridge_netfilter(true);
    each(
        &node,
        &["--to", HOST_V4, "--from", "10.88.1.2"],
        &[Break {
            script: "for port in $(ip -o link show master br1 | cut -d' ' -f2 | cut -d@ -f1); do \
                     bridge link set dev $port hairpin off; done",
            subject: "hairpin",
            words: &["hairpin mode is off", "does not reach itself"],
            remedy: "\"hairpinMode\": true",
            mending: "for port in $(ip -o link show master br1 | cut -d' ' -f2 | cut -d@ -f1); do \
                      bridge link set dev $port hairpin on; done",
        }],
        &asking(&web.netns, HOST_V4),
    );
}

fn what_is_wrong_with_links_and_routes(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    each(
        &node,
        &OUTSIDE,
        &[
            Break {
                script: "ip link set br1 down",
                subject: "link",
                words: &["br1 is down"],
                remedy: "ip link set br1 up",
                mending: "ip link set br1 up",
            },
            Break {
                script: "for port in $(ip -o link show master br1 | cut -d' ' -f2 | cut -d@ -f1); do \
                         ip link set $port down; done",
                subject: "link",
                words: &["veth", "is down"],
                remedy: "ip link set veth",
                mending: "for port in $(ip -o link show master br1 | cut -d' ' -f2 | cut -d@ -f1); do \
                          ip link set $port up; done",
            },
            Break {
                script: "for port in $(ip -o link show master br1 | cut -d' ' -f2 | cut -d@ -f1); do \
                         echo $port > /run/port; ip link set $port nomaster; done",
                subject: "link",
                words: &["is no port of br1"],
                remedy: "master br1",
                mending: "ip link set $(cat /run/port) master br1",
            },
            Break {
                script: "ip addr del 10.88.1.1/24 dev br1",
                subject: "route",
                words: &["10.88.1.2"],
                remedy: "start it again",
                mending: "ip addr add 10.88.1.1/24 dev br1",
            },
        ],
        &from_outside(b),
    );
}

fn what_is_wrong_in_the_container(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    each(
        &node,
        &OUTSIDE,
        &[
            Break {
                script: "ip -n web route replace default via 10.88.1.99",
                subject: "way back",
                words: &["answers by 10.88.1.99, which is not this host"],
                remedy: "the default route",
                mending: "ip -n web route replace default via 10.88.1.1",
            },
            Break {
                script: "ip -n web route del default",
                subject: "way back",
                words: &["no route to 198.51.100.2"],
                remedy: "the default route",
                mending: "ip -n web route add default via 10.88.1.1",
            },
            Break {
                script: "ip -n web link set eth0 down",
                subject: "its address",
                words: &["eth0 of the container is down"],
                remedy: "ip link set eth0 up",
                mending: "ip -n web link set eth0 up; ip -n web route add default via 10.88.1.1",
            },
            Break {
                script: "ip -n web addr add 10.88.1.77/24 dev eth0; ip -n web addr del 10.88.1.2/24 dev eth0; \
                         ip -n web addr add 10.88.1.77/24 dev eth0; ip -n web route add default via 10.88.1.1",
                subject: "its address",
                words: &["no interface of the container has 10.88.1.2"],
                remedy: "start the container again",
                mending: "ip -n web addr del 10.88.1.77/24 dev eth0; ip -n web addr add 10.88.1.2/24 dev eth0; \
                          ip -n web route add default via 10.88.1.1",
            },
            Break {
                script: "ip netns exec web nft 'add table inet own; add chain inet own input { type filter hook \
                         input priority 0; policy drop; }'",
                subject: "its filters",
                words: &["inet own in the container's namespace drops it"],
                remedy: "accept the port there",
                mending: "ip netns exec web nft flush ruleset",
            },
        ],
        &from_outside(b),
    );
    let (silent, conf) = node.add_without_listener("silent", PORT + 1);
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT + 1);
    let found = stop(&trace(&node, PORT + 1, &OUTSIDE));
    assert_eq!(found["text"], "nothing in the container listens on port 80/tcp", "{conf:?}");
    silent.netns.serve_at("silent", "127.0.0.1:80".parse().expect("an address"));
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT + 1);
    let found = stop(&trace(&node, PORT + 1, &OUTSIDE));
    assert_eq!(found["subject"], "listener");
    let text = found["text"].as_str().expect("text");
    assert!(text.contains("listens on 127.0.0.1 of the container only"), "{text}");
    sh("ip netns del silent");
    let found = stop(&trace(&node, PORT + 1, &OUTSIDE));
    assert_ne!(found["subject"], "listener");
}

fn who_else_has_the_port(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    b.host.serve("host", PORT);
    b.out.reach(Transport::Tcp, HOST_V4, PORT).by("web");
    let answer = trace(&node, PORT, &OUTSIDE);
    let of = |subject: &str| {
        let steps = answer["traces"][0]["steps"].as_array().expect("steps");
        steps.iter().find(|step| step["subject"] == subject).expect("the step").clone()
    };
    let program = of("host program");
    assert_eq!(program["finding"], "note");
    assert!(
        program["text"].as_str().is_some_and(|text| text.contains("hears nothing")),
        "{program}"
    );

    node.add("newer", PORT);
    b.out.reach(Transport::Tcp, HOST_V4, PORT).by("newer");
    let answer = trace(&node, PORT, &OUTSIDE);
    let mapping = answer["traces"][0]["steps"][0].clone();
    assert_eq!(mapping["finding"], "note");
    let text = mapping["text"].as_str().expect("text");
    assert!(text.contains(&format!("{NAME}/newer/eth0")), "{text}");
    assert!(text.contains(&format!("{NAME}/web/eth0 has asked for it before and waits")), "{text}");

    // An address that no interface has.
    let mappings = json!([{ "hostPort": PORT + 2, "containerPort": 80, "protocol": "tcp",
        "hostIP": "198.51.100.77" }]);
    node.add_with("elsewhere", &json!({ "portMappings": mappings }));
    let found = stop(&trace(&node, PORT + 2, &[]));
    assert_eq!(found["subject"], "host address");
    let text = found["text"].as_str().expect("text");
    assert_eq!(text, "the mapping is for 198.51.100.77, which is no address of this host");
    let found = stop(&trace(&node, PORT + 2, &["--to", HOST_V4]));
    assert!(found["text"].as_str().is_some_and(|text| text.contains("198.51.100.77:8082/tcp")));
}

fn a_stale_flow(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    let element = "inet cni_portmap by_port4 { udp . 8080 }";
    let comment = run(tool("nft").args(["get", "element"]).args(element.splitn(4, ' ')));
    println!("{comment}");
    sh(&format!("nft delete element {element}"));
    // Somebody asks while nobody has the port; then it is there again, and he asks on.
    let client = "from socket import *\nimport time\ns=socket(AF_INET,SOCK_DGRAM)\ns.bind(('',4711))\n\
                  s.settimeout(1)\nfor i in range(2):\n  s.sendto(b'x',('198.51.100.1',8080))\n";
    run(tool("ip").args(["netns", "exec", "out", "python3", "-c", client]));
    sh("nft add element inet cni_portmap by_port4 { udp . 8080 comment \\\"podnet/web/eth0\\\" : \
        10.88.1.2 . 80 }");
    let answer = asked(&node, &["trace", "8080/udp", "--json", "--to", HOST_V4, "--from", OUT_V4]);
    let found = stop(&answer);
    assert_eq!(found["subject"], "known flows", "{answer:#}");
    let text = found["text"].as_str().expect("text");
    assert!(text.starts_with("packets of 198.51.100.2:4711 still go to 198.51.100.1"), "{text}");
    run(&mut node.cni_chain(&["restore"]));
}

fn trace_changes_nothing(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    let everything = || {
        let sysctls =
            sh("sysctl -a 2>/dev/null | grep -v -e random -e nf_conntrack_count -e file-nr \
                          -e inode -e dentry -e ns_last_pid -e gc_ -e cpu -e usage");
        (b.ruleset(), sh("ip addr; ip route; tc qdisc; tc filter"), sysctls)
    };
    let before = everything();
    for arguments in [&[][..], &OUTSIDE, &["--to", "127.0.0.1"]] {
        trace(&node, PORT, arguments);
    }
    let after = everything();
    assert_eq!((before.0, before.1), (after.0, after.1));
    assert_eq!(before.2, after.2);
}

/// `trace --live`, when it has said that it watches.
fn live(node: &Node<'_>, seconds: &str) -> (Child, BufReader<ChildStdout>) {
    let mut command = node.cni_chain(&["trace", &format!("{PORT}/tcp"), "--live", seconds]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("Packets to port") {
        line.clear();
        assert_ne!(stdout.read_line(&mut line).expect("text"), 0, "it ended");
    }
    // The rule is there a moment later.
    while !sh("nft list tables").contains("inet cni_chain_trace") {}
    (child, stdout)
}

fn real_packets_are_followed(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    let before = b.ruleset();
    let (mut child, mut stdout) = live(&node, "1");
    b.out.reach(Transport::Tcp, HOST_V4, PORT).by("web");
    let mut text = String::new();
    stdout.read_to_string(&mut text).expect("text");
    println!("{text}");
    assert!(child.wait().expect("it ends").success());
    assert!(text.contains(&format!(" to {HOST_V4}:{PORT}, in by ext0\n")), "{text}");
    if b.implementation == Implementation::IptablesLegacy {
        assert!(text.contains("  met no rule of nf_tables\n"), "{text}");
    } else {
        assert!(text.contains("(portmap)\n"), "{text}");
        assert!(text.contains("  now to 10.88.1.2:80\n"), "{text}");
        assert!(text.contains("  passed all of them\n"), "{text}");
    }
    if b.implementation == Implementation::Ours {
        assert!(text.contains("      fib daddr type local goto hostports\n"), "{text}");
        let packets = text.split("in by ext0\n").skip(1);
        assert!(packets.clone().count() >= 3, "{text}");
        assert!(
            packets.clone().all(|one| one.matches("passed all of them").count() == 1),
            "{text}"
        );
        // What opens a connection meets portmap's chains, and what follows does not.
        let met = packets.map(|one| one.contains("inet cni_portmap guard (portmap)"));
        assert!(met.enumerate().all(|(index, met)| met == (index == 0)), "{text}");
    }
    assert_eq!(b.ruleset(), before);

    sh(
        "nft 'add table inet site; add chain inet site forwarding { type filter hook forward priority 7; }; \
        add rule inet site forwarding tcp dport 80 counter drop'",
    );
    let (mut child, mut stdout) = live(&node, "3");
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT);
    let mut text = String::new();
    stdout.read_to_string(&mut text).expect("text");
    println!("{text}");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    assert!(text.contains("  inet site forwarding\n      tcp dport 80 counter drop\n"), "{text}");
    assert!(text.contains("  dropped in inet site forwarding\n"), "{text}");

    // Nobody asks.
    let (mut child, _stdout) = live(&node, "1");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
}

fn a_killed_trace_leaves_nothing(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    let before = b.ruleset();
    for signal in ["KILL", "INT", "TERM"] {
        let (mut child, _stdout) = live(&node, "60");
        sh(&format!("kill -{signal} {}", child.id()));
        child.wait().expect("it ends");
        // The kernel removes the table when the socket is closed, a moment later.
        let gone = (0..50).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            b.ruleset() == before
        });
        assert!(gone, "{signal}: {}", b.ruleset());
    }
}
