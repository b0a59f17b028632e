//! `CNI_ARGS`: `NAME=VALUE` pairs with `;` between them.

/// The pairs in their order. One without a `=` is the error. Empty text holds none.
///
/// Only the first `=` of a pair parts it, so a value may hold others. What names and values are
/// allowed is the reader's to judge.
pub fn pairs(args: &str) -> impl Iterator<Item = Result<(&str, &str), &str>> {
    args.split(';').filter(|_| !args.is_empty()).map(|pair| pair.split_once('=').ok_or(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_parted_once() {
        let read = |args| pairs(args).collect::<Vec<_>>();
        assert_eq!(read(""), []);
        assert_eq!(read("A=1;B==;A="), [Ok(("A", "1")), Ok(("B", "=")), Ok(("A", ""))]);
        assert_eq!(read("A;"), [Err("A"), Err("")]);
    }
}
