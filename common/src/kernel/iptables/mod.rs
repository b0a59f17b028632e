//! iptables by its own tools: one `save` to read a table, one `restore` to change it.
//!
//! There is no stable interface to legacy iptables but its programs. A change is one
//! `iptables-restore --noflush`, which the kernel applies as a whole; reading and changing are
//! two steps, so whoever does both holds [`Lock`] meanwhile. Other programs may change other
//! chains at any time; ours are only ours.

mod dump;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::flock::lock_within;
use super::ip::IpVersion;
use super::layout::Newer;
use super::nft::{Family, NetlinkNft, Nft as _, NftError, Table};
use super::program::{Finished, run_within};
use super::retry::{Again, Retry};
use dump::{Saved, parse_tables};

pub use dump::{Form, SavedRule, TableDump, quote};

/// How long `iptables-restore` waits for the xtables lock, in seconds.
const XTABLES_WAIT: &str = "5";
/// How long a program may take: its own wait for the lock, and a table of a hundred thousand rules on
/// a machine that is busy.
const PROGRAM_LIMIT: Duration = Duration::from_secs(15);
/// How long we wait for each other: longer than for a program, so that one that hangs under another
/// process of ours does not make this one fail, too.
const OWN_WAIT: Duration = Duration::from_secs(20);
/// Where Debian, Fedora and Alpine keep the programs; runtimes may have a short `PATH`.
const USUAL_PLACES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];
/// Serialises our own read-modify-write. On tmpfs: it means nothing after a boot.
const LOCK: &str = "/run/cni-chain-iptables.lock";

/// Which of the two implementations of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Whatever `iptables` is on this host.
    Default,
    /// On top of `nf_tables`.
    Nft,
    /// On top of `ip_tables`.
    Legacy,
}

/// As people call it.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "iptables",
            Self::Nft => "iptables-nft",
            Self::Legacy => "legacy iptables",
        })
    }
}

/// The programs of one family and variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iptables {
    version: IpVersion,
    save: PathBuf,
    restore: PathBuf,
}

/// What can go wrong with iptables.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program is not installed.
    #[error("{0} is not installed")]
    Missing(&'static str),
    /// Another program held the xtables lock, or another of our processes ours, all the time.
    #[error("another program holds the lock of iptables: {0}")]
    Locked(String),
    /// It did not end, and was killed: which program, and how long it had.
    #[error("{0}: {1}")]
    Hung(String, io::Error),
    /// The program refused.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// What it said.
        message: String,
    },
    /// What the program saved is not whole: what is wrong with it.
    #[error("what {0} printed cannot be used: {1}")]
    Garbled(String, String),
    /// It could not be run, or a file not be used.
    #[error("cannot use {0}: {1}")]
    Io(String, io::Error),
    /// What the kernel holds of iptables on top of `nf_tables` could not be read.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A table is another version's.
    #[error(transparent)]
    Newer(#[from] Newer),
}

impl Retry for IptablesError {
    /// A program that fails does not say why: a rule that was saved may be gone by now, or a chain
    /// may have come.
    fn again(&self) -> Again {
        match self {
            Self::Failed { .. } | Self::Garbled(..) => Again::Perhaps,
            Self::Nft(error) => error.again(),
            Self::Missing(_) | Self::Locked(_) | Self::Hung(..) | Self::Io(..) | Self::Newer(_) => {
                Again::Never
            }
        }
    }
}

impl Iptables {
    /// The programs of a family; nothing is run to find them.
    pub fn find(version: IpVersion, variant: Variant) -> Result<Self, IptablesError> {
        let (save, restore) = match (version, variant) {
            (IpVersion::V4, Variant::Default) => ("iptables-save", "iptables-restore"),
            (IpVersion::V4, Variant::Nft) => ("iptables-nft-save", "iptables-nft-restore"),
            (IpVersion::V4, Variant::Legacy) => ("iptables-legacy-save", "iptables-legacy-restore"),
            (IpVersion::V6, Variant::Default) => ("ip6tables-save", "ip6tables-restore"),
            (IpVersion::V6, Variant::Nft) => ("ip6tables-nft-save", "ip6tables-nft-restore"),
            (IpVersion::V6, Variant::Legacy) => {
                ("ip6tables-legacy-save", "ip6tables-legacy-restore")
            }
        };
        Ok(Self {
            version,
            save: which(save).ok_or(IptablesError::Missing(save))?,
            restore: which(restore).ok_or(IptablesError::Missing(restore))?,
        })
    }

    /// Which version of IP they are for.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        self.version
    }

    /// The programs that see what one variant made. A host with a single variant may have it under
    /// the plain names only.
    pub fn seeing(version: IpVersion, variant: Variant) -> Result<Self, IptablesError> {
        let named = Self::find(version, variant);
        if named.is_ok() {
            return named;
        }
        match Self::find(version, Variant::Default) {
            Ok(plain) if plain.variant()? == variant => Ok(plain),
            _ => named,
        }
    }

    /// Which of the two the programs are, by their own words. Those from before there were two say
    /// nothing about it.
    pub fn variant(&self) -> Result<Variant, IptablesError> {
        let mut command = Command::new(&self.save);
        command.arg("--version");
        let output = match run(command, &self.save, "") {
            Err(IptablesError::Failed { .. }) => return Ok(Variant::Legacy),
            outcome => outcome?,
        };
        let text = String::from_utf8_lossy(&output.stdout);
        match (text.contains("nf_tables"), text.contains("tables")) {
            (true, _) => Ok(Variant::Nft),
            (false, true) => Ok(Variant::Legacy),
            (false, false) => Err(self.garbled("it does not say its version")),
        }
    }

    /// Reads a table.
    pub fn save(&self, table: &str) -> Result<TableDump, IptablesError> {
        let mut command = Command::new(&self.save);
        command.args(["-t", table]);
        let mut tables = self.read(command)?;
        self.take(&mut tables, table)
    }

    /// Takes a table out of what was saved. Versions differ in what they print of a table that the kernel
    /// has not got.
    fn take(
        &self,
        tables: &mut HashMap<String, Saved>,
        table: &str,
    ) -> Result<TableDump, IptablesError> {
        match tables.remove(table) {
            Some(saved) => saved.map_err(|problem| self.garbled(&problem)),
            None if self.may_exist(table) => {
                Err(self.garbled(&format!("it leaves table {table} out")))
            }
            None => Ok(TableDump::default()),
        }
    }

    /// Whether the kernel has this table of the programs' own kind.
    fn may_exist(&self, table: &str) -> bool {
        const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
        let chains = CHAINS.map(|chain| {
            let table = Table { family: Family::of(self.version), name: table.to_owned().into() };
            (table, chain.to_owned())
        });
        let found = NetlinkNft::open().and_then(|mut nft| nft.chains(&chains));
        let in_nft = found.is_ok_and(|chains| chains.iter().any(Option::is_some));
        match (in_nft, legacy_table_loaded(self.version, table)) {
            (false, Ok(false)) => false,
            (true, Ok(true)) | (_, Err(_)) => true,
            // Only here it is worth a program to find out which kind they are.
            (in_nft, _) => self.variant().map_or(true, |kind| (kind == Variant::Nft) == in_nft),
        }
    }

    fn read(&self, command: Command) -> Result<HashMap<String, Saved>, IptablesError> {
        let output = run(command, &self.save, "")?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse_tables(&text).map_err(|problem| self.garbled(&problem))
    }

    fn garbled(&self, problem: &str) -> IptablesError {
        IptablesError::Garbled(self.save.display().to_string(), problem.to_owned())
    }

    /// How the programs themselves put these lines: what is saved after they were restored in a network
    /// namespace that nobody else sees, and that goes with this call.
    pub fn rephrase(&self, table: &str, lines: Vec<String>) -> Result<TableDump, IptablesError> {
        let alone = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .map_err(|error| IptablesError::Io("unshare".to_owned(), error.into()))?;
            self.restore(&[(table, lines)])?;
            self.save(table)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, alone);
            let thread = thread.map_err(|error| IptablesError::Io("a thread".to_owned(), error))?;
            let panicked =
                || IptablesError::Io("a thread".to_owned(), io::Error::other("it panicked"));
            thread.join().unwrap_or_else(|_| Err(panicked()))
        })
    }

    /// Reads several tables in one go.
    pub fn save_each<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Result<[TableDump; N], IptablesError> {
        let mut dumps = [const { None }; N];
        match self.read(Command::new(&self.save)) {
            // Without the list the legacy program reads only a table that is named.
            Err(IptablesError::Failed { .. }) if is_list_hidden(self.version) => {
                for (dump, name) in dumps.iter_mut().zip(names) {
                    *dump = Some(self.save(name)?);
                }
            }
            tables => {
                let mut tables = tables?;
                for (dump, name) in dumps.iter_mut().zip(names) {
                    *dump = Some(self.take(&mut tables, name)?);
                }
            }
        }
        Ok(dumps.map(Option::unwrap_or_default))
    }

    /// Applies lines to tables: `:CHAIN - [0:0]` makes or empties a chain, `-A`, `-I`, `-D`, `-F`
    /// and `-X` do as in iptables. All or nothing in each table.
    pub fn restore(&self, changes: &[(&str, Vec<String>)]) -> Result<(), IptablesError> {
        let script = script(changes);
        if script.is_empty() {
            return Ok(());
        }
        let mut command = Command::new(&self.restore);
        command.args(["--noflush", "-w", XTABLES_WAIT]);
        run(command, &self.restore, &script).map(|_| ())
    }
}

/// What [`Iptables::restore`] has the program read; nothing where nothing changes.
#[must_use]
pub fn script(changes: &[(&str, Vec<String>)]) -> String {
    let mut script = String::new();
    for (table, lines) in changes.iter().filter(|(_, lines)| !lines.is_empty()) {
        script.extend(["*", table, "\n", &lines.join("\n"), "\nCOMMIT\n"]);
    }
    script
}

/// Whether the legacy implementation has this table loaded; without it, it has no rules there. That the
/// kernel's list cannot be read is no proof of that. It is asked twice: ADD looks here when its mappings are
/// in force, where a failure that passes by itself is to be none of ADD.
pub fn legacy_table_loaded(version: IpVersion, table: &str) -> Result<bool, IptablesError> {
    let path = list_of_tables(version);
    let names = || std::fs::read_to_string(path);
    match names().or_else(|error| if is_missing(&error) { Err(error) } else { names() }) {
        Ok(names) => Ok(names.lines().any(|name| name == table)),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            is_used_unlisted(version, table)
                .ok_or_else(|| IptablesError::Io(path.to_owned(), error))
        }
        Err(error) => Err(IptablesError::Io(path.to_owned(), error)),
    }
}

fn list_of_tables(version: IpVersion) -> &'static str {
    match version {
        IpVersion::V4 => "/proc/net/ip_tables_names",
        IpVersion::V6 => "/proc/net/ip6_tables_names",
    }
}

fn is_list_hidden(version: IpVersion) -> bool {
    let list = File::open(list_of_tables(version));
    list.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Of a network namespace that is older than the mapping of its user namespace, as rootlesskit makes it,
/// the machine's root alone may read the list. Only the legacy programs can have made a table there; they
/// read one by name without the list, and leave an empty one where there was none. `None` where they
/// cannot tell either.
fn is_used_unlisted(version: IpVersion, table: &str) -> Option<bool> {
    let programs = match Iptables::seeing(version, Variant::Legacy) {
        Err(IptablesError::Missing(_)) => return Some(false),
        programs => programs.ok()?,
    };
    let mut command = Command::new(&programs.save);
    command.args(["-t", table]);
    let output = run(command, &programs.save, "").ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // A policy that drops, a chain of somebody's, or a rule.
    let says = |line: &str| match line.strip_prefix(':') {
        Some(chain) => !chain.contains(" ACCEPT "),
        None => line.starts_with('-'),
    };
    Some(text.lines().any(says))
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Held while a table is read and changed. The programs that are started meanwhile hold it as well: one
/// that outlives its killed plugin still keeps the others out until it is done.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for our other processes, but not for ever.
    pub fn acquire() -> Result<Self, IptablesError> {
        let mut options = File::options();
        options.create(true).write(true).truncate(false).mode(0o600);
        let file = options.open(LOCK).map_err(in_the_way)?;
        Self::wait_for(file)
    }

    /// Waits until none of our other processes is at work, dead ones' programs among them: what is
    /// looked for afterwards is there, or will not come. Without a lock's file none ever was.
    pub fn settle() -> Result<(), IptablesError> {
        match File::open(LOCK) {
            Ok(file) => Self::wait_for(file).map(drop),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(in_the_way(error)),
        }
    }

    fn wait_for(file: File) -> Result<Self, IptablesError> {
        lock_within(&file, OWN_WAIT).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => IptablesError::Locked(format!("{LOCK}: {error}")),
            _ => in_the_way(error),
        })?;
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| in_the_way(e.into()))?;
        Ok(Self { _file: file })
    }
}

fn in_the_way(error: io::Error) -> IptablesError {
    IptablesError::Io(LOCK.to_owned(), error)
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(USUAL_PLACES.iter().map(PathBuf::from));
    places
        .filter(|place| place.is_absolute())
        .map(|place| place.join(program))
        .find(|file| file.is_file())
}

fn run(mut command: Command, program: &Path, stdin: &str) -> Result<Output, IptablesError> {
    /// Of iptables: the lock, or memory.
    const RESOURCE_PROBLEM: i32 = 4;
    let name = program.display().to_string();
    let io = |error| IptablesError::Io(name.clone(), error);
    // Nothing of the runtime's environment changes what iptables does, but for its plug-ins.
    command.env_remove("XTABLES_LIBDIR");
    let Finished { output, fed } =
        run_within(command, stdin.as_bytes(), PROGRAM_LIMIT).map_err(|error| {
            match error.kind() {
                io::ErrorKind::TimedOut => IptablesError::Hung(name.clone(), error),
                _ => io(error),
            }
        })?;
    if output.status.success() {
        // One that did not read all of it has not done all of it, whatever it says.
        return fed.map(|()| output).map_err(io);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // iptables-nft ends so for whatever the kernel refuses.
    let locked = ["xtables lock", "Resource temporarily unavailable"];
    if output.status.code() == Some(RESOURCE_PROBLEM)
        && locked.iter().any(|text| message.contains(text))
    {
        return Err(IptablesError::Locked(message));
    }
    Err(IptablesError::Failed { program: name, status: output.status.to_string(), message })
}
