//! The machine's files as a box sees them: read-only, or a copy that goes with the box.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::root;

/// Where programs of a box may write; what they write is gone with it.
const COPIED: [&str; 4] = ["/etc", "/opt", "/tmp", "/var"];
/// What must be empty at first, whatever the machine has there.
const EMPTY: [&str; 4] = ["/run", "/etc/cni", "/etc/containerd", "/var/lib/cni"];
/// Mount options that say more than whether one may write.
const OPTIONS: [(&str, MsFlags); 6] = [
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("relatime", MsFlags::MS_RELATIME),
];

/// The version of the kernel that runs.
pub fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).expect("as in 6.1.0-50-amd64");
    (next(), next())
}

/// Everything becomes read-only, `/usr` and the checkout among it; [`COPIED`] are overlaid and
/// [`EMPTY`] are empty. Of `/proc/sys`, `net` stays writable, which is the namespace's own.
pub(crate) fn make_read_only() {
    root::enter();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    for line in mounts.lines() {
        remount_read_only(line);
    }
    let bind = |path| attach(Some(path), path, None, MsFlags::MS_BIND, None);
    bind("/proc/sys");
    bind("/proc/sys/net");
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    attach(None, "/proc/sys", None, read_only, None);
    // The overlays keep what they write to; the next file system on /run hides it.
    empty("/run");
    for (index, path) in COPIED.iter().enumerate() {
        overlay(path, &format!("/run/{index}"));
    }
    for path in EMPTY {
        fs::create_dir_all(path).expect("a mount point on a copy");
        empty(path);
    }
    for path in ["/run/netns", "/run/lock"] {
        fs::create_dir(path).expect("a directory on the box's own file system");
    }
}

/// A line of mountinfo(5): number, parent, device, root, mount point, options, ….
fn remount_read_only(line: &str) {
    let mut words = line.split(' ').skip(4);
    let (Some(path), Some(options)) = (words.next(), words.next()) else { return };
    let path = path.replace("\\040", " ");
    // A mount below another one of the same place can no longer be reached.
    if Path::new(&path).starts_with("/proc") || !Path::new(&path).exists() {
        return;
    }
    let kept = OPTIONS.iter().filter(|(name, _)| options.split(',').any(|word| word == *name));
    let flags = kept.fold(MsFlags::empty(), |flags, (_, flag)| flags | *flag);
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    attach(None, &path, None, flags | read_only, None);
}

fn overlay(path: &str, scratch: &str) {
    let (upper, work) = (format!("{scratch}/upper"), format!("{scratch}/work"));
    for directory in [&upper, &work] {
        fs::create_dir_all(directory).expect("a directory on the box's own file system");
    }
    // The upper one's mode is what is seen: everybody may write to /tmp.
    let mode = fs::metadata(path).expect("a directory of the machine").permissions();
    fs::set_permissions(&upper, mode).expect("a directory of the box's");
    let options = format!("lowerdir={path},upperdir={upper},workdir={work}");
    attach(Some("overlay"), path, Some("overlay"), MsFlags::empty(), Some(&options));
}

fn empty(path: &str) {
    attach(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=755"));
}

fn attach(
    source: Option<&str>,
    target: &str,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) {
    mount(source, target, kind, flags, data)
        .unwrap_or_else(|error| panic!("mount {kind:?} {flags:?} on {target}: {error}"));
}
