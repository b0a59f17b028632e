//! The directory is found where each distribution has it.

use std::fs;
use std::path::Path;

use cni_testbox::{bare_cases, sh};

use crate::host::{DIR, cni_chain, fails, succeeds};

bare_cases! {
    what_runtimes_are_told_is_found;
    what_is_usual_is_found;
}

#[track_caller]
fn write(file: &str, text: &str) {
    fs::create_dir_all(Path::new(file).parent().expect("a directory")).expect("a copy");
    fs::write(file, text).expect("a copy");
}

/// Whether anything may be replaced there is another matter.
#[track_caller]
fn finds(dir: &str, because: &str) {
    let output = cni_chain(&["install", "--dry-run"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with(&format!("plugins are in {dir}: {because}")), "{output:?}");
}

fn what_runtimes_are_told_is_found() {
    for (file, text, dir) in [
        (
            "/etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/srv/two\"",
            "/srv/two",
        ),
        (
            "/etc/containerd/config.toml",
            "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/srv/three']",
            "/srv/three",
        ),
        (
            "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/var/lib/rancher/k3s/data/cni']",
            "/var/lib/rancher/k3s/data/cni",
        ),
        (
            "/var/snap/microk8s/current/args/containerd.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"${SNAP_DATA}/opt/cni/bin\"",
            "/var/snap/microk8s/current/opt/cni/bin",
        ),
        (
            "/etc/crio/crio.conf",
            "[crio.network]\nplugin_dirs = [\"/srv/crio/\", \"/srv/other\"]",
            "/srv/crio",
        ),
    ] {
        write(file, text);
        finds(dir, &format!("{file} says so"));
        fs::remove_file(file).expect("there");
    }
    // A later file of CRI-O goes over an earlier one, and an import over who imports.
    write("/etc/crio/crio.conf", "[crio.network]\nplugin_dirs = [\"/srv/a\"]");
    write("/etc/crio/crio.conf.d/10-b.conf", "[crio.network]\nplugin_dirs = [\"/srv/b\"]");
    write("/etc/crio/crio.conf.d/20-c.conf", "[crio.runtime]\nlog = 1");
    finds("/srv/b", "/etc/crio/crio.conf.d/10-b.conf says so");
    write(
        "/etc/containerd/config.toml",
        "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']",
    );
    let part = "[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir = '/srv/part'";
    write("/etc/containerd/conf.d/a.toml", part);
    let said = fails(&["install", "--dry-run"]);
    assert!(
        said.contains("differ") && said.contains("/srv/part") && said.contains("/srv/b"),
        "{said}"
    );
    fs::remove_dir_all("/etc/crio").expect("there");
    finds("/srv/part", "/etc/containerd/conf.d/a.toml says so");
    write("/etc/containerd/config.toml", "bin_dir = ");
    let said = fails(&["install", "--dry-run"]);
    assert!(said.contains("/etc/containerd/config.toml is no TOML"), "{said}");
    let said = succeeds(&["install", "--dry-run", "--bin-dir", "/srv/by-hand"]);
    assert!(said.starts_with("would be installed: /srv/by-hand/portmap\n"), "{said}");
}

fn what_is_usual_is_found() {
    // Debian's package is on this host.
    finds("/usr/lib/cni", "there are CNI plugins");
    // What is no copy in a box.
    sh("mount -t tmpfs tmpfs /usr/lib/cni && mount -t tmpfs tmpfs /home");
    finds(DIR, "no runtime's configuration says another");
    for dir in [
        "/home/kubernetes/bin",
        "/var/snap/microk8s/current/opt/cni/bin",
        "/var/lib/rancher/k3s/data/current/bin",
        "/var/lib/rancher/k3s/data/cni",
        "/usr/lib/cni",
        DIR,
    ] {
        // Each is before those that are there already.
        write(&format!("{dir}/portmap"), "");
        finds(dir, "there are CNI plugins");
    }
}
