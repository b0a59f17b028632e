//! Guides through real runtimes, on hosts that have them, with the reader's own commands.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cni_testbox::{TestBox, cases, sh};

use super::session::{follow, open};
use crate::{containerd, image, node, podman};

cases! {
    ten_minutes_with_podman, ours;
    a_pod_by_cri, ours;
    kubernetes_nodes, ours;
    coming_from_go, ours;
    going_back, ours;
}

/// What the guides' containers are made of. In the box it is Debian's busybox.
const BUSYBOX: &str = "docker.io/library/busybox:latest";

fn ten_minutes_with_podman(b: &TestBox) {
    podman_is_installed(b);
    // Where the reader's own programs go.
    sh("mount -t tmpfs tmpfs /usr/local/lib");
    follow("docs/guide-podman.md");
}

fn a_pod_by_cri(b: &TestBox) {
    go_plugins_of_the_project();
    let mut daemon = containerd::as_installed(b, BUSYBOX);
    crictl();
    follow("docs/guide-containerd.md");
    daemon.kill().expect("a child of ours");
    daemon.wait().expect("a child of ours");
}

fn kubernetes_nodes(_: &TestBox) {
    follow("docs/guide-kubernetes.md");
}

fn coming_from_go(b: &TestBox) {
    podman_is_installed(b);
    go_plugins_of_the_project();
    podman_takes_the_projects();
    follow("docs/guide-from-go.md");
}

fn going_back(b: &TestBox) {
    podman_is_installed(b);
    go_plugins_of_the_project();
    podman_takes_the_projects();
    follow("docs/guide-back-to-go.md");
}

/// podman as a package brings it, with what it needs in a box.
fn podman_is_installed(b: &TestBox) {
    b.with_cgroups();
    let settings = Path::new("/etc/containers/containers.conf.d");
    fs::create_dir_all(settings).expect("a copy of /etc");
    fs::write(settings.join("box.conf"), podman::IN_A_BOX).expect("a new file");
    fs::write("/etc/containers/storage.conf", podman::STORAGE).expect("a new file");
    fs::create_dir_all(node::NETWORKS).expect("the box's own file system");
    let archive = image::archive(BUSYBOX);
    sh(&format!("podman load --quiet --input {}", archive.display()));
}

/// The Go plugins where their project's archive is unpacked: those of a package are replaced by a package.
fn go_plugins_of_the_project() {
    sh(&format!("mkdir -p {0} && cp /usr/lib/cni/* {0}/", node::PLUGINS));
}

/// podman takes the plugins from there.
fn podman_takes_the_projects() {
    let settings = format!(
        "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\"]\n",
        node::PLUGINS
    );
    fs::write("/etc/containers/containers.conf", settings).expect("a new file");
}

/// Puts a program where the session finds it, whose calls of the CRI are the real crictl's: Debian 12 has none.
fn crictl() {
    let program = env!("CARGO_BIN_EXE_cni-chain");
    let examples = Path::new(program).with_file_name("examples");
    let path = open().join("crictl");
    let copied = fs::copy(examples.join("crictl"), &path);
    copied.expect("cargo build -p cni-chain --examples makes it");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file of ours");
}
