//! Elements by their keys.

use std::collections::HashSet;

use super::{Element, Nft, NftError, Set, Table, Value};

/// More keys than this are cheaper to find in a dump.
const KEYS_PER_QUERY: usize = 512;

/// Elements of several sets or maps.
pub type Elements = Vec<(Set, Vec<Element>)>;

/// The elements that are there of those with these keys.
pub fn lookup(
    nft: &mut dyn Nft,
    table: &Table,
    set: &Set,
    keys: &[Vec<Value>],
) -> Result<Vec<Element>, NftError> {
    if keys.len() > KEYS_PER_QUERY {
        let wanted: HashSet<_> = keys.iter().collect();
        let mut elements = nft.elements(table, set)?;
        elements.retain(|element| wanted.contains(&element.key));
        return Ok(elements);
    }
    Ok(nft.elements_at(table, set, keys)?.into_iter().flatten().collect())
}

/// The elements that are there of those with these keys in several sets, in one round trip unless
/// one of the sets is asked for very many.
pub fn lookup_all(
    nft: &mut dyn Nft,
    table: &Table,
    wanted: &[(Set, Vec<Vec<Value>>)],
) -> Result<Elements, NftError> {
    let is_few = |keys: &[Vec<Value>]| keys.len() <= KEYS_PER_QUERY;
    let few = || wanted.iter().filter(|(_, keys)| is_few(keys));
    let places: Vec<(&Set, &[Value])> =
        few().flat_map(|(set, keys)| keys.iter().map(move |key| (set, key.as_slice()))).collect();
    let mut answers = nft.elements_in(table, &places)?.into_iter();
    let mut found: Elements = few()
        .map(|(set, keys)| (set.clone(), answers.by_ref().take(keys.len()).flatten().collect()))
        .collect();
    for (set, keys) in wanted.iter().filter(|(_, keys)| !is_few(keys)) {
        found.push((set.clone(), lookup(nft, table, set, keys)?));
    }
    Ok(found)
}

/// What a deletion needs of elements.
pub fn keys_only<'a>(elements: impl IntoIterator<Item = &'a Element>) -> Vec<Element> {
    let key_only =
        |element: &Element| Element { key: element.key.clone(), data: Vec::new(), comment: None };
    elements.into_iter().map(key_only).collect()
}

impl Element {
    /// Whether this is its comment: for our elements, whether it is that owner's.
    #[must_use]
    pub fn is_commented(&self, comment: &str) -> bool {
        self.comment.as_deref() == Some(comment)
    }

    /// Its owner, in words.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.comment.as_deref().unwrap_or("an unknown owner")
    }
}
