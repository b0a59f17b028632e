//! Which attachments ours admitted by way of firewalld.
//!
//! firewalld's sources have no owner, and our table, which says whose they are, goes with
//! `nft flush ruleset`, which firewalld's memory of its sources survives. Without these files such an
//! attachment would look like one that the Go plugin admitted.

use std::io;
use std::path::Path;

use cni_common::cni::log::Log;
use cni_common::cni::state::{StateDir, file_name_of};
use cni_common::cni::{OwnerTag, Stale};

/// On tmpfs: firewalld forgets its sources at a boot, too.
const DIRECTORY: &str = "/run/cni/firewall";

/// Remembers an attachment. That it cannot be done keeps no container from its network.
pub(crate) fn remember(tag: &OwnerTag, log: &Log) {
    let outcome = StateDir::create(Path::new(DIRECTORY))
        .and_then(|directory| directory.write(&file_name_of(tag), tag.as_str().as_bytes()));
    if let Err(error) = outcome {
        log.warn(format!(
            "cannot remember in {DIRECTORY} that this plugin admitted {tag}: {error}; should the nftables \
             ruleset be flushed, CHECK will take it for the Go plugin's"
        ));
    }
}

/// Whether it was remembered. What cannot be read was not.
pub(crate) fn is_remembered(tag: &OwnerTag) -> bool {
    let directory = StateDir::open(Path::new(DIRECTORY));
    let content = directory.and_then(|directory| match directory {
        Some(directory) => directory.read(&file_name_of(tag)),
        None => Ok(None),
    });
    content.is_ok_and(|content| content.is_some())
}

/// Forgets an attachment. What is left of it is in nobody's way.
pub(crate) fn forget(tag: &OwnerTag, log: &Log) {
    let forget = || -> io::Result<()> {
        match StateDir::open(Path::new(DIRECTORY))? {
            Some(directory) => directory.forget(&file_name_of(tag)),
            None => Ok(()),
        }
    };
    if let Err(error) = forget() {
        log.warn(format!("cannot forget {tag} in {DIRECTORY}: {error}"));
    }
}

/// Forgets what is stale.
pub(crate) fn forget_stale(stale: &Stale, log: &Log) {
    let forget = || -> io::Result<()> {
        let Some(directory) = StateDir::open(Path::new(DIRECTORY))? else { return Ok(()) };
        for name in directory.names()? {
            let content = directory.read(&name)?.unwrap_or_default();
            if stale.includes(&String::from_utf8_lossy(&content)) {
                directory.forget(&name)?;
            }
        }
        directory.remove_drafts()
    };
    if let Err(error) = forget() {
        log.warn(format!("cannot forget stale attachments in {DIRECTORY}: {error}"));
    }
}
