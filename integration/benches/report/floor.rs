//! An empty static program, started as a plugin is.

use std::path::PathBuf;

use cni_testbox::bench::Cost;
use cni_testbox::{Call, feed, tool};

const PROGRAM: &str = "/run/empty";

/// In C: with the C library's start, and nothing behind it.
pub(super) struct Empty {
    program: PathBuf,
    call: Call,
}

impl Empty {
    pub(super) fn build() -> Self {
        let flags = ["-static", "-no-pie", "-O2", "-s", "-x", "c", "-o", PROGRAM, "-"];
        feed(tool("cc").args(flags), "int main(void) { return 0; }");
        Self { program: PROGRAM.into(), call: Call::bare("empty") }
    }

    pub(super) fn cost(&self) -> Result<Cost, String> {
        Ok(self.call.cost(&self.program, "VERSION")?.0)
    }

    pub(super) fn call(&self) -> (&Call, &PathBuf) {
        (&self.call, &self.program)
    }
}
