//! A network's file, with entries put in and taken out.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::durable::{Draft, sync_directory};
use super::entries::{self, Appended};
use super::record::AppendedTo;
use crate::runner::NetworkList;
use crate::runner::plugins::MetaPlugin;

/// A file and what it would say with the entries.
#[derive(Debug)]
pub(crate) struct Addition {
    file: PathBuf,
    before: String,
    appended: Appended,
}

/// A file and what it would say without them.
#[derive(Debug)]
pub(crate) struct Removal {
    file: PathBuf,
    before: String,
    after: String,
    /// The network's name.
    pub(crate) network: String,
    /// Plugins whose entries somebody has changed, and which stay therefore.
    pub(crate) changed: Vec<String>,
}

impl Addition {
    /// Reads the file; `None` if there is none.
    pub(crate) fn plan(file: &Path, plugins: &[MetaPlugin]) -> anyhow::Result<Option<Self>> {
        let Some((file, before)) = read(file)? else { return Ok(None) };
        let appended =
            entries::append(&before, plugins).with_context(|| file.display().to_string())?;
        Ok(Some(Self { file, before, appended }))
    }

    /// The plugins that get an entry.
    pub(crate) fn plugins(&self) -> Vec<&str> {
        self.appended.insertions.iter().map(|insertion| insertion.plugin.as_str()).collect()
    }

    /// Plugins that have one already.
    pub(crate) fn present(&self) -> &[MetaPlugin] {
        &self.appended.present
    }

    /// What uninstall has to know of it.
    pub(crate) fn record(&self) -> AppendedTo {
        AppendedTo { file: self.file.clone(), insertions: self.appended.insertions.clone() }
    }

    pub(crate) fn write(&self) -> anyhow::Result<()> {
        replace(&self.file, &self.before, &self.appended.text)
    }
}

impl Removal {
    /// Reads the file; `None` if there is none.
    pub(crate) fn plan(file: &Path, appended: &AppendedTo) -> anyhow::Result<Option<Self>> {
        let Some((file, before)) = read(file)? else { return Ok(None) };
        let (after, changed) = entries::remove(&before, &appended.insertions)
            .with_context(|| file.display().to_string())?;
        let network = NetworkList::from_bytes(after.as_bytes())?.name;
        Ok(Some(Self { file, before, after, network, changed }))
    }

    /// Whether something goes.
    pub(crate) fn is_any(&self) -> bool {
        self.before != self.after
    }

    pub(crate) fn write(&self) -> anyhow::Result<()> {
        replace(&self.file, &self.before, &self.after)
    }
}

/// The file that a path leads to, and its text.
fn read(file: &Path) -> anyhow::Result<Option<(PathBuf, String)>> {
    let cannot = || format!("cannot read {}", file.display());
    let real = match file.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(cannot),
    };
    let text = fs::read_to_string(&real).with_context(cannot)?;
    Ok(Some((real, text)))
}

fn replace(file: &Path, before: &str, after: &str) -> anyhow::Result<()> {
    if before == after {
        return Ok(());
    }
    let cannot = || format!("cannot write {}", file.display());
    let draft = Draft::rewrite(file, after.as_bytes()).with_context(cannot)?;
    if fs::read(file).is_ok_and(|now| now != before.as_bytes()) {
        bail!("{} was changed by somebody else meanwhile; run it again", file.display());
    }
    draft.place().with_context(cannot)?;
    sync_directory(file.parent().unwrap_or(Path::new("/"))).with_context(cannot)
}
