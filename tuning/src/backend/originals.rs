//! The originals of one attachment: what was there before the first ADD, kept for DEL.

use std::io;
use std::path::PathBuf;

use cni_common::cni::Attachment;
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::cni::state::{StateDir, StateLock};

use crate::go::GoBackup;
use crate::host::Host;
use crate::kept::Kept;
use crate::setting::Setting;

/// Written into every file, and refused when it is another.
const FORMAT: u64 = 1;

/// What was where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Originals {
    /// Device and inode of the network namespace: its path may mean another one by now.
    pub(crate) namespace: (u64, u64),
    /// Index of the interface, as its name may mean another one; none if there was none.
    pub(crate) interface: Option<u32>,
    /// The originals, in the order in which the properties were changed.
    pub(crate) settings: Vec<Setting>,
}

impl Originals {
    /// What of `earlier` is about the namespace and the interface that `host` has open.
    pub(super) fn about(host: &Host<'_>, earlier: Option<Self>) -> Self {
        let interface = host.link.as_ref().map(|link| link.index);
        let mut originals = Self { namespace: host.namespace, interface, settings: Vec::new() };
        if let Some(earlier) = earlier.filter(|earlier| earlier.namespace == host.namespace) {
            let same_interface = earlier.interface == interface;
            let keep = |setting: &Setting| same_interface || !setting.is_of_interface(host.ifname);
            originals.settings = earlier.settings.into_iter().filter(keep).collect();
        }
        originals
    }

    /// Adds the originals of properties that are not in it yet.
    pub(crate) fn merge(&mut self, more: impl IntoIterator<Item = Setting>) {
        for setting in more {
            if !self.settings.iter().any(|original| original.same_property(&setting)) {
                self.settings.push(setting);
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
        object.push("originals", self.settings.iter().map(Setting::to_json).collect::<Vec<_>>());
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
            settings: originals.iter().map(Setting::from_json).collect::<Option<_>>()?,
        })
    }
}

/// Where the attachment's originals are.
#[derive(Debug)]
pub(crate) struct Store<'a> {
    dir: StateDir,
    attachment: &'a Attachment,
    /// What the Go plugin kept in the same directory.
    pub(crate) go: GoBackup,
}

impl<'a> Store<'a> {
    /// The attachment's place in `data_dir`.
    pub(crate) fn new(data_dir: PathBuf, attachment: &'a Attachment) -> Self {
        let go = GoBackup::of(attachment, &data_dir);
        Self { dir: StateDir::new(data_dir), attachment, go }
    }

    /// Keeps other calls out; `None` if nothing was ever stored here.
    pub(crate) fn lock(&self) -> Result<Option<StateLock>, CniError> {
        self.dir.lock().map_err(|error| self.failure("lock", &error))
    }

    /// The same, and makes the directory first.
    pub(crate) fn create_and_lock(&self) -> Result<Option<StateLock>, CniError> {
        self.dir.create().map_err(|error| self.failure("create", &error))?;
        self.lock()
    }

    /// What an earlier ADD of ours kept.
    pub(crate) fn load(&self) -> Kept<Originals> {
        let path = self.dir.file_of(self.attachment);
        let corrupt = |why: &str| {
            Kept::Corrupt(format!(
                "{} is of no use, the originals in it are lost: {why}",
                path.display()
            ))
        };
        match self.dir.read(self.attachment) {
            Ok(None) => Kept::Nothing,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Kept::Nothing,
            Err(error) => corrupt(&error.to_string()),
            Ok(Some(text)) => Originals::from_text(&text, self.attachment)
                .map_or_else(|| corrupt("it is not what tuning writes"), Kept::Originals),
        }
    }

    /// Replaces what is kept.
    pub(crate) fn save(&self, originals: &Originals) -> Result<(), CniError> {
        let text = originals.to_text(self.attachment);
        self.dir
            .write(self.attachment, text.as_bytes())
            .map_err(|error| self.failure("save the originals in", &error))
    }

    /// Removes our file.
    pub(crate) fn remove(&self) -> Result<(), CniError> {
        self.dir
            .remove(self.attachment)
            .map_err(|error| self.failure("remove the originals from", &error))
    }

    /// Removes the Go plugin's file.
    pub(crate) fn remove_go(&self) -> Result<(), CniError> {
        self.go.remove().map_err(|error| self.failure("remove the Go plugin's backup from", &error))
    }

    /// Finds out whether the directory can be made and written.
    pub(crate) fn probe(&self) -> Result<(), CniError> {
        let _lock = self.create_and_lock()?;
        let failed = |error: io::Error| self.failure("write to", &error);
        self.dir.write(self.attachment, b"probe\n").map_err(failed)?;
        self.dir.remove(self.attachment).map_err(failed)
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

/// Removes the files of the network's attachments that are not valid any more; how many.
pub(crate) fn forget_stale(
    data_dir: PathBuf,
    network: &str,
    valid: &[Attachment],
) -> Result<usize, CniError> {
    let dir = StateDir::new(data_dir);
    let failed = |error: io::Error| {
        CniError::new(
            ErrorCode::IoFailure,
            format!(
                "cannot remove stale files from {}: make it writable for root",
                dir.path().display()
            ),
        )
        .with_details(error.to_string())
    };
    let _lock = dir.lock().map_err(failed)?;
    dir.retain(network, valid).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::LinkSetting;
    use std::fs;

    fn attachment() -> Attachment {
        Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() }
    }

    fn backup(mtu: u32) -> Originals {
        Originals {
            namespace: (4, 4_026_531_840),
            interface: Some(2),
            settings: vec![Setting::Link(LinkSetting::Mtu(mtu))],
        }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment = attachment();
        let store = Store::new(root.path().join("a/b"), &attachment);
        assert_eq!(store.load(), Kept::Nothing);
        store.remove().expect("nothing to remove");
        let _lock = store.create_and_lock().expect("lock");
        store.save(&backup(1500)).expect("save");
        assert_eq!(store.load(), Kept::Originals(backup(1500)));
        store.remove().expect("remove");
        assert_eq!(store.load(), Kept::Nothing);
    }

    #[test]
    fn the_first_original_stays() {
        let mut kept = backup(1500);
        kept.merge([
            Setting::Link(LinkSetting::Mtu(1400)),
            Setting::Link(LinkSetting::Promisc(false)),
        ]);
        assert_eq!(
            kept.settings,
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
                matches!(store.load(), Kept::Corrupt(why) if why.contains("c1@eth0.state")),
                "{bad}"
            );
        }
        fs::write(&file, &good).expect("write");
        assert_eq!(store.load(), Kept::Originals(backup(1500)));
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
        assert_eq!(store.load(), Kept::Nothing);
    }
}
