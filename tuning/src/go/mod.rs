//! What the Go plugin of the same name kept for an attachment: read, honoured, removed; and written
//! where an attachment goes back to it.

use cni_common::cni::Attachment;
use cni_common::cni::protocol::json::{Json, Object};

use crate::setting::{LinkSetting, Setting};

/// The name of the Go plugin's backup of the attachment, in the directory that ours are in, too.
pub(crate) fn backup_name(attachment: &Attachment) -> String {
    format!("{}_{}.json", attachment.container_id, attachment.ifname)
}

/// The originals in a backup, in the order in which the Go plugin changes things. The error says
/// what the backup is instead.
pub(crate) fn read_backup(text: &[u8]) -> Result<Vec<Setting>, String> {
    match Json::parse(text) {
        Ok(Json::Object(object)) => Ok(object
            .iter()
            .filter_map(|(name, value)| LinkSetting::from_json(name, value))
            .map(Setting::Link)
            .collect()),
        Ok(other) => Err(format!("it holds {}", other.kind())),
        Err(error) => Err(error.to_string()),
    }
}

/// A backup of these originals.
pub(crate) fn backup(originals: &[LinkSetting]) -> String {
    let mut object = Object::default();
    for original in originals {
        object.push(original.name(), original.value());
    }
    Json::from(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_for_the_go_plugin_is_what_it_reads() {
        let originals = [LinkSetting::Mtu(1500), LinkSetting::Promisc(false)];
        let text = backup(&originals);
        assert_eq!(text, r#"{"mtu":1500,"promisc":false}"#);
        let read = read_backup(text.as_bytes()).expect("a backup");
        assert_eq!(read, originals.map(Setting::Link));
    }

    #[test]
    fn the_go_backup_is_read() {
        let text = b"{\n \"mac\": \"02:00:00:00:00:02\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"txQLen\": 0\n}";
        let originals = read_backup(text).expect("a backup");
        assert_eq!(originals.len(), 4);
        assert_eq!(originals[2], Setting::Link(LinkSetting::Mtu(1500)));
        for bad in ["{", "[]", ""] {
            assert!(read_backup(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
