//! What CHECK says of rules that are not as they must be.

use super::encode::{rule_expressions, same_expressions};
use super::text::render_rule;
use super::{InstalledRule, Rule, Table};

/// How the rules `installed` at `place`, in order, first differ from those `wanted`; `None` if
/// they do not.
#[must_use]
pub fn rule_faults(
    table: &Table,
    place: &str,
    wanted: &[Rule],
    installed: &[&InstalledRule],
) -> Option<String> {
    if wanted.len() != installed.len() {
        return Some(format!("{place} has {} rules instead of {}", installed.len(), wanted.len()));
    }
    let differs = |(rule, installed): (&Rule, &&InstalledRule)| {
        !same_expressions(&rule_expressions(table.family, rule), &installed.expressions)
    };
    let position = wanted.iter().zip(installed).position(differs)?;
    let text = render_rule(&wanted[position]);
    Some(format!("rule {} of {place} is not \"{text}\"", position + 1))
}
