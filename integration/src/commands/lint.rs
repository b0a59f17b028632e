//! `cni-chain lint`.

use std::process::ExitCode;

use super::network::load;
use super::say;
use crate::cli::LintOptions;
use crate::lint::{Weight, remarks};
use crate::runner::plugins;
use crate::terminal::{Terminal, Tone};

/// Says what is wrong with a list. The status says whether something is.
pub(super) fn lint(options: &LintOptions) -> anyhow::Result<ExitCode> {
    let list = load(&options.network.conf)?;
    let mut remarks = remarks(&list, &plugins::search_path(&options.network.plugin_dirs.dirs));
    remarks.sort_by_key(|remark| std::cmp::Reverse(remark.weight));
    let terminal = Terminal::stdout();
    for remark in &remarks {
        let (word, tone) = match remark.weight {
            Weight::Error => ("error", Tone::Bad),
            Weight::Warning => ("warning", Tone::Odd),
        };
        let entry = remark.entry.as_deref().map(|entry| format!("{entry}: ")).unwrap_or_default();
        let line = terminal.paragraph(&format!("{word}: {entry}{}", remark.text));
        say(&line.replacen(word, &terminal.paint(word, tone), 1))?;
    }
    let errors = remarks.iter().filter(|remark| remark.weight == Weight::Error).count();
    let count = |number: usize, word: &str| match number {
        1 => format!("1 {word}"),
        _ => format!("{number} {word}s"),
    };
    let warnings = count(remarks.len() - errors, "warning");
    say(&format!("network {}: {}, {warnings}", list.name, count(errors, "error")))?;
    Ok(if errors > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
