//! The opt-in log: JSON lines appended to a file, never to stdout.
//!
//! Switched on by `logFile` and `logLevel` in the configuration or by `CNI_CHAIN_LOG_FILE` and
//! `CNI_CHAIN_LOG_LEVEL` in the environment (which win, so that a node can be debugged without
//! editing its networks). Warnings also go to stderr, which runtimes forward. A log that cannot
//! be written never fails a command.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::cni::protocol::json::{Json, Object};
use crate::cni::protocol::{CniError, Fields};

/// How much is logged; each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Failed commands.
    Error,
    /// What an administrator should look at.
    Warn,
    /// A line or two per command.
    Info,
    /// What was decided on the way.
    Debug,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| level.as_str() == text)
    }
}

/// Where and how much to log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    file: Option<String>,
    level: Option<Level>,
}

impl LogConfig {
    /// Reads the configuration's `logFile` and `logLevel`, then the environment's.
    pub fn read(top: Fields<'_>) -> Result<Self, CniError> {
        let file = top.field("logFile");
        let path = file.string()?.filter(|path| !path.is_empty());
        if path.is_some_and(|path| !path.starts_with('/')) {
            return Err(file.expected("an absolute path"));
        }
        let level = top.field("logLevel");
        let from_config = match level.string()? {
            None | Some("") => None,
            Some(text) => Some(
                Level::from_text(text)
                    .ok_or_else(|| level.expected("one of error, warn, info, debug"))?,
            ),
        };
        let environment = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Ok(Self {
            file: environment("CNI_CHAIN_LOG_FILE").or(path.map(str::to_owned)),
            level: environment("CNI_CHAIN_LOG_LEVEL")
                .and_then(|text| Level::from_text(&text))
                .or(from_config),
        })
    }
}

/// The log of one command.
#[derive(Debug)]
pub struct Log {
    /// Only a log in a file asks how long a command took.
    started: Option<Instant>,
    level: Level,
    file: Option<RefCell<File>>,
    /// Members of every line: plugin, command, network, container ID, interface.
    context: Object,
    /// What [`Log::warn`] was given: tests and explanations read it.
    warnings: RefCell<Vec<String>>,
    /// Whether warnings go to stderr as well.
    says: bool,
}

impl Log {
    /// Opens the log that `config` names, if any.
    #[must_use]
    pub fn open(config: &LogConfig, context: Object) -> Self {
        let open = |path: &String| {
            // A FIFO without a reader would otherwise hold the command up for ever.
            let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o640).custom_flags(flags);
            options.open(path).map_err(|error| {
                say(format_args!("cannot open log file {path}: {error}; going on without it"));
            })
        };
        let file = config.file.as_ref().and_then(|path| open(path).ok()).map(RefCell::new);
        Self {
            started: file.is_some().then(Instant::now),
            level: config.level.unwrap_or(Level::Info),
            file,
            context,
            warnings: RefCell::default(),
            says: true,
        }
    }

    /// A log that only keeps its warnings, for [`Log::warnings`].
    #[must_use]
    pub fn keeping() -> Self {
        Self { says: false, ..Self::disabled() }
    }

    /// A log that goes nowhere but to stderr.
    #[must_use]
    pub fn disabled() -> Self {
        Self::open(&LogConfig::default(), Object::default())
    }

    /// Something an administrator should look at.
    pub fn warn(&self, message: impl Into<String>) {
        let message = message.into();
        if self.says {
            say(format_args!("warning: {message}"));
        }
        self.line(Level::Warn, &message, &Object::default());
        self.warnings.borrow_mut().push(message);
    }

    /// What a command did.
    pub fn info(&self, message: impl FnOnce() -> String) {
        if self.file.is_some() && self.level >= Level::Info {
            self.line(Level::Info, &message(), &Object::default());
        }
    }

    /// What was decided on the way.
    pub fn debug(&self, message: impl FnOnce() -> String) {
        if self.file.is_some() && self.level >= Level::Debug {
            self.line(Level::Debug, &message(), &Object::default());
        }
    }

    /// What [`Log::warn`] was given so far.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().clone()
    }

    /// The closing line of a command.
    pub fn outcome(&self, outcome: Result<(), &CniError>) {
        let Some(started) = self.started else { return };
        let mut members = Object::default();
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        members.push("durationMicros", micros);
        match outcome {
            Ok(()) => {
                members.push("outcome", "ok");
                self.line(Level::Info, "done", &members);
            }
            Err(error) => {
                members.push("outcome", "error");
                members.push("code", u64::from(error.code.number()));
                self.line(Level::Error, &error.to_string(), &members);
            }
        }
    }

    fn line(&self, level: Level, message: &str, members: &Object) {
        let Some(file) = self.file.as_ref().filter(|_| level <= self.level) else { return };
        let mut line = Object::default();
        line.push("time", timestamp(SystemTime::now()));
        line.push("level", level.as_str());
        for (key, value) in self.context.iter().chain(members.iter()) {
            line.push(key, value.clone());
        }
        line.push("msg", message);
        let text = format!("{}\n", Json::from(line));
        // One write per line: O_APPEND keeps lines of parallel plugins whole.
        if let Err(error) = file.borrow_mut().write_all(text.as_bytes()) {
            say(format_args!("cannot write the log: {error}"));
        }
    }
}

/// A line on stderr, for whoever reads it. That nobody does must not end a command half way, as
/// `eprintln!` would.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// RFC 3339 in UTC with microseconds.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        since.subsec_micros()
    )
}

/// Days since 1970-01-01 to a date of the Gregorian calendar.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // Counted in 400-year eras from 0000-03-01, so that the leap day is a year's last.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamps() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(1_795_305_599), "2026-11-21T23:59:59.000000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn lines_are_json_and_respect_the_level() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let config = LogConfig { file: Some(path.display().to_string()), level: Some(Level::Warn) };
        let mut context = Object::default();
        context.push("containerID", "c1");
        let log = Log::open(&config, context);
        log.debug(|| "hidden".into());
        log.outcome(Ok(()));
        log.warn("look here");
        log.outcome(Err(&CniError::config("bad \"thing\"\nhere")));
        let text = std::fs::read_to_string(&path).expect("log");
        let lines: Vec<_> =
            text.lines().map(|line| Json::parse(line.as_bytes()).expect("JSON")).collect();
        let field = |line: &Json, key: &str| line.as_object().and_then(|o| o.get(key)).cloned();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(field(&lines[0], "msg"), Some("look here".into()));
        assert_eq!(field(&lines[1], "outcome"), Some("error".into()));
        assert_eq!(field(&lines[1], "containerID"), Some("c1".into()));
    }
}
