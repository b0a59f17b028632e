//! Networks, entries and keys that pages show are what `cni-chain lint` finds no fault with.

use std::fs;

use cni_testbox::TestBox;
use serde_json::{Value, json};

use super::markdown::{Step, spans, steps};
use super::{PAGES, text_of};
use crate::node;

const OURS: [&str; 4] = ["portmap", "bandwidth", "tuning", "firewall"];
/// Keys of others' plugins that pages name.
const OF_OTHERS: [&str; 1] = ["ipMasqBackend"];

/// Blocks and spans.
pub(super) fn has_no_error(b: &TestBox) {
    node::put_plugins(b.implementation);
    let (mut blocks, mut keys) = (0, 0);
    for page in PAGES {
        for shown in shown_in_blocks(page) {
            let complaint = complaint(&network(page, &shown));
            assert_eq!(complaint, None, "{page}: {shown:#}");
            blocks += 1;
        }
        for (span, shown) in shown_in_text(page) {
            let of_others = shown.keys().all(|key| OF_OTHERS.contains(&key.as_str()));
            let known = of_others || OURS.iter().any(|plugin| knows(plugin, &shown));
            assert!(known, "{page}: no plugin takes {span}");
            keys += 1;
        }
    }
    assert!(blocks >= 8 && keys >= 12, "{blocks} blocks and {keys} keys were found");
}

fn shown_in_blocks(page: &str) -> Vec<Value> {
    let steps = steps(&text_of(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let json = steps.into_iter().filter_map(|step| match step {
        Step::Json(text) => Some(text),
        Step::File { name, content } if name.ends_with(".conflist") => Some(content),
        _ => None,
    });
    let read = |text: String| {
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{page}: {error}: {text}"))
    };
    json.map(read).collect()
}

/// `"key": value` and `{"key": value}` between backticks.
fn shown_in_text(page: &str) -> Vec<(String, serde_json::Map<String, Value>)> {
    let json = |span: String| {
        let object = match (span.starts_with('{'), span.starts_with('"') && span.contains("\":")) {
            (true, _) if span.contains("\":") => span.clone(),
            (_, true) => format!("{{{span}}}"),
            _ => return None,
        };
        let read = serde_json::from_str(&object);
        Some((span, read.unwrap_or_else(|error| panic!("{page}: {error}: {object}"))))
    };
    spans(&text_of(page)).into_iter().filter_map(json).collect()
}

/// An entry alone, such as the pages show, is put behind a bridge.
fn network(page: &str, shown: &Value) -> Value {
    if shown.get("plugins").is_some() {
        return shown.clone();
    }
    let kind = shown["type"].as_str();
    let kind = kind.unwrap_or_else(|| panic!("{page}: neither a network nor an entry: {shown:#}"));
    behind_a_bridge(kind, shown.clone())
}

fn behind_a_bridge(kind: &str, mut entry: Value) -> Value {
    // Whether a runtime hands it something is another matter than what is shown.
    let capability = match kind {
        "portmap" => Some("portMappings"),
        "bandwidth" => Some("bandwidth"),
        _ => None,
    };
    if let (Some(capability), None) = (capability, entry.get("capabilities")) {
        entry["capabilities"] = json!({ capability: true });
    }
    json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [{ "type": "bridge" }, entry] })
}

/// Whether the keys may stand in the plugin's entry, or are capabilities that it takes.
fn knows(plugin: &str, shown: &serde_json::Map<String, Value>) -> bool {
    let object = Value::Object(shown.clone());
    let entries = [object.clone(), json!({ "capabilities": object })];
    entries.into_iter().any(|mut entry| {
        entry["type"] = json!(plugin);
        complaint(&behind_a_bridge(plugin, entry)).is_none()
    })
}

/// What lint says, unless it has no fault to find.
fn complaint(network: &Value) -> Option<String> {
    fs::write("/run/shown.conflist", network.to_string()).expect("a file");
    let output = node::cni_chain(&["lint", "/run/shown.conflist"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sound = output.status.success() && text.contains("0 errors, 0 warnings");
    (!sound).then_some(text)
}
