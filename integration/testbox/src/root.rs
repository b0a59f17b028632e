//! Another userland as the box's root: the same cases, with another distribution's programs.
//!
//! `CNI_TESTBOX_ROOT` is a directory with a whole userland, such as `integration/userland/make` makes;
//! it is not written to. The checkout is in it at its own path: the programs under test are static.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

const ROOT: &str = "CNI_TESTBOX_ROOT";
/// Where the layers of the new root are put together.
const SCRATCH: &str = "/run";

/// Makes it the root of this box, if there is one.
pub(crate) fn enter() {
    let Some(userland) = env::var_os(ROOT).map(PathBuf::from) else { return };
    assert!(
        userland.join("usr/bin").is_dir(),
        "{ROOT}: there is no userland in {}",
        userland.display()
    );
    let directory = env::current_dir().expect("a directory to work in");
    attach("tmpfs", SCRATCH, Some("tmpfs"), MsFlags::empty(), None);
    let root = format!("{SCRATCH}/root");
    for name in ["upper", "work", "root"] {
        fs::create_dir(format!("{SCRATCH}/{name}")).expect("a directory on a new file system");
    }
    let layers =
        format!("lowerdir={},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work", userland.display());
    attach("overlay", &root, Some("overlay"), MsFlags::empty(), Some(&layers));
    for path in ["/proc", "/sys", "/dev", &checkout()] {
        let target = format!("{root}{path}");
        fs::create_dir_all(&target).expect("a directory on a new file system");
        attach(path, &target, None, MsFlags::MS_BIND | MsFlags::MS_REC, None);
    }
    // The old root is mounted over the new one, and then taken away.
    chdir(Path::new(&root)).expect("the new root");
    pivot_root(".", ".").expect("a new root");
    umount2(".", MntFlags::MNT_DETACH).expect("the old root");
    chdir(&directory).expect("the checkout is where it was");
}

/// The workspace that this program was built from.
fn checkout() -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    workspace.expect("integration/testbox is in a workspace").display().to_string()
}

fn attach(source: &str, target: &str, kind: Option<&str>, flags: MsFlags, data: Option<&str>) {
    mount(Some(source), target, kind, flags, data)
        .unwrap_or_else(|error| panic!("mount {kind:?} {flags:?} on {target}: {error}"));
}
