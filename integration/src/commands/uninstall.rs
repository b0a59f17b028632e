//! `cni-chain uninstall`.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::install::directory;
use super::say;
use crate::cli::UninstallOptions;
use crate::install::binaries::{self, Departure, Program};
use crate::install::conflist::Removal;
use crate::install::record::{AppendedTo, Record};
use crate::install::units;
use crate::runner::plugins::MetaPlugin;

/// Takes out what `install` put in, the last first.
pub(super) fn uninstall(options: &UninstallOptions) -> anyhow::Result<()> {
    let dir = directory(options.bin_dir.as_deref())?;
    let lock = binaries::lock(&dir)?;
    let record = Record::read(&dir)?;
    let removals = removals(&record, options.conflist.as_deref())?;
    if units::is_any_installed() {
        let names = units::names().join(", ");
        if options.dry_run {
            say(&format!("would be disabled and removed: {names}"))?;
        } else {
            units::remove()?;
            say(&format!("disabled and removed: {names}"))?;
        }
    }
    for (appended, removal) in &removals {
        tell_of_entries(appended, removal, options.dry_run)?;
        if !options.dry_run {
            removal.write()?;
        }
    }
    if !options.dry_run {
        Record::default().write(&dir)?;
    }
    // The command last: with it one could try again.
    let plugins = MetaPlugin::ALL.map(Program::Plugin);
    for program in plugins.into_iter().chain([Program::Command]) {
        let departure = binaries::departure(program, &dir);
        if !options.dry_run {
            binaries::depart(program, departure, &dir)?;
        }
        tell(program, departure, &dir, options.dry_run)?;
    }
    binaries::sync(&dir)?;
    drop(lock);
    Ok(())
}

/// The networks' files without what was put into them.
fn removals(
    record: &Record,
    conflist: Option<&Path>,
) -> anyhow::Result<Vec<(AppendedTo, Removal)>> {
    let mut removals = Vec::new();
    for appended in &record.conflists {
        let file = path_of(appended, conflist);
        let removal = Removal::plan(&file, appended)?;
        let Some(removal) = removal else {
            if file.parent().is_some_and(Path::is_dir) {
                say(&format!("{} is gone, and what was put into it", file.display()))?;
                continue;
            }
            bail!("there is no {}: say with --conflist where it is now", file.display());
        };
        if let Some(plugin) = removal.changed.first() {
            bail!(
                "the entry of {plugin} in {} is not as it was put there: take it out by hand",
                file.display()
            );
        }
        removals.push((appended.clone(), removal));
    }
    Ok(removals)
}

/// Whoever installed may have been in a container and seen the file elsewhere; its name is the same.
fn path_of(appended: &AppendedTo, asked_for: Option<&Path>) -> PathBuf {
    match asked_for {
        Some(path) if path.file_name() == appended.file.file_name() => path.to_owned(),
        _ => appended.file.clone(),
    }
}

fn tell_of_entries(appended: &AppendedTo, removal: &Removal, is_dry: bool) -> anyhow::Result<()> {
    let file = appended.file.display();
    let plugins: Vec<&str> = appended.plugins().collect();
    let plugins = plugins.join(", ");
    match (removal.is_any(), is_dry) {
        (false, _) => say(&format!("{file} has nothing of it any more")),
        (true, true) => say(&format!("{file} would lose {plugins}")),
        (true, false) => say(&format!("{file} has lost {plugins}")),
    }
}

fn tell(program: Program, departure: Departure, dir: &Path, is_dry: bool) -> anyhow::Result<()> {
    let target = dir.join(program.name());
    let backup = binaries::backup_of(&target);
    let (target, backup) = (target.display(), backup.display());
    let would = if is_dry { "would be " } else { "" };
    match departure {
        Departure::Absent => Ok(()),
        Departure::Back => say(&format!("{would}put back: {target}")),
        Departure::Removed => say(&format!("{would}removed: {target}")),
        Departure::Superseded { has_backup: false } => {
            say(&format!("{target} is not cni-chain's, and stays"))
        }
        Departure::Superseded { has_backup: true } => say(&format!(
            "{target} is not cni-chain's, and stays; {would}removed: {backup}, which it came after"
        )),
    }
}
