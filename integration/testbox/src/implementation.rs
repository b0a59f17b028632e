//! Whose plugins a test runs.

use std::env;
use std::path::PathBuf;

/// An implementation of the meta plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
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
pub const GO_PLUGINS: &str = "/usr/lib/cni";

impl Implementation {
    /// The backend to name in the configuration, if it is not the one chosen by itself.
    pub fn backend(self) -> Option<&'static str> {
        match self {
            Self::IptablesNft | Self::IptablesLegacy => Some("iptables"),
            Self::Ours | Self::Go => None,
        }
    }

    /// The path of one meta plugin.
    pub fn plugin(self, name: &str) -> PathBuf {
        let (directory, remedy) = match self {
            Self::Ours | Self::IptablesNft | Self::IptablesLegacy => {
                let remedy = if cfg!(debug_assertions) {
                    "cargo build --workspace"
                } else {
                    "cargo build --release --workspace"
                };
                (our_plugins(), remedy)
            }
            Self::Go => (PathBuf::from(GO_PLUGINS), "apt-get install containernetworking-plugins"),
        };
        let path = directory.join(name);
        assert!(path.is_file(), "{} is missing: run `{remedy}` first", path.display());
        path
    }
}

/// `CNI_CHAIN_BIN_DIR`, or the profile directory that holds the `deps/` of this test or benchmark.
fn our_plugins() -> PathBuf {
    if let Some(directory) = env::var_os("CNI_CHAIN_BIN_DIR") {
        return PathBuf::from(directory);
    }
    let program = env::current_exe().expect("the path of the test binary");
    program.ancestors().nth(2).expect("target/<triple>/<profile>/deps/<test>").to_owned()
}
