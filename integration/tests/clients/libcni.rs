//! libcni itself, which every runtime in Go calls the plugins by: its own commands, and its cache beside
//! ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cni_testbox::{Container, HOST_V4, TestBox, Transport, cases, run, sh, tool};
use serde_json::{Value, json};

use crate::compat::Compat;
use crate::node::{self, PLUGINS, everything, nothing_is_left};

cases! {
    every_command, backends;
    caches_are_read_by_the_other, backends;
    gc_and_status, backends;
}

const PORT: u16 = 8080;
const PROGRAM: &str = "/run/libcni";
/// Where Debian has libraries of Go.
const LIBRARIES: &str = "/usr/share/gocode";
const LIBCNI: &str = "/usr/share/gocode/src/github.com/containernetworking/cni/libcni";

/// A node whose runtime is our program in Go.
struct Runtime {
    compat: Compat,
    /// Whether this libcni has GC and STATUS, and the plugins with it CNI 1.1.0.
    has_gc: bool,
    list: PathBuf,
}

impl Runtime {
    fn on(b: &TestBox) -> Self {
        node::put_plugins(b.implementation);
        let has_gc = Self::build();
        let version = if has_gc { "1.1.0" } else { "1.0.0" };
        let mut list = node::network(b, version);
        // Of a container whose namespace is gone, Debian's bridge leaves the masquerading.
        list["plugins"][0]["ipMasq"] = json!(false);
        let list = node::configure(&list);
        let libcni = sh("dpkg-query --showformat '${Version}' --show golang-github-appc-cni-dev");
        let libcni = libcni.split(['+', '-']).next().expect("a version");
        Self { compat: Compat::of("libcni", libcni, b), has_gc, list }
    }

    /// Builds the program; whether this libcni has GC.
    fn build() -> bool {
        let package = Path::new(LIBCNI).join("api.go");
        let text = fs::read_to_string(package).expect("apt-get install golang-github-appc-cni-dev");
        let has_gc = text.contains("GCNetworkList");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/libcni");
        let mut build = tool("go");
        build.args(["build", "-o", PROGRAM]).args(has_gc.then_some("-tags=libcni_1_2"));
        build.current_dir(source).env("GO111MODULE", "off").env("GOFLAGS", "-buildvcs=false");
        build
            .env("GOPATH", LIBRARIES)
            .env("GOCACHE", "/var/cache/go-build")
            .env("CGO_ENABLED", "0");
        run(&mut build);
        has_gc
    }

    fn command(&self, command: &str, container: &Container) -> Command {
        let mut program = Command::new(PROGRAM);
        let netns = container.netns.path();
        program.arg(command).arg(&self.list).arg(&container.id).arg(netns).arg(wish().to_string());
        program.env("CNI_PATH", PLUGINS);
        program
    }

    /// A command of libcni that must succeed; what it returned.
    #[track_caller]
    fn does(&self, command: &str, container: &Container) -> Value {
        let text = run(&mut self.command(command, container));
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") }
    }

    /// The same where it must fail; what it said.
    #[track_caller]
    fn fails(&self, command: &str, container: &Container) -> String {
        let output = self.command(command, container).output().expect("it starts");
        assert!(!output.status.success(), "{command} should have failed");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A command of ours on the same network and container.
    #[track_caller]
    fn ours(&self, command: &str, container: &Container, more: &[&str]) -> String {
        let list = self.list.display().to_string();
        let netns = container.netns.path().display().to_string();
        let attachment = [command, &list, &netns, "--container-id", &container.id];
        run(&mut node::cni_chain(&[&attachment, more].concat()))
    }
}

/// The capabilities that a runtime fills.
fn wish() -> Value {
    json!({
        "portMappings": [
            { "hostPort": PORT, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": PORT, "containerPort": 80, "protocol": "udp" }],
        "bandwidth": { "ingressRate": 100_000_000, "ingressBurst": 800_000,
            "egressRate": 50_000_000, "egressBurst": 800_000 },
    })
}

fn container(b: &TestBox, id: &str) -> Container {
    let container = b.container(id);
    container.netns.serve(id, 80);
    container
}

/// What there is when a first container has come and gone.
fn used_and_empty(b: &TestBox, runtime: &Runtime) -> String {
    let first = b.container("first");
    runtime.does("add", &first);
    runtime.does("del", &first);
    drop(first);
    sh("ip netns del first");
    everything(b)
}

#[track_caller]
fn ends(b: &TestBox, container: Container, before: &str) {
    b.out.is_not_served(PORT);
    let id = container.id.clone();
    drop(container);
    sh(&format!("ip netns del {id}"));
    nothing_is_left(b, before);
}

fn every_command(b: &TestBox) {
    let runtime = Runtime::on(b);
    let before = used_and_empty(b, &runtime);
    let web = container(b, "web");
    let capabilities = runtime.does("validate", &web).to_string();
    for capability in ["portMappings", "bandwidth", "mac"] {
        assert!(capabilities.contains(capability), "{capabilities}");
    }
    let result = runtime.does("add", &web);
    assert!(result["interfaces"].to_string().contains("bwp"), "{result}");
    node::is_served(b, "web", PORT, &web.netns, &web.netns);
    runtime.does("check", &web);
    node::flush(b);
    let said = runtime.fails("check", &web);
    assert!(said.contains("port mappings are not as ADD made them"), "{said}");
    let told = run(&mut node::cni_chain(&["restore"]));
    assert!(told.contains("podnet/web/eth0: restored portmap, firewall"), "{told}");
    runtime.does("check", &web);
    node::is_served(b, "web", PORT, &web.netns, &web.netns);
    runtime.compat.works("all", "ADD, CHECK, VERSION; a flush fails CHECK until cni-chain restore");
    runtime.does("del", &web);
    runtime.does("del", &web);
    ends(b, web, &before);
    runtime.compat.works("all", "DEL twice leaves nothing");
}

fn caches_are_read_by_the_other(b: &TestBox) {
    let runtime = Runtime::on(b);
    let before = used_and_empty(b, &runtime);
    let web = container(b, "web");
    let result = runtime.does("add", &web);
    runtime.ours("check", &web, &[]);
    let shown = run(&mut node::cni_chain(&["show", "--json"]));
    assert!(shown.contains("web"), "{shown}");
    // Without a word about ports: those are in the cache.
    runtime.ours("del", &web, &[]);
    b.out.is_not_served(PORT);
    assert_eq!(runtime.does("cached-request", &web), Value::Null, "{result}");
    runtime.does("del", &web);
    runtime
        .compat
        .works("all", "added by libcni; checked, shown and deleted by cni-chain from its cache");

    let wish = wish().to_string();
    let added = runtime.ours("add", &web, &["--cap-args", &wish]);
    node::is_served(b, "web", PORT, &web.netns, &web.netns);
    let added: Value = serde_json::from_str(&added).expect("a result");
    let cached = runtime.does("cached-result", &web);
    assert_eq!(cached["ips"], added["ips"]);
    let cached = runtime.does("cached-request", &web);
    assert_eq!(cached["portMappings"][0]["hostPort"], PORT);
    runtime.does("check", &web);
    runtime.does("del", &web);
    ends(b, web, &before);
    runtime.compat.works("all", "added by cni-chain; checked and deleted by libcni from its cache");
}

fn gc_and_status(b: &TestBox) {
    let runtime = Runtime::on(b);
    let before = used_and_empty(b, &runtime);
    let old = container(b, "old");
    runtime.does("add", &old);
    // Its end is told to nobody.
    let leave_behind = || {
        let gone = b.container("gone");
        runtime.does("add", &gone);
        b.out.is_not_served(PORT);
        drop(gone);
        sh("ip netns del gone");
    };
    let nothing_is_left_behind = || {
        // The port is its own again.
        b.out.reach(Transport::Tcp, HOST_V4, PORT).by("old");
        let left = everything(b);
        assert!(!left.contains("gone"), "{left}");
    };
    leave_behind();
    run(&mut node::cni_chain(&["gc", "podnet"]));
    nothing_is_left_behind();
    runtime.compat.works("all", "GC by cni-chain on libcni's cache");
    if runtime.has_gc {
        leave_behind();
        runtime.does("status", &old);
        node::flush(b);
        runtime.does("status", &old);
        run(&mut node::cni_chain(&["restore"]));
        runtime.does("gc", &old);
        nothing_is_left_behind();
        runtime.compat.works("all", "STATUS, also after a flush; GC by libcni");
    }
    runtime.does("del", &old);
    ends(b, old, &before);
}
