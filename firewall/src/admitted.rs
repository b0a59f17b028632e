//! Which attachments ours admitted by way of firewalld.
//!
//! firewalld's sources have no owner, and our table, which says whose they are, goes with
//! `nft flush ruleset`, which firewalld's memory of its sources survives. Without these files such an
//! attachment would look like one that the Go plugin admitted.

use std::io;
use std::path::Path;

use cni_common::cni::failure::code_of;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::cni::state::{StateDir, file_name_of};
use cni_common::cni::{OwnerTag, Stale};

/// On tmpfs: firewalld forgets its sources at a boot, too.
const DIRECTORY: &str = "/run/cni/firewall";

/// Remembers an attachment. Returns whether it was not remembered before.
pub(crate) fn remember(tag: &OwnerTag) -> Result<bool, CniError> {
    let remember = || -> io::Result<bool> {
        let directory = StateDir::create(Path::new(DIRECTORY))?;
        let (name, content) = (file_name_of(tag), tag.as_str().as_bytes());
        let earlier = directory.read(&name)?;
        if earlier.as_deref() != Some(content) {
            directory.write(&name, content)?;
        }
        Ok(earlier.is_none())
    };
    remember().map_err(|error| {
        cannot(&error, &format!("cannot remember in {DIRECTORY} that this plugin admitted {tag}"))
    })
}

/// Whether it was remembered.
pub(crate) fn is_remembered(tag: &OwnerTag) -> Result<bool, CniError> {
    let content = StateDir::open(Path::new(DIRECTORY)).and_then(|directory| match directory {
        Some(directory) => directory.read(&file_name_of(tag)),
        None => Ok(None),
    });
    content
        .map(|content| content.is_some())
        .map_err(|error| cannot(&error, &format!("cannot look for {tag} in {DIRECTORY}")))
}

/// Forgets an attachment.
pub(crate) fn forget(tag: &OwnerTag) -> Result<(), CniError> {
    let forget = || match StateDir::open(Path::new(DIRECTORY))? {
        Some(directory) => directory.forget(&file_name_of(tag)),
        None => Ok(()),
    };
    forget().map_err(|error| cannot(&error, &format!("cannot forget {tag} in {DIRECTORY}")))
}

/// Forgets what is stale.
pub(crate) fn forget_stale(stale: &Stale) -> Result<(), CniError> {
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
    forget()
        .map_err(|error| cannot(&error, &format!("cannot forget stale attachments in {DIRECTORY}")))
}

fn cannot(error: &io::Error, doing: &str) -> CniError {
    CniError::new(code_of(error, ErrorCode::IoFailure), format!("{doing}: {error}"))
}
