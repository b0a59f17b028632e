//! Entries that cannot work where they stand. Pure.

use super::{Remark, Weight};
use crate::runner::plugins::MetaPlugin;
use crate::runner::{NetworkList, PluginConf};

/// Plugins of the CNI project that make no interface either.
const OTHER_META: [&str; 2] = ["sbr", "vrf"];

pub(super) fn remarks(list: &NetworkList) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let mut says = |weight, at: usize, text: String| {
        let entry = Some(format!("plugins[{at}] ({})", list.plugins[at].plugin_type));
        remarks.push(Remark { weight, entry, text });
    };
    let is_meta = |plugin: &PluginConf| {
        MetaPlugin::by_type(&plugin.plugin_type).is_some()
            || OTHER_META.contains(&plugin.plugin_type.as_str())
    };
    let main = list.plugins.iter().position(|plugin| !is_meta(plugin));
    for (at, plugin) in list.plugins.iter().enumerate() {
        if is_meta(plugin) && main.is_none_or(|main| at < main) {
            let text = match main {
                None => {
                    "no entry of the list makes an interface: put a plugin such as bridge first"
                }
                Some(_) => "it needs the interface that a later entry makes: move it behind that",
            };
            says(Weight::Error, at, text.to_owned());
        }
        let ours = MetaPlugin::by_type(&plugin.plugin_type);
        let first =
            list.plugins.iter().position(|other| MetaPlugin::by_type(&other.plugin_type) == ours);
        let is_second = ours.is_some() && first.is_some_and(|first| first < at);
        // portmap may come twice, with conditions that differ.
        if is_second && ours != Some(MetaPlugin::Portmap) {
            says(
                Weight::Warning,
                at,
                format!(
                    "there is another entry of {}; the last one wins: make it one",
                    plugin.plugin_type
                ),
            );
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(types: &[&str]) -> Vec<String> {
        let plugins: Vec<String> = types.iter().map(|t| format!(r#"{{"type":"{t}"}}"#)).collect();
        let text =
            format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{}]}}"#, plugins.join(","));
        let list = NetworkList::from_bytes(text.as_bytes()).expect("a list");
        remarks(&list)
            .into_iter()
            .map(|remark| format!("{}: {}", remark.entry.unwrap_or_default(), remark.text))
            .collect()
    }

    #[test]
    fn orders() {
        assert_eq!(texts(&["bridge", "tuning", "portmap", "portmap", "firewall"]), [""; 0]);
        let early = texts(&["portmap", "bridge"]);
        assert_eq!(early.len(), 1);
        assert!(early[0].starts_with("plugins[0] (portmap): it needs the interface"), "{early:?}");
        let alone = texts(&["firewall"]);
        assert!(alone[0].contains("no entry of the list makes an interface"), "{alone:?}");
        let twice = texts(&["bridge", "firewall", "firewall"]);
        assert!(twice[0].starts_with("plugins[2] (firewall): there is another"), "{twice:?}");
    }
}
