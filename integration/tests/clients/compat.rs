//! What a run has shown, in lines from which a table can be made:
//! `compat| runtime | version | kernel | backend | plugin | what | result`.

use std::fs;

use cni_testbox::{Implementation, TestBox};

/// A runtime whose cases print lines.
#[derive(Clone, Debug)]
pub(crate) struct Compat {
    runtime: String,
    version: String,
    backend: &'static str,
}

impl Compat {
    pub(crate) fn of(runtime: &str, version: &str, b: &TestBox) -> Self {
        let backend = match b.implementation {
            Implementation::Ours => "nftables",
            Implementation::IptablesNft => "iptables-nft",
            Implementation::IptablesLegacy => "iptables-legacy",
            Implementation::Go => "Go",
        };
        Self { runtime: runtime.to_owned(), version: version.to_owned(), backend }
    }

    /// On another backend than the box's: a key can leave no choice.
    pub(crate) fn on(self, backend: &'static str) -> Self {
        Self { backend, ..self }
    }

    /// Said after it was seen: a case that fails says nothing more.
    pub(crate) fn works(&self, plugin: &str, what: &str) {
        let Self { runtime, version, backend } = self;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = kernel.trim().split('-').next().unwrap_or_default();
        println!(
            "compat| {runtime} | {version} | {kernel} | {backend} | {plugin} | {what} | works"
        );
    }
}
