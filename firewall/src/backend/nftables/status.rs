//! Whether ADD could be served by our table.

use cni_common::cni::failure::not_available_beside;
use cni_common::cni::log::Log;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{
    Chain, Element, Nft, NftError, Object, Table, Transaction, Verb, has_older_layout,
    will_be_taken_over,
};

use super::admission::create_elements;
use super::check::chain_mismatches;
use super::elements;
use super::layout::{self, TABLE};
use super::number::refuse_newer;
use crate::backend::counts::PolicyCounts;
use crate::plan::Plan;

/// The table that the kernel is to try.
const PROBE: &str = "cni_firewall_probe";

/// STATUS: lets the kernel try the whole table, and what ADD does with the one that is there. What
/// the next ADD repairs is a warning.
pub(crate) fn status(nft: &mut dyn Nft, sample: &Plan, log: &Log) -> Result<(), CniError> {
    if let Err(NftError::Newer(newer)) = refuse_newer(nft) {
        return Err(not_available_beside(newer));
    }
    let unusable = |error: NftError| {
        let remedy = error.remedy();
        CniError::new(ErrorCode::NotAvailable, format!("firewall cannot use nf_tables: {remedy}"))
            .with_details(error.to_string())
    };
    // In a table of another name, so that nothing of the real one is in the way. What is only tried takes the kernel a
    // grace period, so it tries all in one.
    let mut probe = everything(sample).in_table(&Table::new(TABLE.family, PROBE));
    layout::build(&mut probe);
    nft.validate(&probe).map_err(unusable)?;

    let unreadable = |error: NftError| {
        CniError::new(
            ErrorCode::NotAvailable,
            format!("firewall cannot read table {TABLE}: {}", error.remedy()),
        )
        .with_details(error.to_string())
    };
    if nft.elements(&TABLE, &layout::attachments()).map_err(unreadable)?.is_empty() {
        return Ok(());
    }
    let mismatches = chain_mismatches(nft, None).map_err(unreadable)?;
    match mismatches.first() {
        Some(first) if *first == has_older_layout(&TABLE) => {
            log.warn(will_be_taken_over(&TABLE));
        }
        Some(first) => log.warn(format!(
            "containers may not be reachable or isolated: {first}; the next ADD, or cni-chain restore, puts \
             the table right"
        )),
        None => {}
    }
    Ok(())
}

/// Everything that ADD could ever send.
pub(super) fn everything(sample: &Plan) -> Transaction {
    let mut all = Transaction::new();
    layout::build(&mut all);
    let chain = Chain { name: sample.admin_chain.clone(), base: None };
    all.push(Verb::Add, &TABLE, Object::Chain(chain));
    all.push(Verb::Add, &TABLE, Object::Rule(layout::admin_jump(&sample.admin_chain)));
    all.operations.extend(create_elements(sample).operations);
    if let Some(isolation) = &sample.isolation {
        let bridge = &isolation.bridge;
        let counts = PolicyCounts::default().plus(isolation.policy);
        all.elements(
            Verb::Create,
            &TABLE,
            &layout::bridges(),
            vec![elements::counts_element(bridge, counts)],
        );
        for (set, key, _) in elements::lookups(bridge, counts) {
            let element = Element { key, data: Vec::new(), comment: None };
            all.elements(Verb::Create, &TABLE, &set, vec![element]);
        }
        for gateway in &isolation.gateways {
            let element = elements::gateway_element(*gateway, bridge);
            all.elements(
                Verb::Create,
                &TABLE,
                &layout::gateways(IpVersion::of(*gateway)),
                vec![element],
            );
        }
    }
    all
}
