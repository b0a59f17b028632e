//! `cni-chain show`.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::bail;

use super::print;
use super::privilege::may_administer_network;
use crate::cli::ShowOptions;
use crate::runner::Cache;
use crate::show::look;
use crate::terminal::Terminal;

/// How long `--watch` waits from look to look.
const PAUSE: Duration = Duration::from_secs(2);
/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows once, or again and again.
pub(super) fn show(options: &ShowOptions) -> anyhow::Result<()> {
    if !options.watch {
        return show_once(options, "");
    }
    let before = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        if let Err(error) = show_once(options, before) {
            eprintln!("cni-chain: {error:#}");
        }
        std::thread::sleep(PAUSE);
    }
}

fn show_once(options: &ShowOptions, before: &str) -> anyhow::Result<()> {
    if !may_administer_network() {
        bail!("only root can see what the kernel holds: run this command with sudo");
    }
    let report = look(&Cache::new(&options.cache.dir), options.subject.as_deref())?;
    let text = if options.json {
        report.json().to_pretty() + "\n"
    } else {
        report.text(Terminal::stdout())
    };
    print(&format!("{before}{text}"))?;
    if report.survey.unreadable.is_empty() {
        return Ok(());
    }
    bail!("not all can be read, so there may be more: {}", report.survey.unreadable.join("; "))
}
