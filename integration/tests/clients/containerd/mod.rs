//! containerd's CRI, which is what kubelet calls: pods with host ports and limits.

mod cases;
mod configuration;
mod pod;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use cni_testbox::{Namespace, TestBox, eventually_within, run, tool};

use crate::compat::Compat;
use crate::cri::Cri;
use crate::image;
use crate::node::{self, everything};
pub(crate) use pod::{Pod, Wish};

const SOCKET: &str = "/run/containerd.sock";
const FILE: &str = "/run/containerd.toml";
/// Where a package has both.
const USUAL_SOCKET: &str = "/run/containerd/containerd.sock";
const USUAL_FILE: &str = "/etc/containerd/config.toml";
const LOG: &str = "/run/containerd.log";
const IMAGE: &str = "localhost/pause:1";

/// A node with a running containerd.
pub(crate) struct Node<'a> {
    b: &'a TestBox,
    daemon: Child,
    cri: Cri,
    pub(crate) compat: Compat,
}

impl<'a> Node<'a> {
    pub(crate) fn start(b: &'a TestBox) -> Self {
        node::configure(&node::network(b, "1.0.0"));
        Self::start_on_configured(b)
    }

    pub(crate) fn start_on_configured(b: &'a TestBox) -> Self {
        b.with_cgroups();
        node::put_plugins(b.implementation);
        let version = version();
        configuration::write(FILE, &version, SOCKET);
        let daemon = daemon();
        import(SOCKET, IMAGE);
        let compat = Compat::of("containerd CRI", &version, b);
        Self { b, daemon, cri: Cri::at(Path::new(SOCKET)), compat }
    }

    /// As it reads its network's list anew.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    fn start_again(&mut self) {
        self.daemon = daemon();
    }

    fn kill(&mut self) {
        self.daemon.kill().expect("a child of ours");
        self.daemon.wait().expect("a child of ours");
    }

    fn try_run(&self, name: &str, wish: &Wish) -> Result<Pod, String> {
        let answer = self.call("RunPodSandbox", &wish.request(name))?;
        let id = quoted(&answer, "pod_sandbox_id: \"").expect("an ID").to_owned();
        let status = format!("pod_sandbox_id: {id:?} verbose: true");
        let status = self.cri.call("PodSandboxStatus", &status)?;
        let netns = Namespace::named(&netns_in(&status));
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
        let answer = self.call(method, &format!("pod_sandbox_id: {id:?}"));
        answer.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Calls again, as kubelet does, where a plugin says that another try may help: on a busy machine, thirty
    /// that change iptables wait longer for each other than one plugin waits.
    fn call(&self, method: &str, request: &str) -> Result<String, String> {
        const TRIES: usize = 10;
        let mut answer = self.cri.call(method, request);
        for _ in 1..TRIES {
            match &answer {
                Err(error) if error.contains("try again later") => {
                    println!("{error}");
                    answer = self.cri.call(method, request);
                }
                _ => break,
            }
        }
        answer
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
fn version() -> String {
    let words = run(tool("containerd").arg("--version"));
    let version = words.split(' ').nth(2).expect("name, package, version");
    version.split(['~', '+', '-']).next().unwrap_or(version).to_owned()
}

/// containerd as a package brings it, with an image of busybox, and no network yet.
pub(crate) fn as_installed(b: &TestBox, image: &str) -> Child {
    b.with_cgroups();
    configuration::write(USUAL_FILE, &version(), USUAL_SOCKET);
    let daemon = start(USUAL_FILE);
    eventually_within(Duration::from_secs(30), "containerd listens", || {
        Cri::at(Path::new(USUAL_SOCKET)).call("Status", "").is_ok()
    });
    import(USUAL_SOCKET, IMAGE);
    import(USUAL_SOCKET, image);
    daemon
}

fn import(socket: &str, image: &str) {
    run(tool("ctr")
        .args(["--address", socket, "--namespace", "k8s.io", "images", "import"])
        .arg(image::archive(image)));
}

fn daemon() -> Child {
    let _ = fs::remove_file(SOCKET);
    let daemon = start(FILE);
    let cri = Cri::at(Path::new(SOCKET));
    eventually_within(Duration::from_secs(30), "containerd's node is ready", || {
        Path::new(SOCKET).exists() && network_is_ready(&cri).is_ok()
    });
    daemon
}

fn start(file: &str) -> Child {
    let log = || fs::File::options().create(true).append(true).open(LOG).expect("a log");
    let mut daemon = tool("containerd");
    daemon.args(["--config", file]).stdout(log()).stderr(log()).stdin(Stdio::null());
    daemon.spawn().expect("start containerd")
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

/// The name of the pod's namespace, out of the runtime's own description.
fn netns_in(status: &str) -> String {
    let name = status.split("/netns/cni-").nth(1).expect("a pod has a namespace");
    let is_of_it = |c: &char| c.is_ascii_hexdigit() || *c == '-';
    "cni-".chars().chain(name.chars().take_while(is_of_it)).collect()
}
