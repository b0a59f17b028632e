//! Whose each host port is: the newest claimant's.

use std::collections::BTreeMap;

/// Claimants of each port, the newest last.
#[derive(Default)]
pub(crate) struct Claims(BTreeMap<u16, Vec<String>>);

impl Claims {
    pub(crate) fn add(&mut self, id: &str, port: u16) {
        let claimants = self.0.entry(port).or_default();
        claimants.retain(|other| other != id);
        claimants.push(id.to_owned());
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.0.retain(|_, claimants| {
            claimants.retain(|other| other != id);
            !claimants.is_empty()
        });
    }

    /// Who has the port.
    pub(crate) fn owner(&self, port: u16) -> Option<&str> {
        self.0.get(&port)?.last().map(String::as_str)
    }

    /// Ports with their owners.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (u16, &str)> {
        self.0.iter().filter_map(|(port, claimants)| Some((*port, claimants.last()?.as_str())))
    }
}
