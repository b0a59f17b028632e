//! Waiting for other installers, to install again right after them.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::durable::Draft;

/// An installer writes several files; it is not interrupted at each of them.
const REST: Duration = Duration::from_millis(300);
/// One that writes all the time is, after so long.
const MOST: Duration = Duration::from_secs(3);
/// A look without a reason: of a directory behind a symbolic link that leads elsewhere now, the
/// kernel tells nothing.
const AT_LEAST_EVERY: Duration = Duration::from_mins(1);
/// After one that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Whether a round did all that it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Done,
    Failed,
}

/// Hears of changes in directories, and of SIGTERM and SIGINT.
pub(crate) struct Watch {
    inotify: Inotify,
    signals: SignalFd,
}

enum Heard {
    Changes,
    TheEnd,
    /// Something that does not matter.
    Nothing,
    /// Nothing at all, for so long.
    Quiet,
}

impl Watch {
    /// From now on. Signals that end a process are waited for, also by the first process of a container,
    /// which they would not end otherwise.
    pub(crate) fn begin(dirs: &[PathBuf]) -> anyhow::Result<Self> {
        let ending = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        ending.thread_block().context("cannot wait for signals")?;
        let signals = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot wait for signals")?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .context("cannot hear of changes")?;
        for dir in dirs {
            watch(&inotify, dir)?;
        }
        Ok(Self { inotify, signals })
    }

    /// Calls `round` after every change, until a signal ends it.
    pub(crate) fn run(&self, mut round: impl FnMut() -> Round) -> anyhow::Result<()> {
        let mut patience = AT_LEAST_EVERY;
        loop {
            match self.wait(patience)? {
                Heard::TheEnd => return Ok(()),
                Heard::Changes if self.settle()? => return Ok(()),
                Heard::Changes | Heard::Quiet => {}
                Heard::Nothing => continue,
            }
            patience = match round() {
                Round::Done => AT_LEAST_EVERY,
                Round::Failed => AGAIN_AFTER,
            };
        }
    }

    /// Waits until nobody writes for a while; whether a signal came.
    fn settle(&self) -> anyhow::Result<bool> {
        let end = Instant::now() + MOST;
        while Instant::now() < end {
            match self.wait(REST)? {
                Heard::Changes | Heard::Nothing => {}
                Heard::Quiet => return Ok(false),
                Heard::TheEnd => return Ok(true),
            }
        }
        Ok(false)
    }

    fn wait(&self, patience: Duration) -> anyhow::Result<Heard> {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut sources = [
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut sources, timeout) {
            Ok(0) => return Ok(Heard::Quiet),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Heard::Nothing),
            Err(error) => return Err(error).context("cannot wait"),
        }
        if self.signals.read_signal().context("cannot read signals")?.is_some() {
            return Ok(Heard::TheEnd);
        }
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => return Ok(Heard::Nothing),
            Err(error) => return Err(error).context("cannot hear of changes"),
        };
        if events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED)) {
            bail!("a directory that was watched is gone; start it again when it is back");
        }
        // Of our own drafts there is nothing to hear, or a round that fails would lead to the next.
        let is_of_others =
            |event: &InotifyEvent| !event.name.as_ref().is_some_and(|name| Draft::is_named(name));
        Ok(if events.iter().any(is_of_others) { Heard::Changes } else { Heard::Nothing })
    }
}

fn watch(inotify: &Inotify, dir: &Path) -> anyhow::Result<()> {
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ONLYDIR;
    inotify
        .add_watch(dir, changes)
        .map(drop)
        .with_context(|| format!("cannot watch {}", dir.display()))
}
