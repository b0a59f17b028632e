//! `cni-chain gc`.

use super::{load, runner};
use crate::cli::GcOptions;

/// GC.
pub(super) fn gc(options: &GcOptions) -> anyhow::Result<()> {
    let list = load(&options.network)?;
    let told = options.keep_none || !options.keep.is_empty();
    Ok(runner(&options.network).gc(&list, told.then_some(options.keep.as_slice()))?)
}
