//! The `filter` tables of a host's iptables: each is read once for what is decided on it.

use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{Iptables, IptablesError, Lock, TableDump, Variant};
use cni_common::kernel::layout::Newer;
use cni_common::kernel::retry::retry;

use crate::filter::TABLE;

/// The number of the layout of what this plugin has in them. The Go plugin's form, which tools read, has no
/// place for a number, so a layout above 1 has an empty chain whose name says it.
const LAYOUT: u32 = 2;
/// The name of that chain, without the number.
const LAYOUT_CHAIN: &str = "CNI-FORWARD-LAYOUT-";

/// What was read of them so far, and the lock that keeps our own processes from changing it.
#[derive(Debug, Default)]
pub(crate) struct FilterTables {
    lock: Option<Lock>,
    is_settled: bool,
    read: Vec<((IpVersion, Variant), TableDump)>,
}

impl FilterTables {
    /// One version's table, as the programs of one kind of iptables see it.
    pub(crate) fn read(
        &mut self,
        version: IpVersion,
        variant: Variant,
    ) -> Result<&TableDump, IptablesError> {
        let key = (version, variant);
        let known = self.read.iter().position(|(known, _)| *known == key);
        let position = if let Some(position) = known {
            position
        } else {
            let dump = Iptables::seeing(version, variant)?.save(TABLE)?;
            self.read.push((key, dump));
            self.read.len() - 1
        };
        Ok(&self.read[position].1)
    }

    /// The same for what this plugin has in it. What a newer version made is an error.
    pub(crate) fn read_ours(
        &mut self,
        version: IpVersion,
        variant: Variant,
    ) -> Result<&TableDump, IptablesError> {
        let dump = self.read(version, variant)?;
        let place = || format!("table {TABLE} of {variant} ({version})");
        Newer::refuse(dump.layout(LAYOUT_CHAIN), LAYOUT, place)?;
        Ok(dump)
    }

    /// Applies the restore lines that `decide` derives from the table. If the tool refuses, the
    /// table may have changed in between, so they are derived anew.
    pub(crate) fn change(
        &mut self,
        version: IpVersion,
        variant: Variant,
        decide: impl Fn(&TableDump) -> Vec<String>,
    ) -> Result<(), IptablesError> {
        retry(|| self.try_to_change(version, variant, &decide))
    }

    /// The same once, for what can as well be done another time.
    pub(crate) fn try_to_change(
        &mut self,
        version: IpVersion,
        variant: Variant,
        decide: impl FnOnce(&TableDump) -> Vec<String>,
    ) -> Result<(), IptablesError> {
        self.lock()?;
        let lines = decide(self.read_ours(version, variant)?);
        if lines.is_empty() {
            return Ok(());
        }
        // Two variants may be two names of one table.
        self.read.retain(|((known, _), _)| *known != version);
        Iptables::seeing(version, variant)?.restore(&[(TABLE, lines)])
    }

    /// Lets our other processes finish, and what dead ones started: see [`Lock::settle`].
    pub(super) fn settle(&mut self) -> Result<(), IptablesError> {
        if self.lock.is_none() && !self.is_settled {
            Lock::settle()?;
            self.is_settled = true;
        }
        Ok(())
    }

    /// Until the end of the call. What was read before may have changed since.
    fn lock(&mut self) -> Result<(), IptablesError> {
        if self.lock.is_none() {
            self.lock = Some(Lock::acquire()?);
            self.read.clear();
        }
        Ok(())
    }
}
