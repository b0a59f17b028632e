//! Entries of a conflist, put in and taken out as text: every other byte of the file stays. Pure.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context as _, anyhow, bail};
use serde_json::value::RawValue;

use crate::runner::NetworkList;
use crate::runner::plugins::MetaPlugin;

/// Plugins of others that make no interface and come behind the one that does.
const OTHER_META: [&str; 2] = ["sbr", "vrf"];

/// The order in which entries are put into a list.
const ORDER: [MetaPlugin; 4] =
    [MetaPlugin::Portmap, MetaPlugin::Bandwidth, MetaPlugin::Firewall, MetaPlugin::Tuning];

/// Text that was put into a list for a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Insertion {
    pub(super) plugin: String,
    pub(super) text: String,
}

/// A list's text with entries in it that were not there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Appended {
    pub(super) text: String,
    pub(super) insertions: Vec<Insertion>,
    /// Plugins that have an entry already.
    pub(super) present: Vec<MetaPlugin>,
}

/// An entry where it stands.
struct Entry {
    plugin: String,
    at: Range<usize>,
}

/// The entry of a plugin, with what it has to declare to be told anything.
fn entry(plugin: MetaPlugin) -> &'static str {
    match plugin {
        MetaPlugin::Portmap => r#"{ "type": "portmap", "capabilities": { "portMappings": true } }"#,
        MetaPlugin::Bandwidth => {
            r#"{ "type": "bandwidth", "capabilities": { "bandwidth": true } }"#
        }
        MetaPlugin::Tuning => r#"{ "type": "tuning", "capabilities": { "mac": true } }"#,
        MetaPlugin::Firewall => r#"{ "type": "firewall" }"#,
    }
}

/// Puts in an entry for each plugin that has none: behind the entry that makes the interface and what
/// follows it of this kind, before other chained plugins, which may want to be last.
pub(super) fn append(text: &str, plugins: &[MetaPlugin]) -> anyhow::Result<Appended> {
    let list = NetworkList::from_bytes(text.as_bytes())?;
    let entries = entries(text)?;
    if entries.len() != list.plugins.len() {
        bail!("its plugins are in more than one place");
    }
    let is_meta = |entry: &Entry| {
        MetaPlugin::by_type(&entry.plugin).is_some() || OTHER_META.contains(&entry.plugin.as_str())
    };
    let main = entries.iter().position(|entry| !is_meta(entry)).ok_or_else(|| {
        anyhow!("no entry of it makes an interface: put a plugin such as bridge first")
    })?;
    let last_meta = entries.iter().rposition(is_meta).filter(|last| *last > main);
    let behind = last_meta.unwrap_or(main);
    let has = |plugin: MetaPlugin| {
        entries.iter().any(|entry| MetaPlugin::by_type(&entry.plugin) == Some(plugin))
    };
    let asked_for = ORDER.into_iter().filter(|plugin| plugins.contains(plugin));
    let (present, missing): (Vec<MetaPlugin>, Vec<MetaPlugin>) =
        asked_for.partition(|plugin| has(*plugin));
    let place = &entries[behind].at;
    let space = space_before(text, place.start);
    let insertions: Vec<Insertion> = missing
        .into_iter()
        .map(|plugin| Insertion {
            plugin: plugin.as_str().to_owned(),
            text: format!(",{space}{}", entry(plugin)),
        })
        .collect();
    let put_in: String = insertions.iter().map(|insertion| insertion.text.as_str()).collect();
    let text = [&text[..place.end], &put_in, &text[place.end..]].concat();
    Ok(Appended { text, insertions, present })
}

/// Takes out what [`append`] put in. An entry that somebody has changed since stays, and its plugin is
/// among those that are returned; one that is gone is out already.
pub(super) fn remove(
    text: &str,
    insertions: &[Insertion],
) -> anyhow::Result<(String, Vec<String>)> {
    let mut text = text.to_owned();
    let mut changed = Vec::new();
    for insertion in insertions.iter().rev() {
        let entries = entries(&text)?;
        let of_plugin = entries.iter().rfind(|entry| entry.plugin == insertion.plugin);
        let Some(entry) = of_plugin else { continue };
        match span(&text, &entries, entry, insertion) {
            Some(span) => text.replace_range(span, ""),
            None => changed.push(insertion.plugin.clone()),
        }
    }
    NetworkList::from_bytes(text.as_bytes()).context("without the entries it would be no list")?;
    Ok((text, changed))
}

/// What goes with an entry: exactly what was put in, or the same entry in other white space with the
/// comma that joins it to its neighbour. `None` if the entry says something else.
fn span(
    text: &str,
    entries: &[Entry],
    entry: &Entry,
    insertion: &Insertion,
) -> Option<Range<usize>> {
    if text[..entry.at.end].ends_with(&insertion.text) {
        return Some(entry.at.end - insertion.text.len()..entry.at.end);
    }
    let put_in = insertion.text.trim_start_matches(',').trim_start();
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    if value(&text[entry.at.clone()]) != value(put_in) {
        return None;
    }
    let before = entries.iter().rfind(|other| other.at.end <= entry.at.start);
    let after = entries.iter().find(|other| other.at.start >= entry.at.end);
    match (before, after) {
        (Some(before), _) => Some(before.at.end..entry.at.end),
        (None, Some(after)) => Some(entry.at.start..after.at.start),
        (None, None) => None,
    }
}

/// The entries of a list and where they are in its text.
fn entries(text: &str) -> anyhow::Result<Vec<Entry>> {
    // Of a key that comes twice the last counts, here and for runtimes.
    let top: HashMap<String, &RawValue> = serde_json::from_str(text)?;
    let plugins = top.get("plugins").context("it has no plugins")?;
    let items: Vec<&RawValue> = serde_json::from_str(plugins.get())?;
    items
        .into_iter()
        .map(|item| {
            let fields: HashMap<String, serde_json::Value> = serde_json::from_str(item.get())?;
            let mut types = fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case("type"));
            let plugin = types.find_map(|(_, value)| value.as_str()).unwrap_or_default();
            // What is borrowed lies within the text.
            let start = item.get().as_ptr().addr() - text.as_ptr().addr();
            Ok(Entry { plugin: plugin.to_owned(), at: start..start + item.get().len() })
        })
        .collect()
}

/// The white space before a place.
fn space_before(text: &str, place: usize) -> &str {
    let before = &text[..place];
    let kept = before.trim_end_matches([' ', '\t', '\n', '\r']);
    let space = &before[kept.len()..];
    if space.is_empty() { " " } else { space }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [MetaPlugin; 4] = MetaPlugin::ALL;
    const ODD: &str = "{\"plugins\":[\n\t  {\"ipam\" :{},\"type\":\"bridge\" }  ,{\"type\":\"istio-cni\"}\n],\r\n  \"name\":\"n\",\"cniVersion\" : \"1.0.0\"}\n\n";

    fn types(text: &str) -> Vec<String> {
        let list = NetworkList::from_bytes(text.as_bytes()).expect("a list");
        list.plugins.into_iter().map(|plugin| plugin.plugin_type).collect()
    }

    fn list(entries: &str) -> String {
        format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[{entries}]}}")
    }

    #[test]
    fn entries_stand_where_they_work() {
        let appended = append(ODD, &ALL).expect("a list");
        let expected = ["bridge", "portmap", "bandwidth", "firewall", "tuning", "istio-cni"];
        assert_eq!(types(&appended.text), expected);
        assert!(appended.text.contains(" },\n\t  { \"type\": \"portmap\""), "{}", appended.text);
        for (before, asked, after) in [
            (r#"{"type":"ptp"}"#, MetaPlugin::Firewall, vec!["ptp", "firewall"]),
            (
                r#"{"type":"bridge"}, {"type":"tuning"}, {"type":"x"}"#,
                MetaPlugin::Portmap,
                vec!["bridge", "tuning", "portmap", "x"],
            ),
        ] {
            let appended = append(&list(before), &[asked]).expect("a list");
            assert_eq!(types(&appended.text), after);
        }
    }

    #[test]
    fn what_is_put_in_declares_what_it_needs() {
        let appended = append(&list(r#"{"type":"bridge"}"#), &ALL).expect("a list");
        let list = NetworkList::from_bytes(appended.text.as_bytes()).expect("a list");
        let declared: Vec<Vec<String>> =
            list.plugins.into_iter().map(|plugin| plugin.capabilities).collect();
        assert_eq!(declared[1..], [vec!["portMappings"], vec!["bandwidth"], vec![], vec!["mac"]]);
    }

    #[test]
    fn all_other_bytes_stay() {
        let appended = append(ODD, &ALL).expect("a list");
        let (text, changed) = remove(&appended.text, &appended.insertions).expect("a list");
        assert_eq!((text.as_str(), changed.len()), (ODD, 0));
        let cut = appended.text.find(&appended.insertions[0].text).expect("it is in there");
        let put_in: usize = appended.insertions.iter().map(|insertion| insertion.text.len()).sum();
        assert_eq!([&appended.text[..cut], &appended.text[cut + put_in..]].concat(), ODD);
    }

    #[test]
    fn twice_is_once() {
        let once = append(ODD, &ALL).expect("a list");
        let twice = append(&once.text, &ALL).expect("a list");
        assert_eq!((twice.text, twice.insertions.len(), twice.present.len()), (once.text, 0, 4));
    }

    #[test]
    fn what_somebody_changed_stays_and_white_space_is_no_change() {
        let once = append(ODD, &[MetaPlugin::Portmap, MetaPlugin::Firewall]).expect("a list");
        let changed =
            once.text.replace("\"portMappings\": true", "\"portMappings\": true, \"x\": true");
        let (text, left) = remove(&changed, &once.insertions).expect("a list");
        assert_eq!(left, ["portmap"]);
        assert_eq!(types(&text), ["bridge", "portmap", "istio-cni"]);
        let value: serde_json::Value = serde_json::from_str(&once.text).expect("JSON");
        let (text, left) = remove(&value.to_string(), &once.insertions).expect("a list");
        assert_eq!((types(&text), left.len()), (types(ODD), 0));
    }

    #[test]
    fn lists_that_cannot_take_an_entry() {
        for bad in [&list(r#"{"type":"portmap"}"#), "{}", "[", &list("")] {
            assert!(append(bad, &ALL).is_err(), "{bad}");
        }
    }
}
