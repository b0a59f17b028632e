//! `cni-chain restore` after real flushes, judged by packets.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use cni_chain::{NetworkList, Runner, RuntimeConf};
use cni_common::cni::protocol::json::Object;
use serde_json::{Value, json};

use cni_testbox::{
    Container, Firewalld, GO_PLUGINS, HOST_V4, HOST_V6, Implementation, OUT_V4, TestBox, Transport,
    arguments, capabilities, cases, run, tool,
};

cases! {
    a_flushed_host_serves_again, backends;
    a_sound_host_is_not_touched, backends;
    a_newer_owners_port_stays_with_it, backends;
    who_waits_for_a_port_waits_after_a_flush, backends;
    who_lost_its_place_gets_it_back, backends;
    go_plugins_are_left_alone, ours;
    a_container_that_is_gone_gets_nothing, ours;
    a_cache_without_namespaces_will_do, ours;
    restores_at_the_same_time_do_no_harm, backends;
    a_reload_of_firewalld_is_restored_from, ours;
    containers_move_to_where_the_drop_is, ours;
}

pub(crate) const PORT: u16 = 8080;
pub(crate) const NAME: &str = "podnet";

/// A node: a network of bridge and three plugins, and the cache that a runtime would write.
pub(crate) struct Node<'a> {
    b: &'a TestBox,
    pub(crate) plugin_dirs: Vec<PathBuf>,
    pub(crate) list: NetworkList,
}

impl<'a> Node<'a> {
    pub(crate) fn new(b: &'a TestBox) -> Self {
        Self::with(b, b.implementation, b.implementation.backend())
    }

    pub(crate) fn with(b: &'a TestBox, plugins: Implementation, backend: Option<&str>) -> Self {
        let bridge = json!({
            "type": "bridge", "bridge": "br1", "isGateway": true, "hairpinMode": true,
            "ipam": { "type": "host-local",
                "ranges": [[{ "subnet": "10.88.1.0/24" }], [{ "subnet": "fd88:1::/64" }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] },
        });
        Self::behind(b, &bridge, plugins, backend)
    }

    /// A node whose interfaces are made by this entry's plugin.
    pub(crate) fn behind(
        b: &'a TestBox,
        interface: &Value,
        plugins: Implementation,
        backend: Option<&str>,
    ) -> Self {
        let meta = plugins.plugin("portmap").parent().expect("a directory").to_owned();
        let mut portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        let mut firewall = json!({ "type": "firewall" });
        if let Some(backend) = backend {
            portmap["backend"] = json!(backend);
            firewall["backend"] = json!(backend);
        }
        let list = json!({ "cniVersion": "1.0.0", "name": NAME, "plugins": [
            interface,
            portmap,
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            firewall,
        ]});
        let list = NetworkList::from_bytes(list.to_string().as_bytes()).expect("a conflist");
        Self { b, plugin_dirs: vec![meta, GO_PLUGINS.into()], list }
    }

    pub(crate) fn runner(&self) -> Runner {
        Runner::new(self.plugin_dirs.clone(), "/var/lib/cni".into())
    }

    /// A new container that serves as `id` behind `port`.
    pub(crate) fn add(&self, id: &str, port: u16) -> (Container, RuntimeConf) {
        let added = self.add_without_listener(id, port);
        added.0.netns.serve(id, 80);
        added
    }

    /// The same, where nothing listens.
    pub(crate) fn add_without_listener(&self, id: &str, port: u16) -> (Container, RuntimeConf) {
        self.add_as(id, capabilities(port))
    }

    /// A new container with these capability arguments.
    pub(crate) fn add_with(&self, id: &str, capability_args: &Value) -> (Container, RuntimeConf) {
        self.add_as(id, arguments(capability_args))
    }

    fn add_as(&self, id: &str, capability_args: Object) -> (Container, RuntimeConf) {
        let container = self.b.container(id);
        let conf = RuntimeConf {
            container_id: id.into(),
            netns: container.netns.path().display().to_string(),
            ifname: "eth0".into(),
            args: Vec::new(),
            capability_args,
        };
        self.runner().add(&self.list, &conf).expect("ADD");
        (container, conf)
    }

    pub(crate) fn is_sound(&self, conf: &RuntimeConf) -> bool {
        let outcome = self.runner().check(&self.list, conf);
        println!("CHECK of {}: {outcome:?}", conf.container_id);
        outcome.is_ok()
    }

    pub(crate) fn cni_chain(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cni-chain"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CNI_")) {
            command.env_remove(name);
        }
        let path = std::env::join_paths(&self.plugin_dirs).expect("no colons");
        command.args(arguments).env("CNI_PATH", path).stdin(Stdio::null());
        command
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.cni_chain(&[&["restore"], arguments].concat())
    }

    /// Restores successfully; what it printed.
    #[track_caller]
    pub(crate) fn restore(&self, arguments: &[&str]) -> String {
        let printed = run(&mut self.command(arguments));
        println!("{printed}");
        printed
    }

    /// What everybody sees of a container that has everything.
    #[track_caller]
    pub(crate) fn serves(&self, id: &str, port: u16) {
        for transport in Transport::ALL {
            self.b.out.reach(transport, HOST_V4, port).by(id).seen_as(OUT_V4);
            self.b.out.reach(transport, HOST_V6, port).by(id);
            self.b.host.reach(transport, "127.0.0.1", port).by(id);
        }
    }
}

/// What an administrator's script does.
pub(crate) fn flush(b: &TestBox) {
    if b.implementation.backend().is_some() {
        for program in ["iptables", "ip6tables"] {
            for table in ["nat", "filter", "raw"] {
                for what in ["-F", "-X"] {
                    run(tool(program).args(["-t", table, what]));
                }
            }
        }
    } else {
        run(tool("nft").args(["flush", "ruleset"]));
    }
}

/// The host's ends of the containers' veths.
fn host_ends() -> Vec<String> {
    let links = run(tool("ip").args(["-o", "link", "show", "master", "br1"]));
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    links.lines().filter_map(name).collect()
}

/// Rules with handles, so that one made again is another, and qdiscs.
fn everything(b: &TestBox) -> String {
    let rules = match b.implementation.backend() {
        // Without counters: a packet may still be on its way.
        None => run(tool("nft").args(["-s", "-a", "list", "ruleset"])),
        // iptables' rules have counters.
        Some(_) => String::new(),
    };
    rules + &b.ruleset() + &run(tool("tc").args(["qdisc", "show"]))
}

fn a_flushed_host_serves_again(b: &TestBox) {
    for program in ["iptables", "ip6tables"] {
        if b.implementation.backend().is_some() {
            run(tool(program).args(["-P", "FORWARD", "DROP"]));
        }
    }
    let node = Node::new(b);
    let (one, first) = node.add("one", PORT);
    let (_, second) = node.add("two", PORT + 1);
    b.out.serve("out", 80);
    node.serves("one", PORT);
    flush(b);
    for end in host_ends() {
        run(tool("tc").args(["qdisc", "del", "dev", &end, "root"]));
    }
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT);
    assert!(!node.is_sound(&first) && !node.is_sound(&second));

    let dry = node.restore(&["--dry-run"]);
    for id in ["one", "two"] {
        let line = format!("{NAME}/{id}/eth0: would restore portmap, bandwidth, firewall\n");
        assert!(dry.contains(&line), "{dry}");
    }
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT);

    let only = node.restore(&["--container-id", "two", "--quiet"]);
    assert_eq!(
        only,
        format!(
            "{NAME}/two/eth0: restored portmap, bandwidth, firewall\nattachments: 1 restored\n"
        )
    );
    node.serves("two", PORT + 1);
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT);

    let rest = node.restore(&[]);
    assert!(rest.ends_with("attachments: 1 restored, 1 with nothing missing\n"), "{rest}");
    node.serves("one", PORT);
    node.serves("two", PORT + 1);
    one.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    assert!(node.is_sound(&first) && node.is_sound(&second));
    let qdiscs = run(tool("tc").args(["qdisc", "show"]));
    assert_eq!(qdiscs.matches("qdisc tbf").count(), 4, "{qdiscs}");

    for conf in [&first, &second] {
        node.runner().del(&node.list, conf).expect("DEL of what was restored");
    }
    b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT);
    assert!(!b.ruleset().contains("/one/eth0") && !b.ruleset().contains("/two/eth0"));
    assert_eq!(node.restore(&[]), "no attachments\n");
}

fn a_sound_host_is_not_touched(b: &TestBox) {
    let node = Node::new(b);
    node.add("one", PORT);
    node.add("two", PORT + 1);
    let before = everything(b);
    let printed = node.restore(&[]);
    assert!(printed.ends_with("attachments: 2 with nothing missing\n"), "{printed}");
    assert_eq!(node.restore(&["--quiet"]), "");
    assert_eq!(everything(b), before);
}

fn a_newer_owners_port_stays_with_it(b: &TestBox) {
    let node = Node::new(b);
    let (_old, _) = node.add("old", PORT);
    let (_new, new) = node.add("new", PORT);
    node.serves("new", PORT);
    let before = everything(b);
    let printed = node.restore(&[]);
    assert!(printed.ends_with("attachments: 2 with nothing missing\n"), "{printed}");
    assert_eq!(everything(b), before);

    flush(b);
    let printed = node.restore(&[]);
    let kept = format!("host port {PORT}/tcp is {NAME}/new/eth0's, which is newer");
    assert!(printed.contains(&kept), "{printed}");
    node.serves("new", PORT);
    assert!(node.is_sound(&new));
    let before = everything(b);
    assert_eq!(node.restore(&["--quiet"]), "");
    assert_eq!(everything(b), before);

    // What somebody else has whom the cache does not know.
    fs::remove_file(format!("/var/lib/cni/results/{NAME}-new-eth0")).expect("the file");
    for arguments in [&["--dry-run"][..], &[]] {
        let output = node.command(arguments).output().expect("it runs");
        let printed = String::from_utf8_lossy(&output.stdout);
        println!("{arguments:?}: {printed}");
        if output.status.success() {
            // iptables keeps the older one's rules behind the newer one's.
            assert!(b.implementation.backend().is_some(), "{printed}");
        } else {
            assert!(
                printed.contains(&format!("belongs to attachment {NAME}/new/eth0")),
                "{printed}"
            );
            assert!(printed.contains("`cni-chain purge --container-id new` removes"), "{printed}");
        }
        node.serves("new", PORT);
    }
    // Its purge is what gives the port back.
    run(&mut node.cni_chain(&["purge", "--container-id", "new", "--yes"]));
    node.restore(&[]);
    node.serves("old", PORT);
}

/// What restore says of it, and a second one that has nothing to do.
#[track_caller]
fn restores_the_queue(b: &TestBox, node: &Node<'_>, lines: &[&str]) {
    let printed = node.restore(&[]);
    for line in lines {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let before = everything(b);
    assert_eq!(node.restore(&["--quiet"]), "");
    assert_eq!(everything(b), before);
}

/// Each of these has the port when the one before it goes.
#[track_caller]
fn serve_in_turn(node: &Node<'_>, port: u16, mut queue: &[&RuntimeConf]) {
    while let [holder, losers @ ..] = queue {
        node.serves(&holder.container_id, port);
        assert!(node.is_sound(holder));
        for loser in losers {
            let error = node.runner().check(&node.list, loser).expect_err("its port is another's");
            assert_eq!(error.code(), Some(102), "{error}");
            assert!(error.to_string().contains(&format!("{NAME}/{}/eth0", holder.container_id)));
        }
        node.runner().del(&node.list, holder).expect("DEL");
        queue = losers;
    }
}

fn who_waits_for_a_port_waits_after_a_flush(b: &TestBox) {
    let node = Node::new(b);
    let mappings = |ports: &[u16]| {
        let of = |port: &u16| {
            ["tcp", "udp"].map(
                |protocol| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol }),
            )
        };
        json!({ "portMappings": ports.iter().flat_map(of).collect::<Vec<_>>() })
    };
    let all = [("old", &[PORT][..]), ("mid", &[PORT, PORT + 1]), ("new", &[PORT])];
    let all = all.map(|(id, ports)| {
        let (container, conf) = node.add_with(id, &mappings(ports));
        container.netns.serve(id, 80);
        (container, conf)
    });
    let [old, mid, new] = all.each_ref().map(|(_, conf)| conf);
    flush(b);
    restores_the_queue(
        b,
        &node,
        &["new/eth0: restored", "mid/eth0: restored", "old/eth0: restored"],
    );
    node.serves("mid", PORT + 1);
    serve_in_turn(&node, PORT, &[new, mid, old]);
}

/// Somebody deleted what one of them had, which then must not come behind who waits behind it.
fn who_lost_its_place_gets_it_back(b: &TestBox) {
    let node = Node::new(b);
    let all = ["old", "mid", "new"].map(|id| node.add(id, PORT));
    let [old, mid, new] = all.each_ref().map(|(_, conf)| conf);
    let del = format!(
        "echo '{{\"cniVersion\":\"1.0.0\",\"name\":\"{NAME}\",\"type\":\"portmap\"}}' | CNI_COMMAND=DEL \
         CNI_CONTAINERID=mid CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin {}",
        b.implementation.plugin("portmap").display()
    );
    run(tool("sh").args(["-c", &del]));
    assert!(!node.is_sound(mid));
    restores_the_queue(b, &node, &["new/eth0: nothing missing", "mid/eth0: restored portmap"]);
    serve_in_turn(&node, PORT, &[new, mid, old]);
}

fn go_plugins_are_left_alone(b: &TestBox) {
    let go = Node::with(b, Implementation::Go, None);
    go.add("one", PORT);
    go.serves("one", PORT);
    let before = everything(b);
    let printed = go.restore(&[]);
    assert!(
        printed.contains("portmap skipped: /usr/lib/cni/portmap is not cni-chain's"),
        "{printed}"
    );
    assert!(printed.ends_with("attachments: 1 skipped\n"), "{printed}");
    assert_eq!(everything(b), before);
}

fn a_container_that_is_gone_gets_nothing(b: &TestBox) {
    let node = Node::new(b);
    node.add("kept", PORT);
    node.add("deleted", PORT + 1);
    node.add("replaced", PORT + 2);
    flush(b);
    run(tool("ip").args(["netns", "del", "deleted"]));
    run(tool("ip").args(["netns", "del", "replaced"]));
    // Another container gets the name, and the address with a hardware address of its own.
    let other = b.container("replaced");
    other.netns.batch(&[
        "link add eth0 type veth peer name other0",
        "addr add 10.88.1.99/24 dev eth0",
        "link set eth0 up",
    ]);
    let printed = node.restore(&[]);
    for (id, reason) in [
        ("deleted", "there is no network namespace at /run/netns/deleted"),
        ("replaced", "eth0 in /run/netns/replaced is another container's"),
    ] {
        let line = format!("{NAME}/{id}/eth0: gone: {reason}; ");
        assert!(printed.contains(&line), "{printed}");
        assert!(!b.ruleset().contains(&format!("{NAME}/{id}/eth0")));
    }
    assert!(printed.ends_with("attachments: 1 restored, 2 gone\n"), "{printed}");
    node.serves("kept", PORT);
}

/// Changes what is remembered of an attachment, and leaves its age.
fn rewrite(id: &str, change: impl FnOnce(&mut Value)) {
    let path = format!("/var/lib/cni/results/{NAME}-{id}-eth0");
    let written = fs::metadata(&path).and_then(|file| file.modified()).expect("a file");
    let text = fs::read(&path).expect("a file");
    let mut content = serde_json::from_slice(&text).expect("JSON");
    change(&mut content);
    fs::write(&path, content.to_string()).expect("a file");
    let file = File::options().write(true).open(&path).expect("a file");
    file.set_modified(written).expect("a time");
}

/// libcni before 1.2 kept no path, and Calico returns none: its result has the host's end only.
fn a_cache_without_namespaces_will_do(b: &TestBox) {
    let node = Node::new(b);
    node.add("podman", PORT);
    node.add("calico", PORT + 1);
    node.add("gone", PORT + 2);
    for id in ["podman", "calico", "gone"] {
        rewrite(id, |content| {
            content.as_object_mut().expect("an object").remove("netns").expect("a path");
        });
    }
    for id in ["calico", "gone"] {
        rewrite(id, |content| {
            let result = &mut content["result"];
            result["interfaces"] = json!([{ "name": "cali0" }]);
            for address in result["ips"].as_array_mut().expect("addresses") {
                address.as_object_mut().expect("an object").remove("interface");
            }
        });
    }
    run(tool("ip").args(["netns", "del", "gone"]));
    flush(b);
    let printed = node.restore(&[]);
    for id in ["podman", "calico"] {
        assert!(printed.contains(&format!("{NAME}/{id}/eth0: restored portmap, firewall\n")));
    }
    assert!(printed.contains(&format!("{NAME}/gone/eth0: gone: the cache names no namespace")));
    node.serves("podman", PORT);
    node.serves("calico", PORT + 1);
}

fn restores_at_the_same_time_do_no_harm(b: &TestBox) {
    let node = Node::new(b);
    let confs: Vec<RuntimeConf> =
        (0..8).map(|index| node.add(&format!("c{index}"), PORT + index).1).collect();
    for _ in 0..3 {
        flush(b);
        let several: Vec<Child> = (0..3)
            .map(|_| node.command(&[]).stdout(Stdio::piped()).spawn().expect("it starts"))
            .collect();
        for child in several {
            let output = child.wait_with_output().expect("it ends");
            let printed = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{printed}");
        }
        for (index, conf) in (0..).zip(&confs) {
            assert!(node.is_sound(conf));
            b.out.reach(Transport::Tcp, HOST_V4, PORT + index).by(&conf.container_id);
        }
        assert_eq!(node.restore(&["--quiet"]), "");
    }
}

fn a_reload_of_firewalld_is_restored_from(b: &TestBox) {
    let firewalld = Firewalld::start();
    let node = Node::new(b);
    let (web, conf) = node.add("web", PORT);
    b.out.serve("out", 80);
    web.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    firewalld.reload();
    web.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
    assert!(!node.is_sound(&conf));
    let printed = node.restore(&[]);
    assert!(printed.starts_with(&format!("{NAME}/web/eth0: restored firewall\n")), "{printed}");
    web.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    node.serves("web", PORT);
    assert!(node.is_sound(&conf));
    assert_eq!(node.restore(&["--quiet"]), "");
}

/// What dockerd and ufw do to a host.
pub(crate) fn drop_forwarded() {
    for program in ["iptables", "ip6tables"] {
        run(tool(program).args(["-P", "FORWARD", "DROP"]));
    }
}

fn containers_move_to_where_the_drop_is(b: &TestBox) {
    let node = Node::new(b);
    let (web, conf) = node.add("web", PORT);
    b.out.serve("out", 80);
    web.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    drop_forwarded();
    web.netns.cannot_reach(Transport::Tcp, OUT_V4, 80);
    let said = node.restore(&["--dry-run"]);
    assert!(said.contains("chain ip filter FORWARD has policy drop"), "{said}");
    let said = node.restore(&[]);
    assert!(said.contains(&format!("{NAME}/web/eth0: restored firewall")), "{said}");
    web.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
    node.serves("web", PORT);
    assert!(node.is_sound(&conf));
}
