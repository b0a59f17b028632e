//! The cases of containerd.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cni_testbox::{
    HOST_V4, HOST2_V4, HOST2_V6, Implementation, OUT_V4, TestBox, Transport, both, cases, run, spy,
    tcp, tool, udp,
};
use serde_json::json;

use super::{Node, Pod, Wish, network_is_ready, version};
use crate::node::{self, OURS, PLUGINS, nothing_is_left};
use crate::rate;

cases! {
    a_pod_has_what_it_asks_for, backends;
    a_failed_add_leaves_nothing, backends;
    pods_outlive_the_daemon, backends;
    thirty_pods_at_once, backends;
    a_flushed_node_is_restored_from_the_cache, backends;
    the_node_stays_ready, backends;
    what_it_writes_is_recorded, ours;
}

const PORT: u16 = 8080;

fn a_pod_has_what_it_asks_for(b: &TestBox) {
    node::drop_what_is_forwarded(b);
    let node = Node::start(b);
    let wish = Wish {
        mappings: [
            both(PORT, 80),
            vec![tcp(8081, 80).at("127.0.0.1"), udp(8081, 80).at("127.0.0.1")],
            vec![tcp(8082, 80).at(HOST2_V4), udp(8082, 80).at(HOST2_V4)],
            vec![tcp(8083, 80).at(HOST2_V6), udp(8083, 80).at(HOST2_V6)],
            vec![tcp(8084, 81)],
        ]
        .concat(),
        bandwidth: Some(("16M", "8M")),
    };
    let before = node.used_and_empty(&wish);
    let web = node.run("web", &wish);
    let neighbour = node.run("neighbour", &Wish::default());
    node.serves("web", PORT, &web, &neighbour);
    node.compat.works(
        "portmap",
        "tcp and udp, IPv4 and IPv6, from outside with the client's address, host, loopback, the pod \
         itself, a neighbour",
    );

    for transport in Transport::ALL {
        b.host.reach(transport, "127.0.0.1", 8081).by("web");
        b.out.cannot_reach(transport, HOST_V4, 8081);
        for (address, port) in [(HOST2_V4, 8082), (HOST2_V6, 8083)] {
            b.out.reach(transport, address, port).by("web");
            b.out.cannot_reach(transport, HOST_V4, port);
        }
    }
    node.compat
        .works("portmap", "hostIP: loopback, and one of the host's addresses of either family");

    assert_eq!(web.netns.read_sysctl("core/somaxconn"), "511");
    node.compat.works("tuning", "a sysctl of the pod");

    // The node drops what is forwarded and nobody admits.
    b.out.serve("out", 80);
    web.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    node.compat
        .works("firewall", "a pod reaches the outside on a host that drops what it forwards");

    // Of a burst that nobody chose, the plugin makes one of 10 ms.
    let incoming = rate::carried(&b.out, (HOST_V4, 8084), (&web.netns, 81));
    incoming.keeps_to("into the pod", 16e6, 160e3);
    let outgoing = rate::carried(&web.netns, (OUT_V4, 5001), (&b.out, 5001));
    outgoing.keeps_to("out of the pod", 8e6, 80e3);
    let free = rate::carried(&neighbour.netns, (OUT_V4, 5002), (&b.out, 5002));
    free.is_free("the neighbour");
    node.compat.works("bandwidth", "both limits of a pod's annotations, measured");

    node.stop(&web);
    b.out.is_not_served(PORT);
    node.stop(&web);
    node.remove(&web);
    node.remove(&neighbour);
    nothing_is_left(b, &before);
    node.compat.works("all", "a pod that is stopped twice and removed leaves nothing");
}

fn a_failed_add_leaves_nothing(b: &TestBox) {
    let good = node::network(b, "1.0.0");
    node::configure(&good);
    let node = Node::start_on_configured(b);
    let wish = Wish { mappings: both(PORT, 80), bandwidth: Some(("16M", "8M")) };
    let before = node.used_and_empty(&wish);
    let mut broken = good.clone();
    broken["plugins"][3]["sysctl"] = json!({ "net.core.no_such_setting": "1" });
    node::configure(&broken);
    let error = once_the_list_is_read(|| match node.try_run("web", &wish) {
        Ok(pod) => {
            node.remove(&pod);
            None
        }
        Err(error) => Some(error),
    });
    assert!(error.contains("no_such_setting"), "{error}");
    nothing_is_left(b, &before);
    b.out.is_not_served(PORT);

    node::configure(&good);
    let web = once_the_list_is_read(|| node.try_run("web", &wish).ok());
    web.netns.serve("web", 80);
    node.serves("web", PORT, &web, &web);
    node.compat.works(
        "all",
        "an ADD that fails in mid-chain leaves nothing, and its error reaches the caller",
    );
}

/// containerd watches the directory, and takes a while.
#[track_caller]
fn once_the_list_is_read<T>(tried: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(outcome) = tried() {
            return outcome;
        }
        assert!(Instant::now() < deadline, "containerd never read the new list");
    }
}

fn pods_outlive_the_daemon(b: &TestBox) {
    let mut list = node::network(b, "1.0.0");
    // Of a pod whose namespace is gone, Debian's bridge leaves the masquerading.
    list["plugins"][0]["ipMasq"] = json!(false);
    node::configure(&list);
    let mut node = Node::start_on_configured(b);
    let wish = Wish::ports(&[both(PORT, 80), vec![tcp(PORT + 2, 81)]].concat());
    let before = node.used_and_empty(&wish);
    let web = node.run("web", &wish);
    let gone = node.run_silent("gone", &Wish::ports(&both(PORT + 1, 80)));
    web.netns.serve_echo(81);
    let mut flow = b.out.tcp_flow(HOST_V4, PORT + 2);
    node.kill();
    flow.echo();
    node.serves("web", PORT, &web, &web);
    // As after a restart of the runtime that took the mount with it.
    let Pod { id: gone, netns } = gone;
    run(tool("umount").arg("-l").arg(netns.path()));
    fs::remove_file(netns.path()).expect("a mount point of the box's");
    drop(netns);
    node.start_again();
    flow.echo();
    node.serves("web", PORT, &web, &web);
    node.remove(&web);
    node.end("StopPodSandbox", &gone);
    node.end("RemovePodSandbox", &gone);
    b.out.is_not_served(PORT);
    nothing_is_left(b, &before);
    node.compat.works(
        "all",
        "kill -9 of the daemon: ports are served on, and pods are removed later, one without its \
         namespace too",
    );
}

fn thirty_pods_at_once(b: &TestBox) {
    let node = Node::start(b);
    let wish = |number: u16| Wish::limited(&both(9000 + number, 80));
    let before = node.used_and_empty(&wish(0));
    let pods: Vec<Pod> = at_once(30, |number| node.run(&format!("pod{number}"), &wish(number)));
    for (number, pod) in (0..).zip(&pods) {
        b.out.is_served(9000 + number, &format!("pod{number}"));
        assert_eq!(pod.netns.read_sysctl("core/somaxconn"), "511");
    }
    at_once(30, |number| node.remove(&pods[usize::from(number)]));
    nothing_is_left(b, &before);
    node.compat.works("all", "30 pods at once, removed at once");
}

fn at_once<T: Send>(count: u16, work: impl Fn(u16) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it did its work")).collect()
    })
}

fn a_flushed_node_is_restored_from_the_cache(b: &TestBox) {
    let node = Node::start(b);
    let wish = Wish { mappings: both(PORT, 80), bandwidth: Some(("16M", "8M")) };
    let before = node.used_and_empty(&wish);
    let web = node.run("web", &wish);
    let neighbour = node.run("neighbour", &Wish::ports(&both(PORT + 1, 80)));
    node.serves("web", PORT, &web, &neighbour);
    node::flush(b);
    b.out.is_not_served(PORT);
    let told = run(&mut node::cni_chain(&["restore"]));
    println!("{told}");
    let line = format!("podnet/{}/eth0: restored ipMasq, portmap, firewall", web.id);
    assert!(told.contains(&line), "{told}");
    node.serves("web", PORT, &web, &neighbour);
    node.serves("neighbour", PORT + 1, &neighbour, &web);
    node.compat.works("all", "nft flush ruleset, then cni-chain restore from the runtime's cache");
    node.remove(&web);
    node.remove(&neighbour);
    nothing_is_left(b, &before);
}

/// containerd 2 asks STATUS of the plugins of a list of CNI 1.1.0; whatever is wrong that an ADD would mend is no
/// reason to take the node away.
fn the_node_stays_ready(b: &TestBox) {
    let asks_status = !version().starts_with("1.");
    // Debian 12's bridge does not know 1.1.0.
    let version = if asks_status { "1.1.0" } else { "1.0.0" };
    let mut good = node::network(b, version);
    // Debian's bridge fails on a flushed host, and nft cannot load its rules.
    good["plugins"][0]["ipMasq"] = json!(false);
    node::configure(&good);
    let node = Node::start_on_configured(b);
    let ready = || network_is_ready(&node.cri).unwrap_or_else(|why| panic!("{why}"));
    let old = node.run("old", &Wish::ports(&both(PORT, 80)));
    ready();
    node::flush(b);
    ready();
    let new = node.run("new", &Wish::ports(&both(PORT, 80)));
    b.out.is_served(PORT, "new");
    ready();
    node.compat.works("all", "the node is ready after a flush, and while two pods want one port");
    node::reload(b);
    ready();
    b.out.is_served(PORT, "new");
    node.remove(&new);
    ready();
    node.compat
        .works("all", "the node is ready after its ruleset was loaded anew, and the pod serves on");
    node.remove(&old);
    if !asks_status {
        return;
    }

    let mut broken = good.clone();
    broken["plugins"][4]["backend"] = json!("firewalld");
    node::configure(&broken);
    let why = once_the_list_is_read(|| network_is_ready(&node.cri).err());
    assert!(why.contains("firewalld"), "{why}");
    node::configure(&good);
    once_the_list_is_read(|| network_is_ready(&node.cri).ok());
    node.compat
        .works("all", "STATUS: a node that could not serve an ADD is not ready, and says why");
}

/// Prints what each of our plugins gets of a pod's life, in lines from which the files of
/// `integration/tests/e2e/recorded` are made.
fn what_it_writes_is_recorded(b: &TestBox) {
    let asks_status = !version().starts_with("1.");
    let mut list = node::network(b, if asks_status { "1.1.0" } else { "1.0.0" });
    list["plugins"][0]["ipMasq"] = json!(false);
    node::configure(&list);
    let node = Node::start_on_configured(b);
    for plugin in OURS {
        spy::stand_before(Path::new(PLUGINS), plugin, &Implementation::Ours.plugin(plugin));
    }
    let mappings = [both(PORT, 80), vec![tcp(8081, 80).at("127.0.0.1")]].concat();
    let web = node.run_silent("web", &Wish { mappings, bandwidth: Some(("16M", "8M")) });
    network_is_ready(&node.cri).unwrap_or_else(|why| panic!("{why}"));
    node.remove(&web);
    let mut seen = BTreeSet::new();
    let calls = spy::calls(Path::new(PLUGINS)).into_iter();
    // STATUS comes again and again.
    let once = |call: &spy::Call| call.command != "STATUS" || seen.insert(call.plugin.clone());
    let calls: Vec<spy::Call> = calls.filter(once).collect();
    for spy::Call { plugin, command, env, stdin_text, .. } in &calls {
        let call = json!({ "plugin": plugin, "command": command, "env": env, "stdin": stdin_text });
        println!("recorded| {call}");
    }
    for plugin in OURS {
        let of = |command| {
            calls.iter().filter(|one| one.plugin == plugin && one.command == command).count()
        };
        assert_eq!((of("ADD"), of("STATUS")), (1, usize::from(asks_status)), "{plugin}");
        // One more from RemovePodSandbox, without a namespace.
        assert!(of("DEL") > 1, "{plugin}");
    }
}
