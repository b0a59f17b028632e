//! podman with CNI: published ports, pods, networks that come and go.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::{Command, Output};

use cni_testbox::{
    GO_PLUGINS, HOST_V4, HOST2_V4, HOST2_V6, Namespace, OUT_V4, TestBox, Transport, cases,
    eventually, ip, link, listed, run, sh, tool,
};
use serde_json::{Value, json};

use crate::compat::Compat;
use crate::image;
use crate::node::{self, NETWORKS, everything, nothing_is_left};
use crate::rate;

cases! {
    the_default_network, backends;
    published_ports, backends;
    a_port_in_use, backends;
    two_networks_in_either_order, backends;
    a_mac_address, backends;
    pods, backends;
    reload_after_a_flush, backends;
    limits_and_settings_of_a_conflist, backends;
}

const PORT: u16 = 8080;
pub(crate) const IMAGE: &str = "localhost/sleep:1";

/// What podman needs in a box, which has no controller that could limit processes.
pub(crate) const IN_A_BOX: &str = r#"[containers]
log_driver = "k8s-file"
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
lock_type = "file"
events_logger = "file"
runtime = "runc"
"#;

const NETWORK: &str = r#"[network]
network_backend = "cni"
cni_plugin_dirs = PLUGINS
network_config_dir = "NETWORKS"
"#;

/// Not below /var, which is an overlay here, and the images' layers are overlays.
pub(crate) const STORAGE: &str = r#"[storage]
driver = "overlay"
graphroot = "/run/podman/root"
runroot = "/run/podman/run"
"#;

/// A host with podman. Nothing of it runs but what a command starts.
pub(crate) struct Podman<'a> {
    b: &'a TestBox,
    pub(crate) compat: Compat,
}

impl<'a> Podman<'a> {
    pub(crate) fn on(b: &'a TestBox) -> Self {
        b.with_cgroups();
        node::put_plugins(b.implementation);
        fs::create_dir_all(NETWORKS).expect("the box's own file system");
        let ours = b.implementation.plugin("portmap");
        let ours = ours.parent().expect("a directory").display().to_string();
        configure("/run/containers.conf", [&ours, GO_PLUGINS], NETWORKS);
        let version = run(tool("podman").arg("--version"));
        let version = version.trim().rsplit(' ').next().expect("a version");
        let host = Self { b, compat: Compat::of("podman", version, b) };
        let archive = image::archive(IMAGE);
        podman(&format!("load --quiet --input {}", archive.display()));
        host
    }

    /// A network of that name with a subnet per family.
    pub(crate) fn network(&self, name: &str, number: u8) {
        podman(&format!(
            "network create --ipv6 --subnet 10.89.{number}.0/24 --subnet fd00:89:{number}::/64 {name}"
        ));
        if let Some(backend) = self.b.implementation.backend() {
            edit(name, |plugins| use_backend(plugins, backend));
        }
    }

    /// The network that podman has by itself. Where a backend has to be named, it needs a file.
    fn default_network(&self) {
        let Some(backend) = self.b.implementation.backend() else { return };
        podman("network create new");
        edit("new", |plugins| use_backend(plugins, backend));
        let file = Path::new(NETWORKS).join("new.conflist");
        let text = fs::read_to_string(&file).expect("podman wrote it");
        let text = text.replace(r#""name":"new""#, r#""name":"podman""#);
        fs::write(Path::new(NETWORKS).join("podman.conflist"), text).expect("a new file");
        fs::remove_file(file).expect("a file of the box's");
    }
}

/// A new container, which serves as `name` on port 80; its namespace.
#[track_caller]
pub(crate) fn start(name: &str, options: &str) -> Namespace {
    podman(&format!("run --detach --name {name} {options} {IMAGE}"));
    let netns = netns(name);
    netns.serve(name, 80);
    netns
}

/// The namespace of a container.
#[track_caller]
fn netns(container: &str) -> Namespace {
    let format = "{{.NetworkSettings.SandboxKey}}";
    let path = podman(&format!("inspect --type container --format {format} {container}"));
    let name = Path::new(&path).file_name().expect("a container has a namespace");
    Namespace::named(&name.to_string_lossy())
}

#[track_caller]
pub(crate) fn remove(container: &str) {
    podman(&format!("rm --force --time 0 {container}"));
}

/// Writes podman's configuration. It takes a plugin from the first directory that has it.
pub(crate) fn configure(path: &str, plugins: [&str; 2], networks: &str) {
    let network = NETWORK.replace("PLUGINS", &format!("{plugins:?}")).replace("NETWORKS", networks);
    fs::write(path, format!("{IN_A_BOX}{network}")).expect("a new file");
}

fn command(words: &str) -> Command {
    let mut command = tool("podman");
    // Not below /var, which is an overlay here, and the images' layers are overlays.
    command
        .args(["--root", "/run/podman/root", "--runroot", "/run/podman/run"])
        .args(["--tmpdir", "/run/podman/tmp"])
        .args(words.split_whitespace())
        .env("CONTAINERS_CONF", "/run/containers.conf");
    command
}

/// Runs podman with these words; what it printed.
#[track_caller]
fn podman(words: &str) -> String {
    run(&mut command(words)).trim().to_owned()
}

/// The same where it must fail; what it said.
#[track_caller]
fn podman_fails(words: &str) -> String {
    let Output { status, stderr, .. } = command(words).output().expect("it starts");
    assert!(!status.success(), "podman {words}: it should have failed");
    String::from_utf8_lossy(&stderr).into_owned()
}

pub(crate) fn edit(network: &str, change: impl FnOnce(&mut Vec<Value>)) {
    edit_list(&Path::new(NETWORKS).join(format!("{network}.conflist")), change);
}

/// Names the backend of those plugins that have several.
pub(crate) fn use_backend(plugins: &mut [Value], backend: &str) {
    for entry in plugins {
        if entry["type"] == "portmap" || entry["type"] == "firewall" {
            entry["backend"] = json!(backend);
        }
    }
}

/// Changes the entries of a list as an administrator does.
pub(crate) fn edit_list(path: &Path, change: impl FnOnce(&mut Vec<Value>)) {
    let text = fs::read_to_string(path).expect("podman wrote it");
    let mut list: Value = serde_json::from_str(&text).expect("JSON");
    change(list["plugins"].as_array_mut().expect("a list"));
    fs::write(path, list.to_string()).expect("a file of the box's");
}

/// Of IPv4, by both transports, to everybody: podman's default network has no IPv6.
#[track_caller]
fn is_served_v4(b: &TestBox, id: &str, port: u16, own: &Namespace) {
    for transport in Transport::ALL {
        b.out.reach(transport, HOST_V4, port).by(id).seen_as(OUT_V4);
        b.host.reach(transport, HOST_V4, port).by(id);
        b.host.reach(transport, "127.0.0.1", port).by(id);
        own.reach(transport, HOST_V4, port).by(id);
    }
}

const BOTH: &str = "--publish 8080:80/tcp --publish 8080:80/udp";

fn the_default_network(b: &TestBox) {
    node::drop_what_is_forwarded(b);
    b.out.serve("out", 80);
    let host = Podman::on(b);
    host.default_network();
    start("first", BOTH);
    remove("first");
    let before = everything(b);
    let web = start("web", BOTH);
    is_served_v4(b, "web", PORT, &web);
    web.reach(Transport::Tcp, OUT_V4, 80).by("out");
    remove("web");
    b.out.is_not_served(PORT);
    nothing_is_left(b, &before);
    host.compat.works("all", "the network that podman has by itself: ports, and the outside");
}

fn published_ports(b: &TestBox) {
    let host = Podman::on(b);
    host.network("a", 1);
    let neighbour = start("neighbour", "--network a");
    let options = format!(
        "--network a {BOTH} --publish 8090-8092:80-82 --publish 127.0.0.1:8081:80 \
         --publish {HOST2_V4}:8082:80 --publish [{HOST2_V6}]:8083:80 --publish 8443:443/sctp"
    );
    start("first", &options);
    remove("first");
    let before = everything(b);
    let web = start("web", &options);
    web.serve("second", 81);
    web.serve("third", 82);
    node::is_served(b, "web", PORT, &web, &neighbour);
    host.compat.works("portmap", "--publish by tcp and udp");
    for (port, server) in [(8090, "web"), (8091, "second"), (8092, "third")] {
        b.out.reach(Transport::Tcp, HOST_V4, port).by(server);
    }
    host.compat.works("portmap", "a range of ports");
    b.host.reach(Transport::Tcp, "127.0.0.1", 8081).by("web");
    b.out.reach(Transport::Tcp, HOST2_V4, 8082).by("web");
    b.out.reach(Transport::Tcp, HOST2_V6, 8083).by("web");
    for port in [8081, 8082, 8083] {
        b.out.cannot_reach(Transport::Tcp, HOST_V4, port);
    }
    host.compat.works("portmap", "host addresses");
    let sctp = SocketAddrV4::new(HOST_V4.parse().expect("an address"), 8443);
    b.out.send_sctp_init(OUT_V4, 5000, sctp);
    eventually("the connection table has the SCTP packet's way to the container", || {
        b.flows("ipv4", "sctp")
            .iter()
            .any(|flow| flow.contains("src=10.89.1.") && flow.contains("sport=443 "))
    });
    host.compat.works("portmap", "sctp: the packet is translated");
    remove("web");
    b.out.is_not_served(PORT);
    nothing_is_left(b, &before);
    host.compat.works("all", "rm --force leaves nothing");
}

fn a_port_in_use(b: &TestBox) {
    let host = Podman::on(b);
    host.network("a", 1);
    let web = start("web", &format!("--network a {BOTH}"));
    let fail_late = || {
        let said = podman_fails(&format!("run --detach --name late --network a {BOTH} {IMAGE}"));
        assert!(said.contains("address already in use"), "{said}");
        remove("late");
        node::is_served(b, "web", PORT, &web, &web);
    };
    // An attachment keeps in mind that its port was taken from it once.
    fail_late();
    let before = everything(b);
    fail_late();
    nothing_is_left(b, &before);
    host.compat.works("portmap", "a run that fails on a port in use: the first goes on serving");
}

fn two_networks_in_either_order(b: &TestBox) {
    let host = Podman::on(b);
    host.network("a", 1);
    host.network("z", 2);
    for (first, second) in [("a", "z"), ("z", "a")] {
        podman(&format!("run --detach --name web --network {first} {BOTH} {IMAGE}"));
        let mut web = OnNetworks { netns: netns("web"), served: BTreeSet::new() };
        web.is_served(b);
        for (joined, left) in [(second, first), (first, second)] {
            podman(&format!("network connect {joined} web"));
            web.is_served(b);
            podman(&format!("network disconnect {left} web"));
            // With it went the default route, which the other one had found taken.
            let number = if joined == "a" { 1 } else { 2 };
            web.netns.batch(&[
                &format!("route replace default via 10.89.{number}.1"),
                &format!("route replace ::/0 via fd00:89:{number}::1"),
            ]);
            web.is_served(b);
        }
        remove("web");
        b.out.is_not_served(PORT);
    }
    host.compat
        .works("portmap", "two networks in either order, connect and disconnect: always served");
}

/// The container `web`, whose addresses change.
struct OnNetworks {
    netns: Namespace,
    served: BTreeSet<SocketAddr>,
}

impl OnNetworks {
    /// It serves at each of its addresses by itself, because a wildcard UDP socket would answer from the
    /// address of the default route.
    #[track_caller]
    fn is_served(&mut self, b: &TestBox) {
        let links = listed(&format!("ip -n {} -j addr show scope global", self.netns.name));
        let addresses = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
        for address in addresses.filter_map(|address| address["local"].as_str()) {
            let address = SocketAddr::new(ip(address), 80);
            if self.served.insert(address) {
                self.netns.serve_at("web", address);
            }
        }
        node::is_served(b, "web", PORT, &self.netns, &self.netns);
    }
}

fn a_mac_address(b: &TestBox) {
    let host = Podman::on(b);
    host.network("a", 1);
    let mac = "02:00:5e:10:00:05";
    let web = start("web", &format!("--network a --mac-address {mac} {BOTH}"));
    let eth0 = link(&web.name, "eth0").expect("an interface");
    assert_eq!(eth0["address"], mac);
    let told = podman("inspect web");
    assert!(told.contains(mac), "podman does not know it: {told}");
    node::is_served(b, "web", PORT, &web, &web);
    host.compat.works("tuning", "--mac-address");
}

const KUBE: &str = "apiVersion: v1
kind: Pod
metadata:
  name: kube
spec:
  containers:
  - name: sleep
    image: localhost/sleep:1
    ports:
    - containerPort: 80
      hostPort: 8081
";

fn pods(b: &TestBox) {
    let host = Podman::on(b);
    host.network("a", 1);
    // The pod has no control group of its own: see `play_kube`.
    podman(&format!("pod create --share-parent=false --name pod --network a {BOTH}"));
    podman(&format!("run --detach --pod pod --name web {IMAGE}"));
    let web = netns("web");
    web.serve("web", 80);
    node::is_served(b, "web", PORT, &web, &web);
    host.compat.works("portmap", "a pod's ports");

    play_kube();
    let kube = netns("kube-sleep");
    kube.serve("kube", 80);
    for address in [HOST_V4, cni_testbox::HOST_V6] {
        b.out.reach(Transport::Tcp, address, 8081).by("kube");
    }
    host.compat.works("portmap", "play kube with a hostPort");
    podman("pod rm --force --time 0 --all");
    b.out.is_not_served(PORT);
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8081);
    let left = everything(b);
    assert!(!left.contains("/eth0"), "{left}");
}

/// podman makes a control group for such a pod, which takes two detours here.
fn play_kube() {
    fs::write("/run/kube.yaml", KUBE).expect("a new file");
    // It enables all controllers for the pod. A box has none, and the kernel takes no empty list.
    sh("mkdir -p /sys/fs/cgroup/libpod_parent && touch /run/subtree_control && \
        for group in /sys/fs/cgroup /sys/fs/cgroup/libpod_parent; do \
            mount --bind /run/subtree_control $group/cgroup.subtree_control; \
        done");
    podman("play kube --network a --start=false /run/kube.yaml");
    // podman 4.3.1, where it does not leave that to systemd, gives the group a filter that admits no
    // device. Made anew, the group has none.
    sh("for group in /sys/fs/cgroup/libpod_parent/*/; do \
            rmdir $group 2>/dev/null && mkdir $group || true; \
        done");
    podman("pod start kube");
}

fn reload_after_a_flush(b: &TestBox) {
    let host = Podman::on(b);
    host.network("a", 1);
    let web = start("web", &format!("--network a {BOTH}"));
    let other = start("other", "--network a --publish 8081:80/tcp");
    node::flush(b);
    b.out.is_not_served(PORT);
    podman("network reload --all");
    node::is_served(b, "web", PORT, &web, &other);
    b.out.reach(Transport::Tcp, HOST_V4, 8081).by("other");
    host.compat.works("all", "network reload after a flush");
    node::flush(b);
    run(&mut node::cni_chain(&["restore"]));
    node::is_served(b, "web", PORT, &web, &other);
    b.out.reach(Transport::Tcp, HOST_V4, 8081).by("other");
    host.compat.works("all", "cni-chain restore after a flush, from podman's cache");
    remove("web");
    b.out.is_not_served(PORT);
}

/// podman has no option for limits: they stand in the conflist.
fn limits_and_settings_of_a_conflist(b: &TestBox) {
    let host = Podman::on(b);
    host.network("a", 1);
    edit("a", |plugins| {
        plugins.insert(
            2,
            json!({ "type": "bandwidth", "ingressRate": 16_000_000, "ingressBurst": 800_000,
            "egressRate": 8_000_000, "egressBurst": 800_000 }),
        );
        plugins.pop();
        plugins.push(json!({ "type": "tuning", "mtu": 1400,
            "sysctl": { "net.core.somaxconn": "511", "net.ipv4.conf.IFNAME.arp_filter": "1" } }));
    });
    let web = start("web", &format!("--network a {BOTH} --publish 8084:81/tcp"));
    assert_eq!(web.read_sysctl("core/somaxconn"), "511");
    assert_eq!(web.read_sysctl("ipv4/conf/eth0/arp_filter"), "1");
    assert_eq!(link(&web.name, "eth0").expect("an interface")["mtu"], 1400);
    host.compat.works("tuning", "mtu and sysctls, one with IFNAME");
    let incoming = rate::carried(&b.out, (HOST_V4, 8084), (&web, 81));
    incoming.keeps_to("into the container", 16e6, 800e3);
    let outgoing = rate::carried(&web, (OUT_V4, 5001), (&b.out, 5001));
    outgoing.keeps_to("out of the container", 8e6, 800e3);
    host.compat.works("bandwidth", "both limits of a conflist, measured");
    remove("web");
    assert_eq!(cni_testbox::tc::ifbs(), [""; 0]);
}
