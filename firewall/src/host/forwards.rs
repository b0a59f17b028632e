//! The FORWARD chains of iptables, in either of its kernel interfaces. An accept in one of them does
//! not override a drop in another.

use std::fmt;

use cni_common::cni::log::Log;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{IptablesError, TableDump, Variant, legacy_table_loaded};
use cni_common::kernel::nft::{Family, Nft, Table};

use super::tables::FilterTables;
use crate::filter::{FORWARD, STAGE_1, TABLE};

/// A FORWARD chain that decides about packets: it drops by policy, or has rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) version: IpVersion,
    pub(crate) variant: Variant,
    /// Whether what no rule decides is dropped.
    pub(crate) drops: bool,
}

/// As the reason for a choice.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.drops { "has policy drop" } else { "has rules" };
        if self.variant == Variant::Legacy {
            return write!(f, "legacy iptables' FORWARD chain ({}) {what}", self.version);
        }
        let table = Table::new(Family::of(self.version), TABLE);
        write!(f, "iptables' chain {table} FORWARD {what}")
    }
}

impl Forward {
    /// Whether it decides by more than what the Go plugin or ours put there.
    pub(crate) fn is_of_others(&self, filter: &mut FilterTables) -> bool {
        if self.drops {
            return true;
        }
        let dump = filter.read(self.version, self.variant);
        dump.is_ok_and(|dump| {
            dump.rules_of("FORWARD").any(|rule| {
                let target = rule.option("-j");
                ![FORWARD, STAGE_1].map(Some).contains(&target.as_deref())
            })
        })
    }
}

/// Those of this host. Programs are run only where legacy iptables has a table.
pub(super) fn find(
    nft: Option<&mut dyn Nft>,
    filter: &mut FilterTables,
    log: &Log,
) -> Result<Vec<Forward>, IptablesError> {
    let chains = IpVersion::ALL
        .map(|version| (Table::new(Family::of(version), TABLE), "FORWARD".to_owned()));
    let found = nft.map(|nft| nft.chains(&chains)).transpose()?.unwrap_or_default();
    let mut forwards = Vec::new();
    for (index, version) in IpVersion::ALL.into_iter().enumerate() {
        if let Some(Some(chain)) = found.get(index)
            && (chain.drops || chain.uses > 0)
        {
            forwards.push(Forward { version, variant: Variant::Nft, drops: chain.drops });
        }
        if legacy_table_loaded(version, TABLE)? {
            match filter.read(version, Variant::Legacy) {
                Ok(dump) => forwards.extend(legacy(version, dump)),
                Err(error) => log.warn(format!(
                    "legacy iptables has a table {TABLE} ({version}) that cannot be read, and may drop \
                     containers' packets: {error}"
                )),
            }
        }
    }
    Ok(forwards)
}

fn legacy(version: IpVersion, dump: &TableDump) -> Option<Forward> {
    let drops = dump.chains.iter().any(|(name, policy)| name == "FORWARD" && policy == "DROP");
    let decides = drops || dump.rules_of("FORWARD").next().is_some();
    decides.then_some(Forward { version, variant: Variant::Legacy, drops })
}
