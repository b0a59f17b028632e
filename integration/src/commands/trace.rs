//! `cni-chain trace`.

use std::process::ExitCode;

use anyhow::bail;

use super::print;
use super::privilege::may_administer_network;
use crate::cli::TraceOptions;
use crate::runner::Cache;
use crate::terminal::Terminal;
use crate::trace::{Question, Trace, follow, json, text};

/// Follows a connection. The status says whether something stops it.
pub(super) fn trace(options: &TraceOptions) -> anyhow::Result<ExitCode> {
    if !may_administer_network() {
        bail!("only root can see what the kernel holds: run this command with sudo");
    }
    let (port, protocol) = options.port;
    let question = Question { port, protocol, to: options.to, from: options.from };
    let traces = follow(&Cache::new(&options.cache.dir), &question)?;
    print(&if options.json {
        json(&traces).to_pretty() + "\n"
    } else {
        text(&traces, Terminal::stdout())
    })?;
    let stops = traces.iter().any(|trace: &Trace| trace.end().is_some());
    Ok(if stops { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
