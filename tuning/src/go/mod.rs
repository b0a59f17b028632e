//! What the Go plugin of the same name kept for an attachment: read, honoured, removed, never
//! added to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cni_common::cni::Attachment;
use cni_common::cni::protocol::json::Json;

use crate::kept::Kept;
use crate::setting::{LinkSetting, Setting};

/// The Go plugin's backup of one attachment.
#[derive(Debug)]
pub(crate) struct GoBackup {
    path: PathBuf,
}

impl GoBackup {
    pub(crate) fn of(attachment: &Attachment, data_dir: &Path) -> Self {
        let Attachment { container_id, ifname, .. } = attachment;
        Self { path: data_dir.join(format!("{container_id}_{ifname}.json")) }
    }

    /// The originals in the order in which the Go plugin changes things.
    pub(crate) fn load(&self) -> Kept<Vec<Setting>> {
        let corrupt = |why: String| {
            Kept::Corrupt(format!("the Go plugin's {} is of no use: {why}", self.path.display()))
        };
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if is_absence(&error) => return Kept::Nothing,
            Err(error) => return corrupt(error.to_string()),
        };
        match Json::parse(&text) {
            Ok(Json::Object(object)) => Kept::Originals(
                object
                    .iter()
                    .filter_map(|(name, value)| LinkSetting::from_json(name, value))
                    .map(Setting::Link)
                    .collect(),
            ),
            Ok(other) => corrupt(format!("it holds {}", other.kind())),
            Err(error) => corrupt(error.to_string()),
        }
    }

    /// Removes the file; there need not be one.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if !is_absence(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// A container ID that is too long for a file name never had a backup.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_go_backup_is_read() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment =
            Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() };
        let backup = GoBackup::of(&attachment, root.path());
        assert_eq!(backup.load(), Kept::Nothing);
        let file = root.path().join("c1_eth0.json");
        fs::write(&file, "{\n \"mac\": \"02:00:00:00:00:02\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"txQLen\": 0\n}")
            .expect("write");
        let Kept::Originals(originals) = backup.load() else { panic!("{:?}", backup.load()) };
        assert_eq!(originals.len(), 4);
        assert_eq!(originals[2], Setting::Link(LinkSetting::Mtu(1500)));
        fs::write(&file, "{").expect("write");
        assert!(matches!(backup.load(), Kept::Corrupt(_)));
        backup.remove().expect("remove");
        backup.remove().expect("again");
        assert_eq!(backup.load(), Kept::Nothing);
    }
}
