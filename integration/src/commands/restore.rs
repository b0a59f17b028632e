//! `cni-chain restore`: from options to a restorer, and its reports on the screen.

use std::process::ExitCode;

use anyhow::bail;

use super::network::complete_id;
use super::say;
use crate::cli::RestoreOptions;
use crate::restore::watch::{Reason, Round, watch};
use crate::restore::{Outcome, Restorer, Summary};
use crate::runner::{CacheError, Runner, plugins};
use crate::terminal::Terminal;

/// The exit status by which `--exit-code` tells.
const SOMETHING_MISSED: u8 = 3;

/// Restores once, or with `--watch` whenever there is a reason to.
pub(super) fn run(options: &RestoreOptions) -> anyhow::Result<ExitCode> {
    let restorer = restorer(options)?;
    if options.watch {
        watch(|reason| restore_because(reason, &restorer))?;
        return Ok(ExitCode::SUCCESS);
    }
    let summary = restore(&restorer, options.telling.quiet)?;
    if !options.telling.quiet || summary.is_news() {
        say(&summary.to_string())?;
    }
    match summary.failed() {
        0 if options.telling.exit_code && summary.is_news() => Ok(ExitCode::from(SOMETHING_MISSED)),
        0 => Ok(ExitCode::SUCCESS),
        1 => bail!("1 attachment could not be restored; its line says why"),
        failed => bail!("{failed} attachments could not be restored; their lines say why"),
    }
}

fn restorer(options: &RestoreOptions) -> anyhow::Result<Restorer> {
    let plugin_dirs = plugins::search_path(&options.plugin_dirs.dirs);
    let mut restorer = Restorer::new(Runner::new(plugin_dirs, options.cache.dir.clone()));
    restorer.network.clone_from(&options.network);
    if let Some(id) = &options.container_id {
        let remembered = restorer.runner.cache().attachments(None)?;
        let network = options.network.as_deref();
        restorer.container_id = Some(complete_id(id, &remembered, network)?);
    }
    restorer.dry_run = options.dry_run;
    if !options.parts.is_empty() {
        restorer.parts.clone_from(&options.parts);
    }
    Ok(restorer)
}

/// One round, a line for each attachment as it is done.
fn restore(restorer: &Restorer, quiet: bool) -> Result<Summary, CacheError> {
    let terminal = Terminal::stdout();
    restorer.run(|report| {
        let is_wanted =
            if quiet { report.is_news() } else { report.outcome != Outcome::NotConcerned };
        if is_wanted {
            // A reader that went away is no reason to leave others unrestored.
            let _ = say(&terminal.paragraph(&report.to_string()));
        }
    })
}

/// One round of a watch. What fails is said, and is no end of it.
fn restore_because(reason: &Reason, restorer: &Restorer) -> Round {
    if !reason.is_common {
        let _ = say(&reason.text);
    }
    match restore(restorer, true) {
        Ok(summary) => {
            if !reason.is_common {
                let _ = say(&summary.to_string());
            } else if summary.is_news() {
                let _ = say(&format!("{}; {summary}", reason.text));
            }
            Round { well: summary.failed() == 0, changed: summary.has_changed() }
        }
        Err(error) => {
            eprintln!("cni-chain: {error}");
            Round { well: false, changed: false }
        }
    }
}
