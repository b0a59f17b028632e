//! Makes what a plan asks for in our table.

use cni_common::cni::Failure as _;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::nft::compare::has_rule;
use cni_common::kernel::nft::object::concatenation;
use cni_common::kernel::nft::{Chain, Nft, NftError, Object, Transaction, Verb};
use cni_common::kernel::retry::retry;

use super::admission::{Owned, create_elements, delete, held_by_others};
use super::bridges::{change_bridges, earlier_isolation};
use super::check::chain_mismatches;
use super::forward_chains::{self, Leaver};
use super::layout::{self, TABLE};
use super::number::refuse_newer_by;
use super::older::take_over;
use super::remove::remove;
use crate::plan::Plan;

/// Makes exactly what the plan asks for, replacing whatever the attachment had before, or changes
/// nothing. Returns the plan of what it had.
pub(crate) fn add(nft: &mut dyn Nft, plan: &Plan, log: &Log) -> Result<Option<Plan>, CniError> {
    const DOING: &str = "cannot install the firewall rules";
    let mut created = false;
    forward_chains::require(nft, &plan.forward_chains)?;
    // Without the table the kernel refuses the elements, and waits a grace period until it says so.
    let has_table = nft.tables(&[TABLE]).map_err(|error| error.into_cni(DOING))?.contains(&true);
    if has_table && plan.isolation.is_none() && plan.forward_chains.is_empty() {
        match nft.commit(&create_elements(plan)) {
            Ok(()) => {
                created = true;
                // Somebody may have changed the rules and left the sets.
                match chain_mismatches(nft, Some(&plan.admin_chain)) {
                    Ok(mismatches) if mismatches.is_empty() => return Ok(None),
                    Err(error @ NftError::Newer(_)) => {
                        take_back(nft, plan, log);
                        return Err(error.into_cni(DOING));
                    }
                    found => log.debug(|| format!("building the table anew: {found:?}")),
                }
            }
            Err(error) if error.is_missing() || error.is_exists() || error.is_transient() => {
                log.debug(|| format!("looking what is there: {error}"));
            }
            Err(error) => return Err(error.into_cni(DOING)),
        }
    }
    let taken = take_over(nft, log);
    let mut replace = || {
        let mut transaction = Transaction::new();
        let generation = nft.generation()?;
        layout::build(&mut transaction);
        add_admin_chain(nft, &plan.admin_chain, &mut transaction)?;
        let owned = Owned::read(nft, &plan.tag, &plan.addresses)?;
        let foreign = held_by_others(nft, plan)?;
        delete(&mut transaction, owned.elements.iter().chain(&foreign));
        transaction.operations.extend(create_elements(plan).operations);
        let isolation = earlier_isolation(nft, owned.membership.as_ref(), plan)?;
        change_bridges(nft, owned.membership.as_ref(), plan, &mut transaction)?;
        let leaver = Leaver { tag: &plan.tag, addresses: &owned.candidates };
        forward_chains::change(nft, &leaver, Some(plan), &mut transaction)?;
        transaction.generation = Some(generation);
        nft.commit(&transaction)?;
        let earlier = plan.earlier(owned.addresses(), isolation);
        Ok((foreign, earlier.filter(|_| !created)))
    };
    let outcome = taken.and_then(|_| retry(&mut replace));
    match outcome.map_err(|error: NftError| error.into_cni(DOING)) {
        Ok((foreign, earlier)) => {
            for element in foreign.iter().flat_map(|(_, elements)| elements) {
                log.warn(format!(
                    "address {} of attachment {} was taken over by {}, the newest owner",
                    concatenation(&element.key),
                    element.owner(),
                    plan.tag
                ));
            }
            Ok(earlier)
        }
        Err(error) => {
            if created {
                take_back(nft, plan, log);
            }
            Err(error)
        }
    }
}

/// Of an attachment that had nothing before. Best effort: it would fail for the same reason, which ADD's
/// error tells.
fn take_back(nft: &mut dyn Nft, plan: &Plan, log: &Log) {
    let _ = remove(nft, &plan.tag, &plan.addresses, log);
}

/// The administrator's chain and the jump to it, unless they are there. A table of a newer version is an
/// error.
fn add_admin_chain(
    nft: &mut dyn Nft,
    name: &str,
    transaction: &mut Transaction,
) -> Result<(), NftError> {
    let chain = Chain { name: name.to_owned(), base: None };
    transaction.push(Verb::Add, &TABLE, Object::Chain(chain));
    let jump = layout::admin_jump(name);
    let installed = nft.rules(&TABLE)?;
    refuse_newer_by(&installed)?;
    if !has_rule(&TABLE, &installed, &jump) {
        transaction.push(Verb::Add, &TABLE, Object::Rule(jump));
    }
    Ok(())
}
