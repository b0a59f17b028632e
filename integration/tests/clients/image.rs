//! A container image without a registry: busybox, which sleeps.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cni_testbox::{run, sh, tool};
use serde_json::json;

/// What the image's containers run. As the first process of a container it ignores SIGTERM, so whoever
/// stops it should not wait.
pub(crate) const COMMAND: [&str; 2] = ["/bin/sleep", "100000"];

/// A root file system in a new directory.
pub(crate) fn root(directory: &str) -> PathBuf {
    let root = PathBuf::from(directory);
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "run", "var"] {
        fs::create_dir_all(root.join(name)).expect("a directory on the box's own file system");
    }
    let busybox = sh("command -v busybox");
    fs::copy(busybox.trim(), root.join("bin/busybox")).expect("busybox is installed");
    for name in ["httpd", "sh", "sleep"] {
        symlink("busybox", root.join("bin").join(name)).expect("a new name");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("a new file");
    root
}

/// The same as an archive that `docker save` could have written: one layer.
pub(crate) fn archive(name: &str) -> PathBuf {
    let directory = Path::new("/run/image");
    for old in ["/run/image", "/run/image-root"] {
        let _ = fs::remove_dir_all(old);
    }
    let root = root("/run/image-root");
    fs::create_dir_all(directory).expect("a directory on the box's own file system");
    let pack = |from: &Path, to: &Path, what: &[&str]| {
        run(tool("tar").arg("-C").arg(from).arg("-cf").arg(to).args(what));
    };
    let layer = directory.join("layer.tar");
    pack(&root, &layer, &["."]);
    let digest = run(tool("sha256sum").arg(&layer));
    let digest = digest.split(' ').next().expect("a digest");
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({ "architecture": architecture, "os": "linux",
        "config": { "Cmd": COMMAND, "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] } });
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    for (name, content) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(directory.join(name), content.to_string()).expect("a new file");
    }
    let archive = PathBuf::from("/run/image.tar");
    pack(directory, &archive, &["manifest.json", "config.json", "layer.tar"]);
    archive
}
