//! What other programs have in `nf_tables`, without knowing beforehand what they call it or of which
//! types it is.

use super::encode::{self, Message, family_number};
use super::{Family, Found, InstalledChain, NetlinkNft, NftError, Table, decode};

impl NetlinkNft {
    /// The chains of all tables that see IP packets.
    ///
    /// # Errors
    /// The kernel refuses, or its answer cannot be read.
    pub fn all_chains(&mut self) -> Result<Vec<(Table, InstalledChain)>, NftError> {
        const NFPROTO_UNSPEC: u8 = 0;
        let everything = (NFPROTO_UNSPEC, Message::GetChain);
        self.dump(
            everything,
            |_| {},
            |payload| {
                let families = [Family::Inet, Family::Ip, Family::Ip6];
                let number = payload.first()?;
                let Some(family) = families.into_iter().find(|f| family_number(*f) == *number)
                else {
                    return Some(None);
                };
                let (name, chain) = decode::chain(payload)?;
                let name = name.into_owned().into();
                Some(Some((Table { family, name }, chain)))
            },
        )
    }

    /// What a set or map of any types has for a key, as it stands in registers.
    ///
    /// # Errors
    /// The kernel refuses, also because the set's key is of another length.
    pub fn find(
        &mut self,
        table: &Table,
        set: &str,
        key: &[u8],
    ) -> Result<Option<Found>, NftError> {
        let found = self.query(
            || format!("set {table} {set}"),
            Message::GetElement,
            &[key],
            |_| table.family,
            |list, key| {
                encode::in_set(list, table, set);
                encode::key(list, key);
            },
            |_, payload| decode::found(payload),
        )?;
        Ok(found.into_iter().flatten().next())
    }
}
