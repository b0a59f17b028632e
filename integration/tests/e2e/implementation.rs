//! Whose plugins a test runs, and the macro that makes the tests of one case.

use std::env;
use std::path::PathBuf;

/// An implementation of the meta plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Implementation {
    /// This workspace's binaries, with the backend they choose: nftables.
    Ours,
    /// The same with the iptables backend, on a host whose iptables is nft's.
    IptablesNft,
    /// The same on a host whose iptables is the legacy one.
    IptablesLegacy,
    /// Debian's `containernetworking-plugins` (1.1.1 in bookworm: iptables only).
    Go,
}

/// Where Debian keeps the Go plugins; `bridge` and `host-local` always come from here.
pub(crate) const GO_PLUGINS: &str = "/usr/lib/cni";

impl Implementation {
    /// The backend to name in the configuration, if it is not the one chosen by itself.
    pub(crate) fn backend(self) -> Option<&'static str> {
        match self {
            Self::IptablesNft | Self::IptablesLegacy => Some("iptables"),
            Self::Ours | Self::Go => None,
        }
    }

    /// The path of one meta plugin.
    pub(crate) fn plugin(self, name: &str) -> PathBuf {
        let (directory, remedy) = match self {
            Self::Ours | Self::IptablesNft | Self::IptablesLegacy => {
                (our_plugins(), "cargo build --workspace")
            }
            Self::Go => (PathBuf::from(GO_PLUGINS), "apt-get install containernetworking-plugins"),
        };
        let path = directory.join(name);
        assert!(path.is_file(), "{} is missing: run `{remedy}` first", path.display());
        path
    }
}

/// `CNI_CHAIN_BIN_DIR`, or the profile directory that holds this test's `deps/`.
fn our_plugins() -> PathBuf {
    if let Some(directory) = env::var_os("CNI_CHAIN_BIN_DIR") {
        return PathBuf::from(directory);
    }
    let test = env::current_exe().expect("the path of the test binary");
    test.ancestors().nth(2).expect("target/<triple>/<profile>/deps/e2e").to_owned()
}

/// Makes the tests of each case, `case::ours`, `case::iptables_nft`, `case::iptables_legacy` and
/// `case::go`:
/// - `case;` runs for all;
/// - `case, ours;` uses what only our nftables backend has (its table);
/// - `case, backends;` uses what only ours has, whatever its backend (GC, STATUS, …);
/// - `case, once;` names its backend itself: it runs for ours and for Go;
/// - `case, once_defect("why");` is the same with a known defect of the Go plugin;
/// - `case, iptables_only;` uses what only our iptables backend has;
/// - `case, go_defect("why");` is something the Go plugin is known to get wrong. Its test only
///   prints the reason; with `E2E_VERIFY_DEFECTS=1` it demands that the case really fails.
macro_rules! cases {
    ($($name:ident $(, $kind:ident $(($reason:literal))?)?;)+) => {
        $(mod $name {
            cases!(@ours $name $($kind)?);
            cases!(@go $name $($kind $($reason)?)?);
        })+
    };
    (@ours $name:ident iptables_only) => {};
    (@ours $name:ident $($kind:ident)?) => {
        #[test]
        fn ours() {
            crate::testbox::in_box(
                concat!(module_path!(), "::ours"),
                crate::implementation::Implementation::Ours,
                super::$name,
            );
        }
    };
    (@iptables $name:ident) => {
        #[test]
        fn iptables_nft() {
            crate::testbox::in_box(
                concat!(module_path!(), "::iptables_nft"),
                crate::implementation::Implementation::IptablesNft,
                super::$name,
            );
        }
        #[test]
        fn iptables_legacy() {
            crate::testbox::in_box(
                concat!(module_path!(), "::iptables_legacy"),
                crate::implementation::Implementation::IptablesLegacy,
                super::$name,
            );
        }
    };
    (@go $name:ident) => {
        cases!(@iptables $name);
        cases!(@go_alone $name);
    };
    (@go_alone $name:ident) => {
        #[test]
        fn go() {
            crate::testbox::in_box(
                concat!(module_path!(), "::go"),
                crate::implementation::Implementation::Go,
                super::$name,
            );
        }
    };
    (@go $name:ident ours) => {};
    (@go $name:ident once) => {
        cases!(@go_alone $name);
    };
    (@go $name:ident once_defect $reason:literal) => {
        cases!(@go_defect_alone $name $reason);
    };
    (@go $name:ident iptables_only) => {
        cases!(@iptables $name);
    };
    (@go $name:ident backends) => {
        cases!(@iptables $name);
    };
    (@go $name:ident go_defect $reason:literal) => {
        cases!(@iptables $name);
        cases!(@go_defect_alone $name $reason);
    };
    (@go_defect_alone $name:ident $reason:literal) => {
        #[test]
        fn go() {
            crate::testbox::known_defect(
                concat!(module_path!(), "::go"),
                crate::implementation::Implementation::Go,
                super::$name,
                $reason,
            );
        }
    };
}
