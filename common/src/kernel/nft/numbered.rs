//! The number of a table's layout: in the comment of a chain's first rule, which whoever compares the chain
//! reads anyway. Comments of tables and sets cannot be changed, and kernels before 5.10 do not keep a table's.

use super::{InstalledRule, Nft, NftError, Table};
use crate::kernel::layout::Newer;

const PREFIX: &str = "cni-chain layout ";

/// The comment of the first rule.
#[must_use]
pub fn layout_comment(number: u32) -> String {
    format!("{PREFIX}{number}")
}

/// What a table's rules say of its layout, if it is none that only a newer version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbered {
    /// There is no such chain, or it is empty.
    Absent,
    /// It says nothing, as those of layout 1 do, or those that another program wrote.
    Not,
    /// It says a number that is known.
    Known(u32),
}

impl Numbered {
    fn of(chain: &str, rules: &[InstalledRule]) -> Self {
        let Some(first) = rules.iter().find(|rule| rule.chain == chain) else {
            return Self::Absent;
        };
        let number = first.comment.as_deref().and_then(|comment| comment.strip_prefix(PREFIX));
        number.and_then(|number| number.parse().ok()).map_or(Self::Not, Self::Known)
    }
}

/// Fails if a table is of a newer layout than those that are known, by rules of it that were read.
pub fn refuse_newer(
    table: &Table,
    chain: &str,
    rules: &[InstalledRule],
    known: u32,
) -> Result<Numbered, NftError> {
    let numbered = Numbered::of(chain, rules);
    let number = match numbered {
        Numbered::Known(number) => Some(number),
        Numbered::Absent | Numbered::Not => None,
    };
    Newer::refuse(number, known, || format!("table {table}"))?;
    Ok(numbered)
}

/// The same by a look.
pub fn look_for_newer(
    nft: &mut dyn Nft,
    table: &Table,
    chain: &str,
    known: u32,
) -> Result<Numbered, NftError> {
    refuse_newer(table, chain, &nft.rules_of(table, chain)?, known)
}

/// What is wrong with a table of layout 1, which works.
#[must_use]
pub fn has_older_layout(table: &Table) -> String {
    format!("table {table} has an older version's layout")
}

/// What STATUS says of one.
#[must_use]
pub fn will_be_taken_over(table: &Table) -> String {
    let what = has_older_layout(table);
    format!("{what}, which works; the next ADD or DEL, or cni-chain restore, takes it over")
}

/// What is said once of each.
#[must_use]
pub fn was_taken_over(table: &Table) -> String {
    format!(
        "table {table} had the layout of an older version; it was taken over with all that it holds"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::nft::Family;

    #[test]
    fn only_what_is_newer_is_refused() {
        const TABLE: Table = Table::new(Family::Inet, "t");
        let rule = |chain: &str, comment: Option<String>| InstalledRule {
            chain: chain.to_owned(),
            handle: 1,
            expressions: Vec::new(),
            comment,
        };
        let refused = |rules: &[InstalledRule]| refuse_newer(&TABLE, "guard", rules, 2).is_err();
        let of = |number| [rule("other", Some(layout_comment(9))), rule("guard", number)];
        assert!(!refused(&[]) && !refused(&of(None)));
        let numbered = |rules: &[InstalledRule]| refuse_newer(&TABLE, "guard", rules, 2).ok();
        assert_eq!(numbered(&[]), Some(Numbered::Absent));
        assert_eq!(numbered(&of(None)), Some(Numbered::Not));
        assert_eq!(numbered(&of(Some(layout_comment(2)))), Some(Numbered::Known(2)));
        assert!(!refused(&of(Some("somebody's".to_owned()))));
        for (number, is_newer) in [(1, false), (2, false), (3, true), (10, true)] {
            assert_eq!(refused(&of(Some(layout_comment(number)))), is_newer, "{number}");
        }
        let error = refuse_newer(&TABLE, "guard", &of(Some(layout_comment(3))), 2).expect_err("3");
        let text = "table inet t has layout 3, which a newer version made, and this one knows layouts up to 2";
        assert_eq!(error.to_string(), text);
    }
}
