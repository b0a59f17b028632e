//! `cni-chain install`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::say;
use crate::cli::InstallOptions;
use crate::install::binaries::{self, Fate, Piece, Program};
use crate::install::conflist::Addition;
use crate::install::directory::{self, Found};
use crate::install::package::Packages;
use crate::install::record::Record;
use crate::install::units;
use crate::install::watch::{Round, Watch};

/// Everything about one installation that does not change while a watch goes on.
struct Installation<'a> {
    options: &'a InstallOptions,
    from: PathBuf,
    dir: PathBuf,
    programs: Vec<Program>,
}

/// How often the same is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    First,
    /// Of a watch: what others have replaced, and a cni-chain of another version is no other.
    Again,
}

/// Installs, and with `--watch` whenever there is a reason to.
pub(super) fn install(options: &InstallOptions) -> anyhow::Result<()> {
    let dir = directory(options.place.bin_dir.as_deref())?;
    let installation = Installation::new(options, dir)?;
    if options.dry_run {
        return installation.tell();
    }
    binaries::make_directory(&installation.dir)?;
    if !options.watch {
        return installation.install(Turn::First);
    }
    let watch = Watch::begin(&installation.watched())?;
    installation.install(Turn::First)?;
    say(&format!("watching {}", installation.dir.display()))?;
    watch.run(|| match installation.install(Turn::Again) {
        Ok(()) => Round::Done,
        Err(error) => {
            eprintln!("cni-chain: {error:#}");
            Round::Failed
        }
    })
}

/// The directory that was asked for, or the one that is found, and why it is that.
pub(super) fn directory(asked_for: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = asked_for {
        return Ok(std::path::absolute(dir)?);
    }
    let Found { dir, because } = directory::find()?;
    say(&format!("plugins are in {}: {because}", dir.display()))?;
    Ok(dir)
}

impl<'a> Installation<'a> {
    fn new(options: &'a InstallOptions, dir: PathBuf) -> anyhow::Result<Self> {
        let own = || {
            let program =
                std::env::current_exe().context("cannot find this program's directory")?;
            Ok::<_, anyhow::Error>(program.parent().unwrap_or(Path::new("/")).to_owned())
        };
        let from = options.from.clone().map_or_else(own, Ok)?;
        let mut programs: Vec<Program> =
            options.plugins.iter().copied().map(Program::Plugin).collect();
        programs.push(Program::Command);
        Ok(Self { options, from, dir, programs })
    }

    /// What has to be heard of: the plugins' directory, and the network's file's.
    fn watched(&self) -> Vec<PathBuf> {
        let of_conflist = self.options.conflist.as_deref().and_then(Path::parent);
        // A bare file name is in this process's directory.
        let of_conflist = of_conflist.map(|dir| Path::new(".").join(dir));
        [self.dir.clone()].into_iter().chain(of_conflist).collect()
    }

    /// `--dry-run`.
    fn tell(&self) -> anyhow::Result<()> {
        let pieces = binaries::plan(&self.from, &self.dir, &self.programs)?;
        for piece in &pieces {
            match told(piece) {
                None => say(&format!("{} is there already", piece.target.display()))?,
                Some(done) => say(&format!("would be {done}"))?,
            }
        }
        if let Some(addition) = self.addition()? {
            say_present(&addition)?;
            let plugins = addition.plugins();
            if !plugins.is_empty() {
                say(&format!("{} would get {}", self.conflist(), plugins.join(", ")))?;
            }
        }
        if self.options.systemd && !units::are_installed(&self.command()) {
            say(&format!("would be installed: {}", units::names().join(", ")))?;
        }
        // Last, so that one knows what for.
        self.refuse_packaged(&pieces)
    }

    fn install(&self, turn: Turn) -> anyhow::Result<()> {
        let lock = binaries::lock(&self.dir)?;
        let mut pieces = binaries::plan(&self.from, &self.dir, &self.programs)?;
        if turn == Turn::Again {
            pieces.retain(|piece| piece.fate != Fate::Renewed);
        }
        self.refuse_packaged(&pieces)?;
        let addition = self.addition()?;
        binaries::install(&pieces, &self.dir)?;
        for piece in &pieces {
            match told(piece) {
                Some(done) => say(&done)?,
                None if turn == Turn::First => {
                    say(&format!("{} is there already", piece.target.display()))?;
                }
                None => {}
            }
        }
        if let Some(addition) = addition {
            self.append(&addition, turn)?;
        }
        drop(lock);
        if self.options.systemd {
            self.install_units()?;
        }
        Ok(())
    }

    fn install_units(&self) -> anyhow::Result<()> {
        let command = self.command();
        if units::are_installed(&command) {
            return say("the systemd units are there already");
        }
        units::install(&command)?;
        say(&format!("installed and enabled {}", units::names().join(", ")))
    }

    fn append(&self, addition: &Addition, turn: Turn) -> anyhow::Result<()> {
        if turn == Turn::First {
            say_present(addition)?;
        }
        let plugins = addition.plugins();
        if plugins.is_empty() {
            return Ok(());
        }
        let mut record = Record::read(&self.dir)?;
        record.add(addition.record());
        // First what tells how to take it out again.
        record.write(&self.dir)?;
        addition.write()?;
        say(&format!("{} has {} now", self.conflist(), plugins.join(", ")))
    }

    /// What `--append` asks for. With `--watch` the network's file may come later.
    fn addition(&self) -> anyhow::Result<Option<Addition>> {
        let Some(file) = &self.options.conflist else { return Ok(None) };
        let addition = Addition::plan(file, &self.options.append)?;
        if addition.is_none() && !self.options.watch {
            bail!("there is no {}", file.display());
        }
        Ok(addition)
    }

    fn conflist(&self) -> String {
        self.options.conflist.as_deref().unwrap_or(Path::new("")).display().to_string()
    }

    fn command(&self) -> PathBuf {
        self.dir.join(Program::Command.name())
    }

    fn refuse_packaged(&self, pieces: &[Piece]) -> anyhow::Result<()> {
        if self.options.place.replace_packaged {
            return Ok(());
        }
        let changing: Vec<&Piece> =
            pieces.iter().filter(|piece| piece.fate != Fate::Same).collect();
        if changing.is_empty() {
            return Ok(());
        }
        let names: Vec<String> =
            changing.iter().map(|piece| piece.program.name().to_owned()).collect();
        let packages = Packages::of_host(&names);
        let owned = changing.iter().find_map(|piece| Some((piece, packages.owner(&piece.target)?)));
        let Some((piece, package)) = owned else { return Ok(()) };
        bail!(
            "{} belongs to package {package}, whose next update would put its own back: install \
             cni-chain's package, choose another directory with --bin-dir and name it to the runtime, \
             or say --replace-packaged",
            piece.target.display()
        )
    }
}

/// As in `installed /opt/cni/bin/portmap; what was there is kept as …`; nothing of what is there already.
fn told(piece: &Piece) -> Option<String> {
    let target = piece.target.display();
    match piece.fate {
        Fate::Same => None,
        Fate::New => Some(format!("installed: {target}")),
        Fate::Renewed => Some(format!("installed: {target}, in place of another version")),
        Fate::Replaced { is_kept: true } => {
            let backup = binaries::backup_of(&piece.target);
            Some(format!("installed: {target}, and kept what was there as {}", backup.display()))
        }
        Fate::Replaced { is_kept: false } => {
            Some(format!("installed: {target}, in place of one that does not run"))
        }
    }
}

fn say_present(addition: &Addition) -> anyhow::Result<()> {
    addition.present().iter().try_for_each(|plugin| {
        say(&format!("{plugin} has an entry already; cni-chain lint says whether it works"))
    })
}
