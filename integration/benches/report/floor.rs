//! An empty static program, started as a plugin is.

use std::path::PathBuf;

use cni_testbox::bench::Cost;
use cni_testbox::{Call, Implementation};

/// See `empty.rs`: with the C library's start, and nothing behind it.
pub(super) struct Empty {
    program: PathBuf,
    call: Call,
}

impl Empty {
    pub(super) fn find() -> Self {
        Self { program: Implementation::Ours.plugin("empty"), call: Call::bare("empty") }
    }

    pub(super) fn cost(&self) -> Result<Cost, String> {
        Ok(self.call.cost(&self.program, "VERSION")?.0)
    }

    pub(super) fn call(&self) -> (&Call, &PathBuf) {
        (&self.call, &self.program)
    }
}
