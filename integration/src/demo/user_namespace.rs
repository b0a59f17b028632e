//! Root without a password: in a user namespace of its own, where the host allows one.

use std::fs;
use std::io;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// What a host may be set to that forbids it, and the value that does.
const LIMITS: [(&str, &str); 3] = [
    ("user.max_user_namespaces", "0"),
    // Debian's kernels had it.
    ("kernel.unprivileged_userns_clone", "0"),
    // Ubuntu's make one that allows nothing.
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
];

/// Makes this process, which must have one thread only, root of a user namespace.
pub(super) fn enter() -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    // What comes next needs its privileges, so it is tried as well.
    let made = unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(io::Error::from)
        .and_then(|()| become_root(user.as_raw(), group.as_raw()))
        .and_then(|()| Ok(unshare(CloneFlags::CLONE_NEWNET)?));
    made.map_err(|error| anyhow!(reason(error.to_string(), &value)))
        .context("the demo needs namespaces of its own: run it with sudo")
}

fn become_root(user: u32, group: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// What the host is set to, or else what the kernel said.
fn reason(error: String, value: &dyn Fn(&str) -> Option<String>) -> String {
    let limit = LIMITS.iter().find(|(key, limit)| value(key).as_deref() == Some(*limit));
    let what = limit.map_or(error, |(key, limit)| format!("{key} is {limit}"));
    format!("this host lets only root make them ({what})")
}

fn value(key: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_it_is_named() {
        let of = |set: &'static str, to: &'static str| {
            reason("EPERM".to_owned(), &move |key| (key == set).then(|| to.to_owned()))
        };
        let ubuntu = "kernel.apparmor_restrict_unprivileged_userns";
        assert!(of(ubuntu, "1").ends_with(&format!("({ubuntu} is 1)")));
        assert!(of(ubuntu, "0").ends_with("(EPERM)"));
        assert!(of("user.max_user_namespaces", "0").contains("max_user_namespaces is 0"));
    }
}
