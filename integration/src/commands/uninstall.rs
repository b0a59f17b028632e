//! `cni-chain uninstall`.

use std::path::{Path, PathBuf};
use std::thread::sleep;

use anyhow::bail;

use super::install::directory;
use super::privilege::may_administer_network;
use super::say;
use crate::cli::UninstallOptions;
use crate::hand_over::{self, Candidate, Survey};
use crate::install::binaries::{self, Departure, Program};
use crate::install::conflist::Removal;
use crate::install::record::{AppendedTo, Record};
use crate::install::units;
use crate::progress::Progress;
use crate::purge::{Purge, Scope};
use crate::runner::Runner;
use crate::runner::plugins::MetaPlugin;

const COMMAND: Program = Program::Command;

/// Takes out what `install` put in, the last first.
pub(super) fn uninstall(options: &UninstallOptions) -> anyhow::Result<()> {
    let dir = directory(options.bin_dir.as_deref())?;
    let lock = binaries::lock(&dir)?;
    let running = Running::look(options, &dir)?;
    let record = Record::read(&dir)?;
    let networks = Networks::of(&record, &running, options.conflist.as_deref())?;
    remove_units(options.dry_run)?;
    networks.take_out(&dir, options.dry_run)?;
    for program in MetaPlugin::ALL.map(Program::Plugin) {
        take_out(program, &dir, options.dry_run)?;
    }
    running.hand_over(options.dry_run)?;
    if !options.dry_run && !options.leave {
        running.clean_up()?;
    }
    // The command last: with it one can try again.
    if networks.kept.is_empty() {
        take_out(COMMAND, &dir, options.dry_run)?;
    } else {
        say(&format!(
            "{} stays: run it again when they are gone",
            dir.join(COMMAND.name()).display()
        ))?;
    }
    binaries::sync(&dir)?;
    drop(lock);
    Ok(())
}

/// Running containers that have something of ours.
struct Running {
    runner: Runner,
    candidates: Vec<Candidate>,
}

impl Running {
    /// Looks for them, and refuses what would leave them without anybody who cleans up.
    fn look(options: &UninstallOptions, dir: &Path) -> anyhow::Result<Self> {
        let runner = Runner::new(vec![dir.to_owned()], options.cache.dir.clone());
        if options.leave {
            return Ok(Self { runner, candidates: Vec::new() });
        }
        if !may_administer_network() {
            bail!(
                "only root can tell whether running containers have something of cni-chain: run it \
                 with sudo, or say --leave"
            );
        }
        let Survey { candidates, unknown } = Survey::of(&runner)?;
        if let [first, ..] = unknown.as_slice() {
            bail!("nothing was changed, because not all can be looked at: {first}");
        }
        if !options.hand_over
            && let [first, ..] = candidates.as_slice()
        {
            bail!(
                "{} running with something of cni-chain, such as {}: say --hand-over, or --leave, or \
                 take it out before with cni-chain purge --all",
                match candidates.len() {
                    1 => "1 container is".to_owned(),
                    number => format!("{number} containers are"),
                },
                first.name
            );
        }
        let running = Self { runner, candidates };
        running.require_successors(dir)?;
        Ok(running)
    }

    /// There has to be somebody to hand over to.
    fn require_successors(&self, dir: &Path) -> anyhow::Result<()> {
        for plugin in MetaPlugin::ALL {
            let program = Program::Plugin(plugin);
            let mut having = self.candidates.iter().filter(|c| c.plugins().contains(&plugin));
            if let Some(first) = having.next()
                && matches!(
                    binaries::departure(program, dir),
                    Departure::Removed | Departure::Absent
                )
            {
                bail!(
                    "{} has something of {plugin}, and there was no other {plugin} before that could \
                     take it over: put one there as {}, or take it out with cni-chain purge",
                    first.name,
                    binaries::backup_of(&dir.join(program.name())).display()
                );
            }
        }
        Ok(())
    }

    /// Whether one of a network has something of a plugin.
    fn has(&self, network: &str, plugin: &str) -> bool {
        self.candidates.iter().any(|candidate| {
            network == candidate.network()
                && candidate.plugins().iter().any(|has| has.as_str() == plugin)
        })
    }

    fn hand_over(&self, is_dry: bool) -> anyhow::Result<()> {
        let mut failed = 0;
        let mut progress = Progress::of(self.candidates.len());
        for candidate in &self.candidates {
            let plugins: Vec<&str> =
                candidate.plugins().into_iter().map(MetaPlugin::as_str).collect();
            let plugins = plugins.join(", ");
            let outcome = if is_dry { Ok(()) } else { candidate.hand_over(&self.runner) };
            progress.hide();
            let name = &candidate.name;
            match outcome {
                Ok(()) if is_dry => say(&format!("{name}: would be handed over: {plugins}"))?,
                Ok(()) => say(&format!("{name}: handed over: {plugins}"))?,
                Err(failures) => {
                    failed += 1;
                    say(&format!("{name}: failed: {}", failures.join("; ")))?;
                }
            }
            progress.step();
        }
        drop(progress);
        if !is_dry {
            failed += self.take_back()?;
        }
        if failed > 0 {
            bail!("{failed} could not be handed over; mend what their lines say and run it again");
        }
        Ok(())
    }

    /// A runtime's DEL may have been under way, with what was handed over after its plugin's turn; how many
    /// failed.
    fn take_back(&self) -> anyhow::Result<usize> {
        if self.candidates.is_empty() {
            return Ok(0);
        }
        sleep(hand_over::GRACE);
        let mut failed = 0;
        for candidate in self.candidates.iter().filter(|candidate| candidate.is_deleted()) {
            let name = &candidate.name;
            match candidate.take_back(&self.runner) {
                Ok(()) => {
                    say(&format!("{name}: deleted by its runtime meanwhile, and taken back"))?;
                }
                Err(failures) => {
                    failed += 1;
                    say(&format!(
                        "{name}: deleted meanwhile, and failed: {}",
                        failures.join("; ")
                    ))?;
                }
            }
        }
        Ok(failed)
    }

    /// What is left of containers that are gone, and what all shared: afterwards nobody is there any more
    /// who would collect it.
    fn clean_up(&self) -> anyhow::Result<()> {
        let purge = Purge::look(&self.runner.cache(), Scope::All)?;
        let mut failures = Vec::new();
        for victim in purge.victims().iter().filter(|victim| !victim.lives()) {
            say(&format!(
                "{}: removed {}, whose container is gone",
                victim.name(),
                victim.losses()
            ))?;
            failures.extend(purge.remove(victim).err().into_iter().flatten());
        }
        failures.extend(hand_over::leave());
        failures.iter().try_for_each(|failure| say(&format!("failed: {failure}")))
    }
}

fn remove_units(is_dry: bool) -> anyhow::Result<()> {
    if !units::is_any_installed() {
        return Ok(());
    }
    let names = units::names().join(", ");
    if is_dry {
        return say(&format!("would be disabled and removed: {names}"));
    }
    units::remove()?;
    say(&format!("disabled and removed: {names}"))
}

/// The networks' files that something was put into.
struct Networks {
    removals: Vec<(AppendedTo, Removal)>,
    /// Those whose entries running containers still need.
    kept: Vec<AppendedTo>,
}

impl Networks {
    fn of(record: &Record, running: &Running, conflist: Option<&Path>) -> anyhow::Result<Self> {
        let mut networks = Self { removals: Vec::new(), kept: Vec::new() };
        for appended in &record.conflists {
            let file = path_of(appended, conflist);
            let Some(removal) = Removal::plan(&file, appended)? else {
                if file.parent().is_some_and(Path::is_dir) {
                    say(&format!("{} is gone, and what was put into it", file.display()))?;
                    continue;
                }
                bail!("there is no {}: say with --conflist where it is now", file.display());
            };
            if appended.plugins().any(|plugin| running.has(&removal.network, plugin)) {
                networks.kept.push(appended.clone());
                continue;
            }
            if let Some(plugin) = removal.changed.first() {
                bail!(
                    "the entry of {plugin} in {} is not as it was put there: take it out by hand",
                    file.display()
                );
            }
            networks.removals.push((appended.clone(), removal));
        }
        Ok(networks)
    }

    /// Takes out what goes, and remembers what stays.
    fn take_out(&self, dir: &Path, is_dry: bool) -> anyhow::Result<()> {
        for (appended, removal) in &self.removals {
            tell_of_entries(appended, removal, is_dry)?;
            if !is_dry {
                removal.write()?;
            }
        }
        for appended in &self.kept {
            say(&format!(
                "{} keeps {}: a runtime would not clean up after running containers without",
                appended.file.display(),
                appended.plugins().collect::<Vec<_>>().join(", ")
            ))?;
        }
        if is_dry { Ok(()) } else { Record { conflists: self.kept.clone() }.write(dir) }
    }
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

fn take_out(program: Program, dir: &Path, is_dry: bool) -> anyhow::Result<()> {
    let departure = binaries::departure(program, dir);
    if !is_dry {
        binaries::depart(program, departure, dir)?;
    }
    let target = dir.join(program.name());
    let backup = binaries::backup_of(&target);
    let (target, backup) = (target.display(), backup.display());
    let would = if is_dry { "would be " } else { "" };
    match departure {
        Departure::Absent | Departure::Superseded { has_backup: false } => Ok(()),
        Departure::Back => say(&format!("{would}put back: {target}")),
        Departure::Removed => say(&format!("{would}removed: {target}")),
        Departure::Superseded { has_backup: true } => say(&format!(
            "{target} is not cni-chain's, and stays; {would}removed: {backup}, which it came after"
        )),
    }
}
