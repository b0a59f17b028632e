//! What can go wrong with `nf_tables`, in words an operator can act on.

use std::borrow::Cow;
use std::fmt;
use std::io;

use nix::errno::Errno;

use crate::kernel::layout::Newer;
use crate::kernel::retry::{Again, Retry};

const EPERM: i32 = Errno::EPERM as i32;
const ENOENT: i32 = Errno::ENOENT as i32;
const EAGAIN: i32 = Errno::EAGAIN as i32;
const ENOMEM: i32 = Errno::ENOMEM as i32;
const ENOBUFS: i32 = Errno::ENOBUFS as i32;
const EACCES: i32 = Errno::EACCES as i32;
const EEXIST: i32 = Errno::EEXIST as i32;
const EINVAL: i32 = Errno::EINVAL as i32;
const ENOSPC: i32 = Errno::ENOSPC as i32;
const ERESTART: i32 = Errno::ERESTART as i32;
const EPROTONOSUPPORT: i32 = Errno::EPROTONOSUPPORT as i32;
const EOPNOTSUPP: i32 = Errno::EOPNOTSUPP as i32;
const EAFNOSUPPORT: i32 = Errno::EAFNOSUPPORT as i32;

/// One object that the kernel refused, with its errno and extended ack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The operation's place in the transaction; none for the transaction as a whole.
    pub operation: Option<usize>,
    /// The object's description, for instance `map inet cni_portmap by_port4`.
    pub object: String,
    /// Positive errno.
    pub errno: i32,
    /// The kernel's own words, if it had any.
    pub message: Option<String>,
}

/// A failed transaction or query.
#[derive(Debug)]
pub enum NftError {
    /// The kernel refused; all its complaints about one transaction, in order.
    Refused(Vec<Refusal>),
    /// The kernel refused, as it lacks modules.
    ModulesMissing {
        /// Their names.
        modules: Vec<&'static str>,
        /// All its complaints.
        refusals: Vec<Refusal>,
    },
    /// What a dump showed changed while it was read (`NLM_F_DUMP_INTR`).
    Interrupted,
    /// The socket failed.
    Socket(io::Error),
    /// Nobody knows what the kernel made of a transaction, since its answer could not be read.
    Unanswered(io::Error),
    /// The kernel answered something that cannot be understood.
    Protocol(String),
    /// A table is another version's.
    Newer(Newer),
}

impl NftError {
    /// Whether every complaint is that something exists already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.all(|errno| errno == EEXIST)
    }

    /// Whether every complaint is that something is in the way: it exists already, or, as the kernel
    /// says of a chain, in another place.
    #[must_use]
    pub fn is_in_the_way(&self) -> bool {
        self.all(|errno| errno == EEXIST || errno == EOPNOTSUPP)
    }

    /// Whether there are complaints and each is that something is not there (or, in a batch that
    /// also met existing elements, that those are there).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.all(|errno| errno == ENOENT || errno == EEXIST) && self.any(|errno| errno == ENOENT)
    }

    /// Whether the ruleset moved on since the generation that the transaction was bound to.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.any(|errno| errno == ERESTART)
    }

    /// Whether to look at what is there, and to decide anew.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Interrupted | Self::Unanswered(_))
            || self.any(|errno| errno == EAGAIN || errno == ERESTART)
    }

    /// Whether the kernel has no `nf_tables` at all; nothing can be in it then.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        let absent = |errno| matches!(errno, EINVAL | EOPNOTSUPP | EPROTONOSUPPORT | EAFNOSUPPORT);
        self.errno().is_some_and(absent)
    }

    fn all(&self, test: impl Fn(i32) -> bool) -> bool {
        matches!(self, Self::Refused(list) if list.iter().all(|refusal| test(refusal.errno)))
    }

    fn any(&self, test: impl Fn(i32) -> bool) -> bool {
        matches!(self, Self::Refused(list) if list.iter().any(|refusal| test(refusal.errno)))
    }

    /// The errno of the first complaint.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(refusals) | Self::ModulesMissing { refusals, .. } => {
                refusals.first().map(|refusal| refusal.errno)
            }
            Self::Socket(error) | Self::Unanswered(error) => error.raw_os_error(),
            Self::Interrupted => Some(EAGAIN),
            Self::Protocol(_) | Self::Newer(_) => None,
        }
    }

    /// What the operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::ModulesMissing { modules, .. } => load(modules).into(),
            _ => self.remedy_by_errno().into(),
        }
    }

    fn remedy_by_errno(&self) -> &'static str {
        match self.errno() {
            None if matches!(self, Self::Newer(_)) => Newer::REMEDY,
            Some(EAGAIN | ENOBUFS | ENOMEM)
                if matches!(self, Self::Socket(_) | Self::Unanswered(_)) =>
            {
                "try again; the kernel was short of memory"
            }
            Some(ENOBUFS | ENOMEM) => "try again; the kernel was short of memory",
            Some(EPERM | EACCES) => {
                "run the plugin with CAP_NET_ADMIN in the host's network namespace"
            }
            Some(EOPNOTSUPP | EPROTONOSUPPORT | EAFNOSUPPORT) => {
                "load the module nf_tables (modprobe nf_tables), or build the kernel with it"
            }
            Some(ENOENT | EINVAL) => {
                "check that the kernel has nf_tables with nat, fib, ct and masquerade for the inet family (Linux 5.2 or newer)"
            }
            Some(ERESTART | EAGAIN) => {
                "another program changes the ruleset all the time; try again"
            }
            Some(EEXIST) => {
                "an object of that name is there with another type or hook: look at it and delete it"
            }
            Some(ENOSPC) => "the kernel's limit for nf_tables objects is reached",
            _ => "see the details for the kernel's answer",
        }
    }
}

impl Retry for NftError {
    fn again(&self) -> Again {
        if self.is_transient() { Again::Surely } else { Again::Never }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, io::Error::from_raw_os_error(self.errno))?;
        match &self.message {
            Some(message) => write!(f, " ({message})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for NftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(list) | Self::ModulesMissing { refusals: list, .. } => {
                for (index, refusal) in list.iter().take(3).enumerate() {
                    write!(f, "{}{refusal}", if index == 0 { "" } else { "; " })?;
                }
                if list.len() > 3 {
                    write!(f, "; and {} more", list.len() - 3)?;
                }
                Ok(())
            }
            Self::Interrupted => f.write_str("the ruleset changed during each of many dumps"),
            Self::Socket(error) => write!(f, "nf_tables netlink socket: {error}"),
            Self::Unanswered(error) => {
                write!(f, "the answer of nf_tables to a transaction was lost: {error}")
            }
            Self::Protocol(what) => write!(f, "unexpected answer of nf_tables: {what}"),
            Self::Newer(newer) => newer.fmt(f),
        }
    }
}

/// As in `load the module nft_masq (modprobe nft_masq)`.
fn load(modules: &[&str]) -> String {
    if let [module] = modules {
        return format!("load the module {module} (modprobe {module})");
    }
    let (list, words) = (modules.join(", "), modules.join(" "));
    format!("load the modules {list} (modprobe -a {words})")
}

impl std::error::Error for NftError {}

impl From<io::Error> for NftError {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<Newer> for NftError {
    fn from(newer: Newer) -> Self {
        Self::Newer(newer)
    }
}

/// The refusals that the fake backend makes.
pub(super) fn refusal(operation: usize, object: String, errno: FakeErrno) -> Refusal {
    let errno = match errno {
        FakeErrno::NotFound => ENOENT,
        FakeErrno::Exists => EEXIST,
        FakeErrno::Stale => ERESTART,
    };
    Refusal { operation: Some(operation), object, errno, message: None }
}

/// What the fake backend can refuse with by itself.
#[derive(Clone, Copy)]
pub(super) enum FakeErrno {
    NotFound,
    Exists,
    Stale,
}
