//! Control groups of the box's own, for runtimes, which put their containers into them.
//!
//! They are a directory of the machine's cgroup2, which a cgroup namespace makes the root. Whatever
//! the machine has beside it, version 1 among it, cannot be seen from the box. The directory
//! outlives the box, and is removed by whoever started that.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::TestBox;

/// Directory of the machine's cgroup2 with a directory for each box.
const BOXES: &str = "cni-testbox";
/// The machine's cgroup2, while the box moves into its own.
const MACHINES: &str = "/run/cgroup2";
/// Whoever made a directory here may lose it to another box's clean-up before it is in it.
const TRIES: usize = 20;

impl TestBox {
    /// Gives the box control groups. Only what the calling thread starts afterwards sees them.
    pub fn with_cgroups(&self) {
        fs::create_dir_all(MACHINES).expect("a directory on the box's own file system");
        attach(MACHINES);
        let own = Path::new(MACHINES).join(BOXES).join(name());
        let entered = (0..TRIES).any(|_| enter(&own));
        assert!(entered, "cannot enter {}: is cgroup2 writable here?", own.display());
        unshare(CloneFlags::CLONE_NEWCGROUP).expect("a cgroup namespace");
        umount2(MACHINES, MntFlags::MNT_DETACH).expect("a mount of our own");
        attach("/sys/fs/cgroup");
    }
}

/// The number of the box's network namespace, which no other box has while this one lives.
fn name() -> String {
    let link = fs::read_link("/proc/self/ns/net").expect("/proc is mounted");
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// Makes it and moves this process into it. It has no controllers, so it may hold processes and
/// children.
fn enter(own: &Path) -> bool {
    fs::create_dir_all(own).is_ok() && fs::write(own.join("cgroup.procs"), "0").is_ok()
}

fn attach(target: &str) {
    let kind = "cgroup2";
    mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
        .unwrap_or_else(|error| panic!("mount cgroup2 on {target}: {error}"));
}

/// Outside of all boxes: removes what boxes that have ended left.
pub(crate) fn remove_left() {
    let Some(boxes) = machines().map(|root| root.join(BOXES)) else { return };
    for directory in directories(&boxes) {
        let events = fs::read_to_string(directory.join("cgroup.events")).unwrap_or_default();
        if events.contains("populated 0") {
            remove(&directory);
        }
    }
    // The last one out; it stays while there is another.
    let _ = fs::remove_dir(&boxes);
}

/// Where the machine has its cgroup2.
fn machines() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    Some(PathBuf::from(line.split(' ').nth(4)?))
}

/// The kernel removes a cgroup only where it has neither processes nor children.
fn remove(cgroup: &Path) {
    for child in directories(cgroup) {
        remove(&child);
    }
    let _ = fs::remove_dir(cgroup);
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
