//! Table nat as it is read, unless a newer version made what is there.
//!
//! The form of the rules is that of the Go plugin, which tools read, and has no place for a number. So a
//! layout above 1 has an empty chain whose name says it. Whoever makes one leaves containers' IDs in the
//! comments of rules in `CNI-HOSTPORT-DNAT`: these tell where something of a container is.

use cni_common::kernel::iptables::{Iptables, IptablesError, TableDump};
use cni_common::kernel::layout::Newer;

use super::rules::{GUARD_TABLE, TABLE};

/// The number of this layout.
const LAYOUT: u32 = 2;
/// The name of the chain that says a number, without it.
const CHAIN: &str = "CNI-HOSTPORT-LAYOUT-";

/// Table nat.
pub(super) fn read(iptables: &Iptables) -> Result<TableDump, IptablesError> {
    let nat = iptables.save(TABLE)?;
    refuse_newer(iptables, &nat)?;
    Ok(nat)
}

/// Table nat, and that of the guard.
pub(super) fn read_with_guard(iptables: &Iptables) -> Result<[TableDump; 2], IptablesError> {
    let tables = iptables.save_each([TABLE, GUARD_TABLE])?;
    refuse_newer(iptables, &tables[0])?;
    Ok(tables)
}

fn refuse_newer(iptables: &Iptables, nat: &TableDump) -> Result<(), IptablesError> {
    let place = || format!("table {TABLE} of iptables ({})", iptables.version());
    Ok(Newer::refuse(nat.layout(CHAIN), LAYOUT, place)?)
}
