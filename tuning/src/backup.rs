//! The originals of one attachment: what was there before the first ADD, kept for DEL.

use std::fs;
use std::io;
use std::path::PathBuf;

use cni_common::cni::Attachment;
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::cni::state::{StateDir, StateLock};

use crate::setting::{LinkSetting, Setting};

/// Written into every file, and refused when it is another.
const FORMAT: u64 = 1;

/// What was where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Device and inode of the network namespace: its path may mean another one by now.
    pub namespace: (u64, u64),
    /// Index of the interface, as its name may mean another one; none if there was none.
    pub interface: Option<u32>,
    /// The originals, in the order in which the properties were changed.
    pub originals: Vec<Setting>,
}

impl Backup {
    /// Adds the originals of properties that are not in it yet.
    pub fn merge(&mut self, more: impl IntoIterator<Item = Setting>) {
        for setting in more {
            if !self.originals.iter().any(|original| original.same_property(&setting)) {
                self.originals.push(setting);
            }
        }
    }

    fn to_text(&self, attachment: &Attachment) -> String {
        let mut object = Object::default();
        object.push("format", FORMAT);
        object.push("owner", attachment.tag().as_str());
        object.push("namespace", vec![self.namespace.0, self.namespace.1]);
        if let Some(index) = self.interface {
            object.push("interface", u64::from(index));
        }
        object.push("originals", self.originals.iter().map(Setting::to_json).collect::<Vec<_>>());
        format!("{}\n", Json::from(object))
    }

    fn from_text(text: &[u8], attachment: &Attachment) -> Option<Self> {
        let json = Json::parse(text).ok()?;
        let object = json.as_object()?;
        let number = |value: &Json| match value {
            Json::Number(number) => number.as_u64(),
            _ => None,
        };
        let owner = object.get_exact("owner").and_then(Json::as_str);
        if number(object.get_exact("format")?) != Some(FORMAT)
            || owner != Some(attachment.tag().as_str())
        {
            return None;
        }
        let [device, inode] = object.get_exact("namespace")?.as_array()? else { return None };
        let originals = object.get_exact("originals")?.as_array()?;
        Some(Self {
            namespace: (number(device)?, number(inode)?),
            interface: match object.get_exact("interface") {
                Some(index) => Some(u32::try_from(number(index)?).ok()?),
                None => None,
            },
            originals: originals.iter().map(Setting::from_json).collect::<Option<_>>()?,
        })
    }
}

/// What a file held.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// There is no file.
    Nothing,
    /// This.
    Content(T),
    /// Nothing that can be used; why.
    Corrupt(String),
}

impl<T> Found<T> {
    /// The content. What is wrong with it goes to `warnings`.
    pub fn or_warn(self, warnings: &mut Vec<String>) -> Option<T> {
        match self {
            Self::Nothing => None,
            Self::Content(content) => Some(content),
            Self::Corrupt(why) => {
                warnings.push(why);
                None
            }
        }
    }
}

/// Where the attachment's originals are.
#[derive(Debug)]
pub struct Store<'a> {
    dir: StateDir,
    attachment: &'a Attachment,
}

impl<'a> Store<'a> {
    /// The attachment's place in `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf, attachment: &'a Attachment) -> Self {
        Self { dir: StateDir::new(data_dir), attachment }
    }

    /// Keeps other calls out; `None` if nothing was ever stored here.
    pub fn lock(&self) -> Result<Option<StateLock>, CniError> {
        self.dir.lock().map_err(|error| self.failure("lock", &error))
    }

    /// The same, and makes the directory first.
    pub fn create_and_lock(&self) -> Result<Option<StateLock>, CniError> {
        self.dir.create().map_err(|error| self.failure("create", &error))?;
        self.lock()
    }

    /// What an earlier ADD of ours kept.
    #[must_use]
    pub fn load(&self) -> Found<Backup> {
        let path = self.dir.file_of(self.attachment);
        let corrupt = |why: &str| {
            Found::Corrupt(format!(
                "{} is of no use, the originals in it are lost: {why}",
                path.display()
            ))
        };
        match self.dir.read(self.attachment) {
            Ok(None) => Found::Nothing,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Found::Nothing,
            Err(error) => corrupt(&error.to_string()),
            Ok(Some(text)) => Backup::from_text(&text, self.attachment)
                .map_or_else(|| corrupt("it is not what tuning writes"), Found::Content),
        }
    }

    /// What the Go plugin kept for the attachment, in the order in which it changes things.
    #[must_use]
    pub fn load_go(&self) -> Found<Vec<Setting>> {
        let path = self.go_file();
        let corrupt = |why: String| {
            Found::Corrupt(format!("the Go plugin's {} is of no use: {why}", path.display()))
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::InvalidFilename
                ) =>
            {
                return Found::Nothing;
            }
            Err(error) => return corrupt(error.to_string()),
        };
        match Json::parse(&text) {
            Ok(Json::Object(object)) => Found::Content(
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

    /// Replaces what is kept.
    pub fn save(&self, backup: &Backup) -> Result<(), CniError> {
        let text = backup.to_text(self.attachment);
        self.dir
            .write(self.attachment, text.as_bytes())
            .map_err(|error| self.failure("save the originals in", &error))
    }

    /// Removes our file.
    pub fn remove(&self) -> Result<(), CniError> {
        self.dir
            .remove(self.attachment)
            .map_err(|error| self.failure("remove the originals from", &error))
    }

    /// Removes the Go plugin's file.
    pub fn remove_go(&self) -> Result<(), CniError> {
        match fs::remove_file(self.go_file()) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::InvalidFilename
                ) =>
            {
                Err(self.failure("remove the Go plugin's backup from", &error))
            }
            _ => Ok(()),
        }
    }

    /// Finds out whether the directory can be made and written.
    pub fn probe(&self) -> Result<(), CniError> {
        let _lock = self.create_and_lock()?;
        let failed = |error: io::Error| self.failure("write to", &error);
        self.dir.write(self.attachment, b"probe\n").map_err(failed)?;
        self.dir.remove(self.attachment).map_err(failed)
    }

    fn go_file(&self) -> PathBuf {
        let Attachment { container_id, ifname, .. } = self.attachment;
        self.dir.path().join(format!("{container_id}_{ifname}.json"))
    }

    fn failure(&self, doing: &str, error: &io::Error) -> CniError {
        CniError::new(
            ErrorCode::IoFailure,
            format!(
                "cannot {doing} {}: make it a directory that root can write, or set another \"dataDir\"",
                self.dir.path().display()
            ),
        )
        .with_details(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() }
    }

    fn backup(mtu: u32) -> Backup {
        Backup {
            namespace: (4, 4_026_531_840),
            interface: Some(2),
            originals: vec![Setting::Link(LinkSetting::Mtu(mtu))],
        }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment = attachment();
        let store = Store::new(root.path().join("a/b"), &attachment);
        assert_eq!(store.load(), Found::Nothing);
        store.remove().expect("nothing to remove");
        let _lock = store.create_and_lock().expect("lock");
        store.save(&backup(1500)).expect("save");
        assert_eq!(store.load(), Found::Content(backup(1500)));
        store.remove().expect("remove");
        assert_eq!(store.load(), Found::Nothing);
    }

    #[test]
    fn the_first_original_stays() {
        let mut kept = backup(1500);
        kept.merge([
            Setting::Link(LinkSetting::Mtu(1400)),
            Setting::Link(LinkSetting::Promisc(false)),
        ]);
        assert_eq!(
            kept.originals,
            [Setting::Link(LinkSetting::Mtu(1500)), Setting::Link(LinkSetting::Promisc(false))]
        );
    }

    #[test]
    fn other_content_is_corrupt() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment = attachment();
        let store = Store::new(root.path().into(), &attachment);
        let good = backup(1500).to_text(&attachment);
        let file = root.path().join("net@c1@eth0.state");
        for bad in [
            String::new(),
            good[..good.len() / 2].to_owned(),
            good.replace("net/c1", "net/c2"),
            good.replace("\"format\":1", "\"format\":2"),
            good.replace("1500", "\"1500\""),
        ] {
            fs::write(&file, &bad).expect("write");
            assert!(
                matches!(store.load(), Found::Corrupt(why) if why.contains("c1@eth0.state")),
                "{bad}"
            );
        }
        fs::write(&file, &good).expect("write");
        assert_eq!(store.load(), Found::Content(backup(1500)));
    }

    #[test]
    fn the_go_backup_is_read() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment = attachment();
        let store = Store::new(root.path().into(), &attachment);
        assert_eq!(store.load_go(), Found::Nothing);
        let file = root.path().join("c1_eth0.json");
        fs::write(&file, "{\n \"mac\": \"02:00:00:00:00:02\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"txQLen\": 0\n}")
            .expect("write");
        let Found::Content(originals) = store.load_go() else { panic!("{:?}", store.load_go()) };
        assert_eq!(originals.len(), 4);
        assert_eq!(originals[2], Setting::Link(LinkSetting::Mtu(1500)));
        fs::write(&file, "{").expect("write");
        assert!(matches!(store.load_go(), Found::Corrupt(_)));
        store.remove_go().expect("remove");
        store.remove_go().expect("again");
        assert_eq!(store.load_go(), Found::Nothing);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment = attachment();
        let file = root.path().join("file");
        fs::write(&file, "").expect("write");
        let store = Store::new(file.clone(), &attachment);
        let error = store.create_and_lock().expect_err("a file");
        assert!(
            error.msg.contains(&*file.to_string_lossy()) && error.msg.contains("dataDir"),
            "{error}"
        );
        assert_eq!(store.load(), Found::Nothing);
    }
}
