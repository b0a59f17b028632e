//! ADD: one transaction in the usual case.

use cni_common::cni::Failure as _;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::kernel::nft::{Nft, NftError, Transaction};
use cni_common::kernel::retry::retry;

use super::Wanted;
use super::elements::Account;
use super::known::Known;
use super::layout::Layout;
use super::older::take_over;
use super::owned;
use super::repair::repair_if_damaged;
use super::replace::{Added, replace};
use super::sets::TABLE;
use crate::config::OnConflict;

const DOING: &str = "cannot install the port mappings";

/// Makes exactly what is wanted, which must not be nothing, replacing whatever the attachment had
/// before. In force are then all mappings that are wanted, but for those that another attachment of the
/// same container keeps. `has_table` says whether the table was there when somebody looked.
pub(super) fn add(
    nft: &mut dyn Nft,
    wanted: &Wanted<'_>,
    has_table: bool,
    log: &Log,
) -> Result<Added, CniError> {
    let content = &wanted.content;
    if wanted.plan.on_conflict == OnConflict::Fail {
        // Not every conflict is one of keys.
        take_over_as(nft, wanted, log).map_err(|error| error.into_cni(DOING))?;
        return replace(nft, wanted, log);
    }
    if !has_table {
        log.debug(|| format!("building table {TABLE}"));
        return add_table(nft, wanted, log);
    }
    match nft.commit(&first_try(wanted)) {
        Ok(()) => repair_if_damaged(nft, &wanted.layout, log).map_err(|error| {
            // Mappings that no chain looks up are no service. Removing them is best effort: the
            // repair's error is the one to tell.
            let _ = owned::remove(nft, &content.tag, Some(content), log);
            error.into_cni(DOING)
        })?,
        // At most once: afterwards the table is of this version's layout.
        Err(error)
            if (error.is_missing() || is_worth_a_look(&error))
                && take_over_as(nft, wanted, log).map_err(|error| error.into_cni(DOING))? =>
        {
            return add(nft, wanted, true, log);
        }
        Err(error) if error.is_missing() => {
            log.debug(|| format!("building table {TABLE}: {error}"));
            return add_table(nft, wanted, log);
        }
        Err(error) if is_worth_a_look(&error) => return replace(nft, wanted, log),
        Err(error) => return Err(error.into_cni(DOING)),
    }
    Ok(created(wanted))
}

/// The same where the table, or something in it, is not there. To try without would be refused, and the
/// kernel waits a grace period (`synchronize_rcu` in `nf_tables_abort`) until it says so.
fn add_table(nft: &mut dyn Nft, wanted: &Wanted<'_>, log: &Log) -> Result<Added, CniError> {
    match build(nft, wanted) {
        Ok(()) => Ok(created(wanted)),
        Err(error) if is_worth_a_look(&error) => replace(nft, wanted, log),
        Err(error) => Err(error.into_cni(DOING)),
    }
}

/// What came of a transaction that found nothing in its way.
fn created(wanted: &Wanted<'_>) -> Added {
    Added { mappings: wanted.content.mappings(), replaced: false }
}

/// Whether something is in the way, or may be: of a transaction whose answer was lost nobody knows
/// what became.
fn is_worth_a_look(error: &NftError) -> bool {
    error.is_in_the_way() || error.is_transient()
}

/// Takes over a table of an older version, with what this ADD needs of it.
fn take_over_as(nft: &mut dyn Nft, wanted: &Wanted<'_>, log: &Log) -> Result<bool, NftError> {
    take_over(nft, &[&Layout::shared(), &wanted.layout], log)
}

/// The usual case, one transaction: the table is there and no key is taken.
fn first_try(wanted: &Wanted<'_>) -> Transaction {
    let mut transaction = Transaction::new();
    wanted.layout.build_own_scope(&mut transaction);
    wanted.content.create(&mut transaction, Account::new(wanted.content.len(), false));
    transaction
}

/// The table, and what is wanted in it.
fn build(nft: &mut dyn Nft, wanted: &Wanted<'_>) -> Result<(), NftError> {
    retry(|| {
        let generation = Some(nft.generation()?);
        let layout = wanted.layout.beside(Known::read(nft, &wanted.content.scope)?);
        nft.commit(&Transaction { generation, ..whole_table(wanted, &layout) })
    })
}

/// Everything that is wanted, with the table around it.
pub(super) fn whole_table(wanted: &Wanted<'_>, layout: &Layout) -> Transaction {
    let mut transaction = Transaction::new();
    layout.build(&mut transaction);
    wanted.content.create(&mut transaction, Account::new(wanted.content.len(), false));
    transaction
}
