//! Which binaries of a chain may run ADD a second time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;

use super::report::Step;
use crate::runner::exec;
use crate::runner::plugins::MetaPlugin;

/// Finds binaries, and asks each once whether it is of this collection.
#[derive(Debug)]
pub(super) struct Identifier<'a> {
    dirs: &'a [PathBuf],
    known: RefCell<HashMap<String, Result<PathBuf, Step>>>,
}

impl<'a> Identifier<'a> {
    pub(super) fn new(dirs: &'a [PathBuf]) -> Self {
        Self { dirs, known: RefCell::default() }
    }

    /// The binary of a type, if its ADD may be repeated; otherwise what that means here.
    pub(super) fn identify(&self, plugin_type: &str) -> Result<PathBuf, Step> {
        let mut known = self.known.borrow_mut();
        known.entry(plugin_type.to_owned()).or_insert_with(|| self.look(plugin_type)).clone()
    }

    fn look(&self, plugin_type: &str) -> Result<PathBuf, Step> {
        let path = exec::find(plugin_type, self.dirs).map_err(|error| {
            Step::Failed(format!("{error}; name the runtime's plugin directory with --plugin-dir"))
        })?;
        if MetaPlugin::by_type(plugin_type).is_some_and(|plugin| plugin.is_at(&path)) {
            return Ok(path);
        }
        Err(Step::Skipped(format!(
            "{} is not cni-chain's, and running its ADD twice may fail or duplicate rules; add the \
             container again, or install cni-chain's plugin",
            path.display()
        )))
    }
}
