//! Two attachments that want the same host port. Pure.

use cni_common::cni::OwnerTag;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode};

use crate::plan::{Held, Mapping, Plan};

/// `"onConflict": "fail"`: the error if another container holds any of the host ports, on the same
/// address or where one of the two is on every address.
pub(crate) fn refuse(plan: &Plan, held: impl IntoIterator<Item = Held>) -> Result<(), CniError> {
    let tag = plan.attachment.tag();
    let is_taken = |(held, owner): &Held| {
        !tag.is_same_attachment(owner)
            && !tag.is_sibling(owner)
            // Whoever had the container's address before has no port that leads to it.
            && !plan.addresses.bare().contains(&held.container)
            && plan.mappings.iter().any(|mapping| overlap(mapping, held))
    };
    match held.into_iter().find(is_taken) {
        None => Ok(()),
        Some((mapping, owner)) => Err(CniError::new(
            ErrorCode::PortConflict,
            format!(
                "host port mapping {mapping} belongs to attachment {owner}: delete that attachment, \
                 choose another host port, or remove \"onConflict\": \"fail\""
            ),
        )),
    }
}

/// Whether some packet is for both.
fn overlap(one: &Mapping, other: &Mapping) -> bool {
    (one.version(), one.protocol, one.host_port)
        == (other.version(), other.protocol, other.host_port)
        && match (one.host_address, other.host_address) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
}

const HELD: &str = "held: ";

/// CHECK of an attachment of which nothing is wrong but that others have these of its ports. The code
/// tells it from what ADD could put right.
pub(crate) fn lost(held: &[(Mapping, String)]) -> Result<(), CniError> {
    let Some((mapping, owner)) = held.first() else { return Ok(()) };
    let all: Vec<String> =
        held.iter().map(|(mapping, owner)| format!("{}{owner}", by(mapping))).collect();
    Err(CniError::new(
        ErrorCode::PortConflict,
        format!(
            "host port mapping {mapping} is not served: attachment {owner} has the port; it serves again \
             when that attachment is deleted"
        ),
    )
    .with_details(format!("{HELD}{}", all.join("; "))))
}

/// Whether CHECK's error says that nothing is wrong but that mappings wait for others', and which do.
#[must_use]
pub fn waiting_by(error: &CniError) -> Option<impl Fn(&Mapping) -> bool + '_> {
    let is_lost = error.code.number() == ErrorCode::PortConflict.number();
    let held = error.details.strip_prefix(HELD).unwrap_or_default();
    is_lost
        .then_some(move |mapping: &Mapping| held.split("; ").any(|h| h.starts_with(&by(mapping))))
}

const BY: &str = " by ";

fn by(mapping: &Mapping) -> String {
    format!("{mapping}{BY}")
}

const MAPPING: &str = "host port mapping ";
const IS_HELD: &str = " is held by attachment ";

/// A mismatch, where more is wrong.
pub(crate) fn lost_mismatch((mapping, owner): &Held) -> String {
    format!("{MAPPING}{mapping}{IS_HELD}{owner}")
}

/// The mappings that CHECK's error says others have, each with its holder.
#[must_use]
pub fn held_by_others(error: &CniError) -> Vec<(&str, &str)> {
    let is_lost = error.code.number() == ErrorCode::PortConflict.number();
    let lost = error.details.strip_prefix(HELD).filter(|_| is_lost).unwrap_or_default();
    let lost = lost.split("; ").filter_map(|one| one.split_once(BY));
    let among_others = [&error.msg, &error.details].into_iter().flat_map(|text| text.split("; "));
    let among_others = among_others.filter_map(|mismatch| {
        let (mapping, rest) = mismatch.split_once(MAPPING)?.1.split_once(IS_HELD)?;
        // How many more there are may follow.
        Some((mapping, rest.split(' ').next()?))
    });
    lost.chain(among_others).collect()
}

/// STATUS: says in one line which mappings wait for whom; between networks of one container that is
/// how it has to be.
pub(crate) fn tell_waiting(waiting: &[(Held, String)], log: &Log) {
    const SHOWN: usize = 4;
    let is_lost =
        |((_, owner), holder): &&(Held, String)| !OwnerTag::is_one_container(owner, holder);
    let mut all = waiting.iter().filter(is_lost);
    let describe =
        |((mapping, owner), holder): &(Held, String)| format!("{mapping} of {owner} for {holder}");
    let shown: Vec<String> = all.by_ref().take(SHOWN).map(describe).collect();
    let rest = match all.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    if !shown.is_empty() {
        log.warn(format!(
            "host port mappings wait for attachments that have the ports: {}{rest}; cni-chain show tells all",
            shown.join(", ")
        ));
    }
}

/// What to tell of a mapping whose port is not taken from its holder.
pub(crate) fn yielded((mapping, holder): &Held, tag: &OwnerTag) -> String {
    format!("host port mapping {mapping} of {tag} waits: attachment {holder} has the port")
}

/// What to tell of somebody's mapping when its address is given to another attachment.
pub(crate) fn evicted(mapping: &Mapping, owner: &str, tag: &OwnerTag) -> String {
    format!(
        "host port mapping {mapping} of attachment {owner} was removed: {tag} has that address now"
    )
}
