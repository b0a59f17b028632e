//! The programs: into the plugins' directory, each at once or not at all, and out of it again.
//!
//! What was there before is kept beside it as `NAME.go-backup`, by a hard link: the very file, with its
//! owner, times and labels, comes back. It is kept there and not elsewhere because a rename cannot cross
//! file systems, and because it then goes wherever the directory goes. The newest plugin of another
//! that works is kept: a newer one that an update of the host brought in is what has to come back. One
//! that does not run never takes the place of a backup.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use cni_common::kernel::flock::lock_within;

use super::durable::{Draft, sync_directory};
use super::elf;
use crate::runner::plugins::{DEADLINE, MetaPlugin};
use crate::runner::{ExecError, RunError, Runner, exec};

/// How long another installer may be at work.
const PATIENCE: Duration = Duration::from_mins(1);

/// A program that is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Plugin(MetaPlugin),
    /// `cni-chain`, which goes beside the plugins: it finds them there, and brings them out again.
    Command,
}

/// What becomes of a program's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is there already.
    Same,
    New,
    /// In place of another version of ours.
    Renewed,
    /// In place of another's plugin, which is kept or whose predecessor is.
    Replaced {
        is_kept: bool,
    },
}

/// A program to install.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) program: Program,
    pub(crate) target: PathBuf,
    pub(crate) fate: Fate,
    source: PathBuf,
}

/// What becomes of an installed program's place when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// What was there before comes back.
    Back,
    /// There was nothing before.
    Removed,
    /// Somebody else's is there already; a backup of ours goes.
    Superseded { has_backup: bool },
    /// Nothing is there.
    Absent,
}

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plugin(plugin) => plugin.as_str(),
            Self::Command => "cni-chain",
        }
    }

    /// Whether the file at this path runs and is this program of ours.
    fn is_at(self, path: &Path) -> bool {
        match self {
            Self::Plugin(plugin) => plugin.is_at(path),
            Self::Command => exec::version_text(path, DEADLINE)
                .is_ok_and(|text| text.starts_with(concat!(env!("CARGO_PKG_NAME"), " "))),
        }
    }
}

/// Keeps other installers out of a directory for as long as it lives.
pub(crate) fn lock(dir: &Path) -> anyhow::Result<File> {
    let file = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    lock_within(&file, PATIENCE)
        .with_context(|| format!("another installer is at work in {}", dir.display()))?;
    Ok(file)
}

/// Makes the directory if there is none.
pub(crate) fn make_directory(dir: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))
}

/// Reads the programs and looks what is in their places. Changes nothing.
pub(crate) fn plan(from: &Path, dir: &Path, programs: &[Program]) -> anyhow::Result<Vec<Piece>> {
    programs.iter().map(|program| piece(*program, from, dir)).collect()
}

fn piece(program: Program, from: &Path, dir: &Path) -> anyhow::Result<Piece> {
    let (source, target) = (from.join(program.name()), dir.join(program.name()));
    File::open(&source).with_context(|| {
        format!("cannot read {}; name the directory of the programs with --from", source.display())
    })?;
    if is_one_file(&source, &target) && !program.is_at(&target) {
        bail!(
            "{} is not cni-chain's by now, and this cni-chain is the one beside it: run that of a \
             release, or name its directory with --from",
            target.display()
        );
    }
    let fate = fate(program, &target, &source)?;
    Ok(Piece { program, target, fate, source })
}

fn is_one_file(one: &Path, two: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| two.canonicalize().is_ok_and(|two| one == two))
}

fn fate(program: Program, target: &Path, source: &Path) -> anyhow::Result<Fate> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Fate::New),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", target.display()));
        }
        Ok(metadata) if metadata.is_dir() => bail!("{} is a directory", target.display()),
        Ok(metadata) => {
            if metadata.is_file() && are_same(target, source).unwrap_or(false) {
                return Ok(Fate::Same);
            }
        }
    }
    if program.is_at(target) {
        return Ok(Fate::Renewed);
    }
    let is_kept = fs::symlink_metadata(backup_of(target)).is_err() || works(target);
    Ok(Fate::Replaced { is_kept })
}

/// Installs what has a place to take: everything is written and tried before anything is replaced.
pub(crate) fn install(pieces: &[Piece], dir: &Path) -> anyhow::Result<()> {
    let changing = || pieces.iter().filter(|piece| piece.fate != Fate::Same);
    let mut drafts = Vec::new();
    for piece in changing() {
        let draft = Draft::copy(&piece.source, &piece.target, 0o755)
            .with_context(|| format!("cannot write into {}", dir.display()))?;
        drafts.push(draft);
    }
    for (piece, draft) in changing().zip(&drafts) {
        try_out(piece, &draft.path)?;
    }
    for (piece, draft) in changing().zip(drafts) {
        let target = piece.target.display();
        if piece.fate == (Fate::Replaced { is_kept: true }) {
            Draft::link(&piece.target, &backup_of(&piece.target))
                .and_then(Draft::place)
                .with_context(|| format!("cannot keep what {target} was"))?;
        }
        draft.place().with_context(|| format!("cannot put {target} in its place"))?;
    }
    sync_directory(dir).with_context(|| format!("cannot write {} to its disk", dir.display()))
}

fn try_out(piece: &Piece, draft: &Path) -> anyhow::Result<()> {
    if piece.program.is_at(draft) {
        return Ok(());
    }
    let name = piece.program.name();
    let reason = match exec::version_text(draft, DEADLINE) {
        Ok(_) => "it does not say that it is cni-chain's".to_owned(),
        Err(error) => error.to_string(),
    };
    bail!("nothing was replaced: the {name} to install does not run here: {reason}")
}

/// Whether two files have the same content, without having it in memory.
fn are_same(one: &Path, two: &Path) -> io::Result<bool> {
    let (one, two) = (File::open(one)?, File::open(two)?);
    if one.metadata()?.len() != two.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut two) = (BufReader::new(one), BufReader::new(two));
    loop {
        let (here, there) = (one.fill_buf()?, two.fill_buf()?);
        let length = here.len().min(there.len());
        if length == 0 {
            return Ok(here.len() == there.len());
        }
        if here[..length] != there[..length] {
            return Ok(false);
        }
        one.consume(length);
        two.consume(length);
    }
}

/// Whether a plugin runs, whoever's it is. One that needs a library's loader cannot be run in an image
/// that has none, and will do on the host if it is all there.
fn works(path: &Path) -> bool {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return false };
    let runner =
        Runner { deadline: Some(DEADLINE), ..Runner::new(vec![dir.to_owned()], PathBuf::new()) };
    match runner.version(&name.to_string_lossy()) {
        Ok(_) => true,
        Err(RunError::Exec(ExecError::Spawn(_, error))) if error.kind() == ErrorKind::NotFound => {
            is_whole(path).unwrap_or(false)
        }
        Err(_) => false,
    }
}

fn is_whole(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut beginning = Vec::new();
    file.take(elf::HEADER as u64).read_to_end(&mut beginning)?;
    Ok(elf::is_whole(&beginning, length))
}

/// What becomes of a program's place when it goes. Changes nothing.
pub(crate) fn departure(program: Program, dir: &Path) -> Departure {
    let target = dir.join(program.name());
    let has_backup = fs::symlink_metadata(backup_of(&target)).is_ok();
    let is_there = fs::symlink_metadata(&target).is_ok();
    match (is_there && !program.is_at(&target), has_backup) {
        (true, has_backup) => Departure::Superseded { has_backup },
        (false, true) => Departure::Back,
        (false, false) if is_there => Departure::Removed,
        (false, false) => Departure::Absent,
    }
}

/// Takes a program out. [`sync`] makes it last.
pub(crate) fn depart(program: Program, departure: Departure, dir: &Path) -> anyhow::Result<()> {
    let target = dir.join(program.name());
    let backup = backup_of(&target);
    let outcome = match departure {
        Departure::Back => fs::rename(&backup, &target),
        Departure::Removed => fs::remove_file(&target),
        Departure::Superseded { has_backup: true } => fs::remove_file(&backup),
        Departure::Superseded { has_backup: false } | Departure::Absent => Ok(()),
    };
    outcome.with_context(|| format!("cannot take out {}", target.display()))
}

/// Makes what was taken out of a directory last.
pub(crate) fn sync(dir: &Path) -> anyhow::Result<()> {
    sync_directory(dir).with_context(|| format!("cannot write {} to its disk", dir.display()))
}

/// Where what was there before is kept.
pub(crate) fn backup_of(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}.go-backup"))
}
