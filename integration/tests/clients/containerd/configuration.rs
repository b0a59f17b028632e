//! containerd's configuration and its runc, for the versions that the cases meet.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

/// What is common to all versions.
const CONFIG: &str = r#"
root = "/run/containerd-root"
state = "/run/containerd-state"
[grpc]
  address = "SOCKET"
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

/// Writes both for a version of containerd, which will listen at a socket.
pub(super) fn write(file: &str, version: &str, socket: &str) {
    fs::write(file, config(version).replace("SOCKET", socket)).expect("a file of the box's");
    fs::write("/run/runc", RUNC).expect("a new file");
    fs::set_permissions("/run/runc", Permissions::from_mode(0o755)).expect("a file of ours");
}

fn config(version: &str) -> String {
    if version.starts_with("1.") {
        format!("version = 2{CONFIG}{CRI_1}")
    } else {
        format!("version = 3{CONFIG}{CRI_2}")
    }
}
