//! What a runtime is told of an error of the kernel's: a code, and what the operator can do.

use std::borrow::Cow;
use std::io;

use nix::errno::Errno;

use super::protocol::{CniError, ErrorCode};
use crate::kernel::iptables::IptablesError;
use crate::kernel::layout::Newer;
use crate::kernel::nft::NftError;
use crate::kernel::rtnetlink::RtnetlinkError;

/// What iptables on top of `nf_tables` says on a kernel without it.
const NO_NF_TABLES: &str = "Could not fetch rule set generation id";

/// What legacy iptables says on a kernel without the table.
const NO_LEGACY_TABLE: &str = "do you need to insmod?";

const LATER: &str = "try again later";

/// An error of the kernel's storey that a plugin can end with.
pub trait Failure: Sized {
    /// The CNI error for `doing`, for instance `cannot install the port mappings`.
    #[must_use]
    fn into_cni(self, doing: &str) -> CniError;
}

/// Code 11: the runtime calls again, and by then the newer version may be back.
impl Failure for Newer {
    fn into_cni(self, doing: &str) -> CniError {
        let text = format!("{doing}: {self}: {}; it was left alone", Self::REMEDY);
        CniError::new(ErrorCode::TryAgainLater, text)
    }
}

impl Failure for NftError {
    fn into_cni(self, doing: &str) -> CniError {
        if let Self::Newer(newer) = self {
            return newer.into_cni(doing);
        }
        CniError::new(code_of_nft(&self), format!("{doing}: {}", self.remedy()))
            .with_details(self.to_string())
    }
}

impl Failure for IptablesError {
    fn into_cni(self, doing: &str) -> CniError {
        if let Self::Newer(newer) | Self::Nft(NftError::Newer(newer)) = self {
            return newer.into_cni(doing);
        }
        let (code, remedy) = (code_of_iptables(&self), remedy_of_iptables(&self));
        CniError::new(code, format!("{doing}: {remedy}")).with_details(self.to_string())
    }
}

fn code_of_iptables(error: &IptablesError) -> ErrorCode {
    match error {
        IptablesError::Nft(error) => code_of_nft(error),
        IptablesError::Locked(_) | IptablesError::Hung(..) | IptablesError::Newer(_) => {
            ErrorCode::TryAgainLater
        }
        IptablesError::Io(_, error) => code_of(error, ErrorCode::Kernel),
        IptablesError::Missing(_) | IptablesError::Garbled(..) | IptablesError::Failed { .. } => {
            ErrorCode::Kernel
        }
    }
}

fn remedy_of_iptables(error: &IptablesError) -> Cow<'static, str> {
    let remedy = match error {
        IptablesError::Nft(error) => return error.remedy(),
        IptablesError::Newer(_) => Newer::REMEDY,
        IptablesError::Missing(_) => "install iptables, or use the nftables backend",
        IptablesError::Locked(_) => LATER,
        IptablesError::Hung(..) => {
            "try again later; if that does not help, run the program by hand"
        }
        IptablesError::Garbled(..) => "nothing was changed; see what it prints by hand",
        IptablesError::Io(_, error) if error.may_pass() => LATER,
        IptablesError::Failed { message, .. } if message.contains(NO_NF_TABLES) => {
            "load the module nf_tables (modprobe nf_tables), which this iptables needs"
        }
        IptablesError::Failed { message, .. } if message.contains(NO_LEGACY_TABLE) => {
            "load iptables' modules (modprobe -a iptable_nat iptable_filter ip6table_nat \
             ip6table_filter)"
        }
        IptablesError::Failed { .. } | IptablesError::Io(..) => {
            "see the details for what iptables said"
        }
    };
    remedy.into()
}

/// Code 11 for an error that says what the machine lacks at the moment, or that somebody else was
/// not done in time; `otherwise` for every other.
#[must_use]
pub fn code_of(error: &impl MayPass, otherwise: ErrorCode) -> ErrorCode {
    if error.may_pass() { ErrorCode::TryAgainLater } else { otherwise }
}

/// The CNI error for `what` failed: with the code `otherwise` and this remedy, unless another try may do.
#[must_use]
pub fn of_io(error: &io::Error, otherwise: ErrorCode, what: &str, remedy: &str) -> CniError {
    let code = code_of(error, otherwise);
    let remedy = if code == ErrorCode::TryAgainLater { LATER } else { remedy };
    CniError::new(code, format!("{what}: {remedy}")).with_details(error.to_string())
}

/// An error of the kernel's that may be gone at another try, or when a module is loaded.
pub trait MayPass {
    /// Whether it says what the machine lacks at the moment, or that somebody else was not done in time.
    fn may_pass(&self) -> bool;

    /// The module that the kernel lacks, if that is the reason.
    fn missing_module(&self) -> Option<&'static str> {
        None
    }
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

    fn missing_module(&self) -> Option<&'static str> {
        self.module
    }
}

/// What STATUS says of what a newer version made: ADD cannot be served until that is back.
#[must_use]
pub fn not_available_beside(newer: impl Failure) -> CniError {
    CniError { code: ErrorCode::NotAvailable, ..newer.into_cni("ADD would fail") }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::nft::Refusal;

    #[test]
    fn missing_modules_are_named_with_the_command_that_loads_them() {
        let refused = |modules: &[&'static str]| {
            let refusal = Refusal {
                operation: Some(0),
                object: "rule in chain inet t c".into(),
                errno: Errno::ENOENT as i32,
                message: None,
            };
            NftError::ModulesMissing { modules: modules.to_vec(), refusals: vec![refusal] }
        };
        let error = refused(&["nft_masq"]).into_cni("cannot map");
        assert_eq!(error.code, ErrorCode::Kernel);
        assert_eq!(error.msg, "cannot map: load the module nft_masq (modprobe nft_masq)");
        let error = refused(&["nft_nat", "nft_masq"]).into_cni("cannot map");
        assert_eq!(
            error.msg,
            "cannot map: load the modules nft_nat, nft_masq (modprobe -a nft_nat nft_masq)"
        );
    }

    #[test]
    fn what_iptables_says_of_a_missing_module_is_understood() {
        let said = |message: &str| {
            let error = IptablesError::Failed {
                program: "iptables-save".into(),
                status: "exit status: 4".into(),
                message: message.into(),
            };
            error.into_cni("cannot map").msg
        };
        let nft = "iptables-save v1.8.9 (nf_tables): Could not fetch rule set generation id: Invalid argument";
        assert!(said(nft).contains("modprobe nf_tables"));
        let legacy = "iptables-save v1.8.9 (legacy): Cannot initialize: Table does not exist (do you need to insmod?)";
        assert!(said(legacy).contains("iptable_nat"));
        assert!(said("No chain by that name").contains("see the details"));
    }
}
