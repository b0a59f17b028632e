//! containerd's CRI, which is what kubelet calls: pods with host ports and limits.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cni_testbox::{
    HOST_V4, HOST2_V4, HOST2_V6, Mapping, Namespace, OUT_V4, TestBox, Transport, both, cases,
    eventually_within, listed, run, tcp, tool, udp,
};
use serde_json::json;

use crate::compat::Compat;
use crate::cri::Cri;
use crate::node::{self, everything, nothing_is_left};
use crate::{image, rate};

cases! {
    a_pod_has_what_it_asks_for, backends;
    a_failed_add_leaves_nothing, backends;
    pods_outlive_the_daemon, backends;
    thirty_pods_at_once, backends;
    a_flushed_node_is_restored_from_the_cache, backends;
    the_node_stays_ready, backends;
}

const PORT: u16 = 8080;
const SOCKET: &str = "/run/containerd.sock";
const LOG: &str = "/run/containerd.log";
const IMAGE: &str = "localhost/pause:1";

/// What is common to all versions.
const CONFIG: &str = r#"
root = "/run/containerd-root"
state = "/run/containerd-state"
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/containerd-opt"
"#;

const CRI_1: &str = r#"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    options = { BinaryName = "/run/runc" }
"#;

const CRI_2: &str = r#"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
    max_conf_num = 1
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    options = { BinaryName = "/run/runc" }
"#;

/// runc, without the share of the processor that containerd gives to each pod: a box has no controllers.
const RUNC: &str = r#"#!/bin/sh
set -eu
previous= bundle=
for word; do
    [ "$previous" != --bundle ] || bundle=$word
    previous=$word
done
if [ -n "$bundle" ]; then
    jq 'del(.linux.resources.cpu)' "$bundle/config.json" >"$bundle/config.new"
    mv "$bundle/config.new" "$bundle/config.json"
fi
exec runc "$@"
"#;

/// The configuration for a version of containerd.
fn config(version: &str) -> String {
    if version.starts_with("1.") {
        format!("version = 2{CONFIG}{CRI_1}")
    } else {
        format!("version = 3{CONFIG}{CRI_2}")
    }
}

/// A node with a running containerd.
pub(crate) struct Node<'a> {
    b: &'a TestBox,
    daemon: Child,
    cri: Cri,
    pub(crate) compat: Compat,
}

/// A running pod sandbox.
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) netns: Namespace,
}

/// What a pod asks for.
#[derive(Clone, Default)]
pub(crate) struct Wish {
    mappings: Vec<Mapping>,
    /// Ingress and egress in Kubernetes' words, as `16M`.
    bandwidth: Option<(&'static str, &'static str)>,
}

impl Wish {
    pub(crate) fn ports(mappings: &[Mapping]) -> Self {
        Self { mappings: mappings.to_vec(), bandwidth: None }
    }

    /// The same with limits that are in nobody's way.
    pub(crate) fn limited(mappings: &[Mapping]) -> Self {
        Self { bandwidth: Some(("100M", "50M")), ..Self::ports(mappings) }
    }

    /// In protobuf's text format.
    fn request(&self, name: &str) -> String {
        let mut text = format!(
            "config {{ metadata {{ name: {name:?} uid: {name:?} namespace: \"default\" }} \
             hostname: {name:?} log_directory: \"/run\" linux {{ }} "
        );
        for Mapping { host_port, container_port, protocol, host_ip } in &self.mappings {
            let host_ip = host_ip.as_deref().unwrap_or_default();
            let protocol = protocol.to_uppercase();
            let _ = write!(
                text,
                "port_mappings {{ protocol: {protocol} container_port: {container_port} \
                 host_port: {host_port} host_ip: {host_ip:?} }} "
            );
        }
        if let Some((ingress, egress)) = self.bandwidth {
            for (direction, rate) in [("ingress", ingress), ("egress", egress)] {
                let key = format!("kubernetes.io/{direction}-bandwidth");
                let _ = write!(text, "annotations {{ key: {key:?} value: {rate:?} }} ");
            }
        }
        text + "}"
    }
}

impl Pod {
    /// The pod's IPv4 address.
    pub(crate) fn address_v4(&self) -> String {
        let links = listed(&format!("ip -n {} -j -4 addr show dev eth0", self.netns.name));
        let address = links[0]["addr_info"][0]["local"].as_str();
        address.expect("a pod has an address").to_owned()
    }
}

impl<'a> Node<'a> {
    pub(crate) fn start(b: &'a TestBox) -> Self {
        node::configure(&node::network(b, "1.0.0"));
        Self::start_on_configured(b)
    }

    fn start_on_configured(b: &'a TestBox) -> Self {
        b.with_cgroups();
        node::put_plugins(b.implementation);
        let version = containerd_version();
        fs::write("/run/containerd.toml", config(&version)).expect("a new file");
        fs::write("/run/runc", RUNC).expect("a new file");
        fs::set_permissions("/run/runc", Permissions::from_mode(0o755)).expect("a file of ours");
        let daemon = daemon();
        let archive = image::archive(IMAGE);
        run(tool("ctr")
            .args(["--address", SOCKET, "--namespace", "k8s.io", "images", "import"])
            .arg(archive));
        let compat = Compat::of("containerd CRI", &version, b);
        Self { b, daemon, cri: Cri::at(Path::new(SOCKET)), compat }
    }

    /// As it reads its network's list anew.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.daemon = daemon();
    }

    fn kill(&mut self) {
        self.daemon.kill().expect("a child of ours");
        self.daemon.wait().expect("a child of ours");
    }

    fn try_run(&self, name: &str, wish: &Wish) -> Result<Pod, String> {
        let answer = self.cri.call("RunPodSandbox", &wish.request(name))?;
        let id = quoted(&answer, "pod_sandbox_id: \"").expect("an ID").to_owned();
        let status = format!("pod_sandbox_id: {id:?} verbose: true");
        let status = self.cri.call("PodSandboxStatus", &status)?;
        let netns = Namespace::named(netns_in(&status));
        Ok(Pod { id, netns })
    }

    /// A new pod, which serves as `name` on port 80.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, wish: &Wish) -> Pod {
        let pod = self.run_silent(name, wish);
        pod.netns.serve(name, 80);
        pod
    }

    /// A new pod, in which nothing listens: no socket of ours keeps its namespace.
    #[track_caller]
    fn run_silent(&self, name: &str, wish: &Wish) -> Pod {
        let outcome = self.try_run(name, wish);
        outcome.unwrap_or_else(|error| {
            let log = fs::read_to_string(LOG).unwrap_or_default();
            panic!("{error}\n{log}")
        })
    }

    #[track_caller]
    fn stop(&self, pod: &Pod) {
        self.end("StopPodSandbox", &pod.id);
    }

    #[track_caller]
    pub(crate) fn remove(&self, pod: &Pod) {
        self.stop(pod);
        self.end("RemovePodSandbox", &pod.id);
    }

    #[track_caller]
    fn end(&self, method: &str, id: &str) {
        let answer = self.cri.call(method, &format!("pod_sandbox_id: {id:?}"));
        answer.unwrap_or_else(|error| panic!("{error}"));
    }

    /// What there is when a first pod has come and gone: the bridge, and tables without elements.
    fn used_and_empty(&self, wish: &Wish) -> String {
        let pod = self.run_silent("first", wish);
        self.remove(&pod);
        everything(self.b)
    }

    /// As [`node::is_served`].
    #[track_caller]
    fn serves(&self, name: &str, port: u16, pod: &Pod, neighbour: &Pod) {
        node::is_served(self.b, name, port, &pod.netns, &neighbour.netns);
    }
}

/// Without what Debian adds to it.
fn containerd_version() -> String {
    let words = run(tool("containerd").arg("--version"));
    let version = words.split(' ').nth(2).expect("name, package, version");
    version.split(['~', '+', '-']).next().unwrap_or(version).to_owned()
}

fn daemon() -> Child {
    let log = || fs::File::options().create(true).append(true).open(LOG).expect("a log");
    let _ = fs::remove_file(SOCKET);
    let daemon = tool("containerd")
        .args(["--config", "/run/containerd.toml"])
        .stdout(log())
        .stderr(log())
        .stdin(Stdio::null())
        .spawn()
        .expect("start containerd");
    let cri = Cri::at(Path::new(SOCKET));
    eventually_within(Duration::from_secs(30), "containerd's node is ready", || {
        Path::new(SOCKET).exists() && network_is_ready(&cri).is_ok()
    });
    daemon
}

/// What kubelet asks every few seconds; no pod starts on a node whose network is not ready. The reason,
/// if it is not.
fn network_is_ready(cri: &Cri) -> Result<(), String> {
    let answer = cri.call("Status", "")?;
    let condition = answer.split("conditions {").find(|one| one.contains("NetworkReady"));
    let condition = condition.ok_or("no word about the network")?;
    if condition.contains("status: true") { Ok(()) } else { Err(condition.to_owned()) }
}

fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.split(before).nth(1)?.split('"').next()
}

/// The pod's namespace, out of the runtime's own description.
fn netns_in(status: &str) -> &str {
    let name = status.split("/netns/cni-").nth(1).expect("a pod has a namespace");
    let length = name.chars().take_while(|c| c.is_ascii_hexdigit() || *c == '-').count();
    let begin = name.as_ptr() as usize - status.as_ptr() as usize - "cni-".len();
    &status[begin..begin + "cni-".len() + length]
}

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

    let incoming = rate::bits_per_second(&b.out, (HOST_V4, 8084), (&web.netns, 81));
    rate::holds("into the pod", incoming, 16e6);
    let outgoing = rate::bits_per_second(&web.netns, (OUT_V4, 5001), (&b.out, 5001));
    rate::holds("out of the pod", outgoing, 8e6);
    let free = rate::bits_per_second(&neighbour.netns, (OUT_V4, 5002), (&b.out, 5002));
    assert!(free > 100e6, "the neighbour has no limit: {free:.0} bit/s");
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
    node.daemon = daemon();
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
    let asks_status = !containerd_version().starts_with("1.");
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
