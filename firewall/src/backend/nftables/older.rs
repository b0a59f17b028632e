//! Layout 1, as b302888 made it, becomes today's in one transaction.
//!
//! An element of `attachments` and `members` was named by the whole tag, with the network: nobody found it
//! under a network that had been renamed. Nothing on a packet's way differs.

use cni_common::cni::OwnerTag;
use cni_common::cni::log::Log;
use cni_common::kernel::nft::{
    Element, Nft, NftError, Numbered, Set, Transaction, Value, Verb, keys_only, was_taken_over,
};
use cni_common::kernel::retry::retry;

use super::layout::{self, TABLE};
use super::number::refuse_newer;

/// Makes of a table of layout 1 one of today's; whether it was one. A table of a newer version is an error.
pub(super) fn take_over(nft: &mut dyn Nft, log: &Log) -> Result<bool, NftError> {
    if refuse_newer(nft)? != Numbered::Not {
        return Ok(false);
    }
    let is_older = retry(|| {
        let mut transaction =
            Transaction { generation: Some(nft.generation()?), ..Transaction::new() };
        layout::build(&mut transaction);
        let mut is_older = false;
        for map in [layout::attachments(), layout::members()] {
            let all = nft.elements(&TABLE, &map)?;
            is_older |= rename(&map, &all, &mut transaction);
        }
        nft.commit(&transaction)?;
        Ok::<_, NftError>(is_older)
    })?;
    if is_older {
        log.warn(was_taken_over(&TABLE));
    }
    Ok(is_older)
}

/// Gives the elements of a map today's names. Whether any had another.
fn rename(map: &Set, all: &[Element], transaction: &mut Transaction) -> bool {
    let is_named = |element: &Element| element.key == name_of(element);
    let old: Vec<&Element> = all.iter().filter(|element| !is_named(element)).collect();
    transaction.elements(Verb::Delete, &TABLE, map, keys_only(old.iter().copied()));
    let mut named: Vec<Element> = Vec::new();
    for element in &old {
        let key = name_of(element);
        // One that was added since by today's name is the newer.
        if !all.iter().chain(&named).any(|other| other.key == key) {
            named.push(Element { key, ..(*element).clone() });
        }
    }
    transaction.elements(Verb::Create, &TABLE, map, named);
    !old.is_empty()
}

fn name_of(element: &Element) -> Vec<Value> {
    vec![Value::Name(OwnerTag::owner_name_of(element.owner()))]
}
