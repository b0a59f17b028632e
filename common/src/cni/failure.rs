//! What a runtime is told of an error of the kernel's: a code, and what the operator can do.

use std::io;

use nix::errno::Errno;

use super::protocol::{CniError, ErrorCode};
use crate::kernel::iptables::IptablesError;
use crate::kernel::nft::NftError;
use crate::kernel::rtnetlink::RtnetlinkError;

const LATER: &str = "try again later";

/// An error of the kernel's storey that a plugin can end with.
pub trait Failure: Sized {
    /// The CNI error for `doing`, for instance `cannot install the port mappings`.
    #[must_use]
    fn into_cni(self, doing: &str) -> CniError;
}

impl Failure for NftError {
    fn into_cni(self, doing: &str) -> CniError {
        CniError::new(code_of_nft(&self), format!("{doing}: {}", self.remedy()))
            .with_details(self.to_string())
    }
}

impl Failure for IptablesError {
    fn into_cni(self, doing: &str) -> CniError {
        let (code, remedy) = match &self {
            Self::Nft(error) => (code_of_nft(error), error.remedy()),
            Self::Missing(_) => {
                (ErrorCode::Kernel, "install iptables, or use the nftables backend")
            }
            Self::Locked(_) => (ErrorCode::TryAgainLater, LATER),
            Self::Hung(..) => (
                ErrorCode::TryAgainLater,
                "try again later; if that does not help, run the program by hand",
            ),
            Self::Garbled(..) => {
                (ErrorCode::Kernel, "nothing was changed; see what it prints by hand")
            }
            Self::Io(_, error) if error.may_pass() => (ErrorCode::TryAgainLater, LATER),
            Self::Failed { .. } | Self::Io(..) => {
                (ErrorCode::Kernel, "see the details for what iptables said")
            }
        };
        CniError::new(code, format!("{doing}: {remedy}")).with_details(self.to_string())
    }
}

/// Code 11 for an error that says what the machine lacks at the moment, or that somebody else was
/// not done in time; `otherwise` for every other.
#[must_use]
pub fn code_of(error: &impl MayPass, otherwise: ErrorCode) -> ErrorCode {
    if error.may_pass() { ErrorCode::TryAgainLater } else { otherwise }
}

/// An error that may be gone at another try.
pub trait MayPass {
    /// Whether it says what the machine lacks at the moment, or that somebody else was not done in time.
    fn may_pass(&self) -> bool;
}

impl MayPass for io::Error {
    fn may_pass(&self) -> bool {
        self.raw_os_error().is_some_and(lacks) || self.kind() == io::ErrorKind::TimedOut
    }
}

impl MayPass for RtnetlinkError {
    fn may_pass(&self) -> bool {
        lacks(self.errno)
    }
}

/// What STATUS says of an error that ADD would end with: code 50, unless another try may help.
#[must_use]
pub fn not_available(error: CniError) -> CniError {
    match error.code {
        ErrorCode::TryAgainLater => error,
        _ => CniError { code: ErrorCode::NotAvailable, ..error },
    }
}

fn code_of_nft(error: &NftError) -> ErrorCode {
    match error {
        NftError::Socket(error) => code_of(error, ErrorCode::Kernel),
        error if error.is_transient() => ErrorCode::TryAgainLater,
        NftError::Refused(list) if list.iter().any(|refusal| is_short_of_memory(refusal.errno)) => {
            ErrorCode::TryAgainLater
        }
        _ => ErrorCode::Kernel,
    }
}

/// `nf_tables` has limits of its own, which other errors tell of.
fn is_short_of_memory(errno: i32) -> bool {
    matches!(Errno::from_raw(errno), Errno::ENOMEM | Errno::ENOBUFS)
}

fn lacks(errno: i32) -> bool {
    is_short_of_memory(errno)
        || matches!(
            Errno::from_raw(errno),
            Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOLCK
                | Errno::ENOSPC
                | Errno::EAGAIN
                | Errno::EINTR
        )
}

/// The error of a plugin that cannot use `nf_tables` at all.
#[must_use]
pub fn unreachable_nft(error: NftError) -> CniError {
    error.into_cni("cannot reach nf_tables")
}
