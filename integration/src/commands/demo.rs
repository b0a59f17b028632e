//! `cni-chain demo`.

use crate::cli::DemoOptions;
use crate::demo;
use crate::runner::plugins;

/// The demo, with the plugins that are found.
pub(super) fn demo(options: &DemoOptions) -> anyhow::Result<()> {
    let plugin_dirs = plugins::search_path(&options.plugin_dirs.dirs);
    demo::run(&demo::Options { plugin_dirs, keep: options.keep })
}
