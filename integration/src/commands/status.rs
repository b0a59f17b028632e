//! `cni-chain status`.

use super::{load, runner};
use crate::cli::StatusOptions;

/// STATUS.
pub(super) fn status(options: &StatusOptions) -> anyhow::Result<()> {
    let list = load(&options.network)?;
    Ok(runner(&options.network).status(&list)?)
}
