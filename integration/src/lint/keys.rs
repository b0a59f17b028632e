//! Keys and capabilities that nobody reads. Pure.

use cni_common::cni::plugin::COMMON_KEYS;

use super::{Weight, own_keys};
use crate::runner::PluginConf;
use crate::runner::plugins::MetaPlugin;

/// What runtimes hand over by capability, and which plugin of ours takes it.
const CAPABILITIES: [(&str, MetaPlugin); 3] = [
    ("portMappings", MetaPlugin::Portmap),
    ("bandwidth", MetaPlugin::Bandwidth),
    ("mac", MetaPlugin::Tuning),
];

pub(super) fn remarks(plugin: MetaPlugin, conf: &PluginConf) -> Vec<(Weight, String)> {
    let mut remarks: Vec<_> =
        conf.object.iter().filter_map(|(key, _)| unknown_key(plugin, key)).collect();
    remarks.extend(conf.capabilities.iter().filter_map(|name| unknown_capability(plugin, name)));
    remarks.extend(undeclared(plugin, conf));
    remarks
}

fn unknown_key(plugin: MetaPlugin, key: &str) -> Option<(Weight, String)> {
    let known = || own_keys(plugin).iter().chain(&COMMON_KEYS).copied();
    // With a dot it is somebody's own.
    if key.contains('.') || known().any(|other| other.eq_ignore_ascii_case(key)) {
        return None;
    }
    let advice = match nearest(key, known()) {
        Some(near) => format!("do you mean {near:?}?"),
        None => format!("it reads {}", own_keys(plugin).join(", ")),
    };
    Some((Weight::Error, format!("{plugin} knows no key {key:?}, which does nothing: {advice}")))
}

fn unknown_capability(plugin: MetaPlugin, name: &str) -> Option<(Weight, String)> {
    if CAPABILITIES.contains(&(name, plugin)) {
        return None;
    }
    let takes = CAPABILITIES.iter().find(|(_, of)| *of == plugin).map(|(name, _)| *name);
    let advice = match (CAPABILITIES.iter().find(|(known, _)| *known == name), takes) {
        (Some((_, of)), _) => format!("it belongs into the entry of {of}"),
        (None, Some(takes)) => format!("it takes {takes:?}"),
        (None, None) => "it takes none".to_owned(),
    };
    Some((Weight::Warning, format!("{plugin} does nothing with the capability {name:?}: {advice}")))
}

/// Without the capability a runtime hands nothing over.
fn undeclared(plugin: MetaPlugin, conf: &PluginConf) -> Option<(Weight, String)> {
    let (name, _) = CAPABILITIES.iter().find(|(_, of)| *of == plugin)?;
    if conf.capabilities.iter().any(|declared| declared == name) {
        return None;
    }
    let has = |keys: &[&str]| {
        conf.object.iter().any(|(key, _)| keys.iter().any(|own| own.eq_ignore_ascii_case(key)))
    };
    let (weight, consequence) = match plugin {
        MetaPlugin::Portmap => (Weight::Error, "no port is ever mapped"),
        MetaPlugin::Bandwidth if !has(&["ingressRate", "egressRate"]) => {
            (Weight::Error, "nothing is ever limited")
        }
        _ => return None,
    };
    Some((
        weight,
        format!(
            "{consequence}: declare \"capabilities\": {{\"{name}\": true}}, or runtimes pass none"
        ),
    ))
}

/// The known word that is nearest, if it is near.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    let distance = |other: &str| distance(&lower, &other.to_ascii_lowercase());
    let near = known.map(|other| (distance(other), other)).min()?;
    (near.0 <= word.len().div_ceil(3)).then_some(near.1)
}

/// How many letters to change, add or drop (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (at, letter_of_other) in other.chars().enumerate() {
            let changed = diagonal + usize::from(letter != letter_of_other);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key() {
        let nearest = |word| nearest(word, own_keys(MetaPlugin::Portmap).iter().copied());
        assert_eq!(nearest("snatt"), Some("snat"));
        assert_eq!(nearest("conditionV4"), Some("conditionsV4"));
        assert_eq!(nearest("markMasquerade"), None);
        assert_eq!(nearest("xyzzy"), None);
        assert_eq!((distance("", "abc"), distance("kitten", "sitting")), (3, 3));
    }

    #[test]
    fn keys_and_capabilities() {
        let remarks = |plugin: MetaPlugin, text: &str| {
            let list = format!(
                r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"{plugin}"{text}}}]}}"#
            );
            let list = crate::runner::NetworkList::from_bytes(list.as_bytes()).expect("a list");
            remarks(plugin, &list.plugins[0]).into_iter().map(|(_, text)| text).collect::<Vec<_>>()
        };
        let declared = r#","capabilities":{"portMappings":true}"#;
        assert_eq!(remarks(MetaPlugin::Portmap, declared), [""; 0]);
        assert_eq!(
            remarks(
                MetaPlugin::Portmap,
                &format!(r#"{declared},"Snat":true,"masqall":true,"cni.dev/x":1,"marc":1"#)
            ),
            [format!(
                "portmap knows no key \"marc\", which does nothing: it reads {}",
                own_keys(MetaPlugin::Portmap).join(", ")
            )]
        );
        let none = remarks(MetaPlugin::Portmap, "");
        assert!(none[0].starts_with("no port is ever mapped: declare"), "{none:?}");
        assert_eq!(remarks(MetaPlugin::Bandwidth, r#","ingressRate":8,"ingressBurst":8"#), [""; 0]);
        let wrong = remarks(MetaPlugin::Firewall, r#","capabilities":{"bandwidth":true,"x":true}"#);
        assert_eq!(
            wrong,
            [
                r#"firewall does nothing with the capability "bandwidth": it belongs into the entry of bandwidth"#,
                r#"firewall does nothing with the capability "x": it takes none"#
            ]
        );
    }
}
