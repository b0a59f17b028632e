//! Container IDs by their beginning.

use std::collections::BTreeSet;

use anyhow::bail;

/// The one of `ids` that begins with `text`. If `text` is one of them, or none's beginning, it stays
/// as it is: what it names may be known nowhere.
pub(crate) fn complete<'a>(
    text: &str,
    ids: impl Iterator<Item = &'a str>,
) -> anyhow::Result<String> {
    const SHOWN: usize = 5;
    let candidates: BTreeSet<&str> = ids.filter(|id| id.starts_with(text)).collect();
    if text.is_empty() || candidates.contains(text) {
        return Ok(text.to_owned());
    }
    let mut candidates = candidates.into_iter();
    match (candidates.next(), candidates.len()) {
        (None, _) => Ok(text.to_owned()),
        (Some(id), 0) => Ok(id.to_owned()),
        (Some(first), more) => {
            let mut shown = vec![first];
            shown.extend(candidates.take(SHOWN - 1));
            let and_more = if more >= SHOWN { ", …" } else { "" };
            bail!(
                "{} container IDs begin with {text:?}: {}{and_more}; write more of the one you mean",
                more + 1,
                shown.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_by_as_much_of_it_as_is_unique() {
        let ids = ["3f2a9c", "3f77", "77aa01", "77aa01-2"];
        let complete = |text| complete(text, ids.into_iter()).map_err(|error| error.to_string());
        assert_eq!(complete("3f2").as_deref(), Ok("3f2a9c"));
        assert_eq!(complete("77aa01").as_deref(), Ok("77aa01"), "one may begin another");
        assert_eq!(complete("9b").as_deref(), Ok("9b"), "remembered nowhere");
        assert_eq!(
            complete("3f"),
            Err("2 container IDs begin with \"3f\": 3f2a9c, 3f77; write more of the one you mean"
                .to_owned())
        );
    }
}
