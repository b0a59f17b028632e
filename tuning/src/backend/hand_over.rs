//! The originals become those of the Go plugin.

use cni_common::cni::protocol::CniError;

use super::store::{Kept, Store};
use crate::setting::{LinkSetting, Setting};

/// Writes the Go plugin's backup, unless there is one, and then forgets ours. Returns warnings.
pub(crate) fn give_to_go(store: &Store<'_>) -> Result<Vec<String>, CniError> {
    let mut warnings = Vec::new();
    let ours = store.load()?.or_warn(&mut warnings);
    let settings = ours.map(|originals| originals.settings).unwrap_or_default();
    let of_link = settings.iter().filter_map(|setting| match setting {
        Setting::Link(setting) => Some(*setting),
        Setting::Sysctl { .. } => None,
    });
    let of_link: Vec<LinkSetting> = of_link.collect();
    if !of_link.is_empty() && store.load_go()? == Kept::Nothing {
        store.save_for_go(&of_link)?;
    }
    store.forget()?;
    Ok(warnings)
}
