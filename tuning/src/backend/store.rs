//! Where originals are kept for DEL: one file for each owner, in a directory that all calls share.

use std::io;
use std::path::Path;

use cni_common::cni::failure::of_io;
use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::json::Json;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::cni::state::{StateDir, file_name, older_file_name};
use cni_common::cni::{Attachment, Failure as _, Stale};
use cni_common::kernel::layout::Newer;

use super::originals::{Originals, refuse_newer};
use crate::go;
use crate::setting::{LinkSetting, Setting};

/// The outcome of reading such a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept<T> {
    /// There is no file.
    Nothing,
    Originals(T),
    /// Nothing that can be used: which file, and why.
    Corrupt(String),
}

impl<T> Kept<T> {
    /// For DEL: what is of no use goes to `warnings`.
    pub(crate) fn or_warn(self, warnings: &mut Vec<String>) -> Option<T> {
        match self {
            Self::Nothing => None,
            Self::Originals(originals) => Some(originals),
            Self::Corrupt(what) => {
                warnings.push(format!("{what}; the originals in it are lost"));
                None
            }
        }
    }

    /// For ADD, which must not keep what an earlier ADD set in place of what was there first.
    pub(crate) fn or_refuse(self) -> Result<Option<T>, CniError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Originals(originals) => Ok(Some(originals)),
            Self::Corrupt(what) => Err(CniError::new(
                ErrorCode::IoFailure,
                format!(
                    "{what}; what is set now would be taken for the originals: delete the attachment first, or remove the file"
                ),
            )),
        }
    }
}

/// Where the attachment's originals are, ours and the Go plugin's. No other call on this node
/// works with originals in the same directory meanwhile.
#[derive(Debug)]
pub(crate) struct Store<'a> {
    dir: StateDir,
    attachment: &'a Attachment,
    name: String,
}

impl<'a> Store<'a> {
    /// Makes the directory if there is none.
    pub(crate) fn create(data_dir: &Path, attachment: &'a Attachment) -> Result<Self, CniError> {
        let dir = StateDir::create(data_dir).map_err(|error| failure("use", data_dir, &error))?;
        Ok(Self { dir, attachment, name: file_name(attachment) })
    }

    /// `None` where no ADD can have kept anything.
    pub(crate) fn open(
        data_dir: &Path,
        attachment: &'a Attachment,
    ) -> Result<Option<Self>, CniError> {
        let name = file_name(attachment);
        Ok(open_if_any(data_dir)?.map(|dir| Self { dir, attachment, name }))
    }

    /// What an earlier ADD of ours kept, whatever the network was called then.
    /// What an older version kept under another name is taken over, and what a newer one kept is an error.
    pub(super) fn load(&self) -> Result<Kept<Originals>, CniError> {
        let mut newer = Ok(());
        let mut load = || {
            self.read(&self.name, |text| {
                Originals::from_text(text, self.attachment).ok_or_else(|| {
                    newer = refuse_newer(text, &self.dir.path().join(&self.name));
                    "it is not what tuning writes".to_owned()
                })
            })
        };
        let mut kept = load()?;
        if kept == Kept::Nothing && self.take_over_older()? {
            kept = load()?;
        }
        newer.map_err(|newer| newer.into_cni("cannot work with the originals"))?;
        Ok(kept)
    }

    /// Gives the file of an older version today's name; whether there is one.
    fn take_over_older(&self) -> Result<bool, CniError> {
        let older = older_file_name(self.attachment);
        if matches!(self.dir.read(&older), Ok(None)) {
            return Ok(false);
        }
        self.dir
            .rename(&older, &self.name)
            .map_err(|error| self.failure("take over the originals of an older version in", &error))
    }

    /// What the Go plugin kept.
    pub(super) fn load_go(&self) -> Result<Kept<Vec<Setting>>, CniError> {
        self.read(&go::backup_name(self.attachment), go::read_backup)
    }

    fn read<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Kept<T>, CniError> {
        let corrupt = |why: &str| {
            let path = self.dir.path().join(name);
            Kept::Corrupt(format!("{} is of no use: {why}", path.display()))
        };
        match self.dir.read(name) {
            Ok(None) => Ok(Kept::Nothing),
            Ok(Some(text)) => Ok(parse(&text).map_or_else(|why| corrupt(&why), Kept::Originals)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(corrupt(&error.to_string()))
            }
            Err(error) => Err(self.failure("read the originals in", &error)),
        }
    }

    /// Replaces what is kept.
    pub(super) fn save(&self, originals: &Originals) -> Result<(), CniError> {
        let text = originals.to_text(self.attachment);
        self.dir
            .write(&self.name, text.as_bytes())
            .map_err(|error| self.failure("save the originals in", &error))
    }

    /// Whether anything is kept of ours, of use or not.
    pub(crate) fn has_ours(&self) -> Result<bool, CniError> {
        Ok(self.load()? != Kept::Nothing)
    }

    /// Keeps originals where the Go plugin's DEL looks for them.
    pub(super) fn save_for_go(&self, originals: &[LinkSetting]) -> Result<(), CniError> {
        self.dir
            .write(&go::backup_name(self.attachment), go::backup(originals).as_bytes())
            .map_err(|error| self.failure("save the originals for the Go plugin in", &error))
    }

    /// Removes what is kept of ours.
    pub(super) fn forget(&self) -> Result<(), CniError> {
        self.dir
            .forget(&self.name)
            .map_err(|error| self.failure("remove the originals from", &error))
    }

    /// Removes what the Go plugin kept.
    pub(super) fn forget_go(&self) -> Result<(), CniError> {
        self.dir
            .remove(&go::backup_name(self.attachment))
            .map_err(|error| self.failure("remove the Go plugin's backup from", &error))
    }

    /// Finds out whether the directory can be written.
    pub(crate) fn probe(&self) -> Result<(), CniError> {
        self.dir
            .write(&self.name, b"probe\n")
            .and_then(|()| self.dir.forget(&self.name))
            .map_err(|error| self.failure("write to", &error))
    }

    fn failure(&self, doing: &str, error: &io::Error) -> CniError {
        failure(doing, self.dir.path(), error)
    }
}

/// Removes the files of attachments that are not valid any more, and those that nobody can have
/// any use of; how many.
pub(crate) fn forget_stale(data_dir: &Path, stale: &Stale) -> Result<usize, CniError> {
    let Some(dir) = open_if_any(data_dir)? else { return Ok(0) };
    let failed = |error: &io::Error| failure("remove stale files from", data_dir, error);
    let mut removed = 0;
    let mut outcomes = vec![dir.remove_drafts().map_err(|error| failed(&error))];
    for name in dir.names().map_err(|error| failed(&error))? {
        let outcome = look_whether_stale(&dir, &name, stale).and_then(|found| match found {
            Found::Valid => Ok(()),
            Found::Stale => dir.remove(&name).map(|()| removed += 1),
            Found::Newer(newer) => {
                outcomes.push(Err(newer.into_cni("cannot remove what is stale")));
                Ok(())
            }
        });
        outcomes.push(outcome.map_err(|error| failed(&error)));
    }
    on_all(outcomes, |outcome| outcome).map(|()| removed)
}

/// The originals of every owner, with its tag. What cannot be read as such is left out, but what a newer
/// version kept is an error.
pub(crate) fn all_originals(data_dir: &Path) -> Result<Vec<(String, Vec<Setting>)>, CniError> {
    let Some(dir) = open_if_any(data_dir)? else { return Ok(Vec::new()) };
    let names = dir.names().map_err(|error| failure("list", data_dir, &error))?;
    let mut all = Vec::new();
    for name in names {
        let Ok(Some(text)) = dir.read(&name) else { continue };
        refuse_newer(&text, &dir.path().join(&name))
            .map_err(|newer| newer.into_cni("cannot read the originals"))?;
        all.extend(originals_in(&text));
    }
    Ok(all)
}

fn originals_in(text: &[u8]) -> Option<(String, Vec<Setting>)> {
    let json = Json::parse(text).ok()?;
    let object = json.as_object()?;
    let owner = object.get_exact("owner")?.as_str()?.to_owned();
    let originals = object.get_exact("originals")?.as_array()?;
    Some((owner, originals.iter().filter_map(Setting::from_json).collect()))
}

/// A file as GC sees it.
enum Found {
    Valid,
    Stale,
    /// It is stale, and a newer version's.
    Newer(Newer),
}

fn look_whether_stale(dir: &StateDir, name: &str, stale: &Stale) -> io::Result<Found> {
    let text = match dir.read(name) {
        Ok(None) => return Ok(Found::Valid),
        Ok(Some(text)) => text,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Found::Stale),
        Err(error) => return Err(error),
    };
    let json = Json::parse(&text).ok();
    let owner = json.as_ref().and_then(|json| json.as_object()?.get_exact("owner")?.as_str());
    if owner.is_some_and(|owner| !stale.includes(owner)) {
        return Ok(Found::Valid);
    }
    Ok(refuse_newer(&text, &dir.path().join(name)).map_or_else(Found::Newer, |()| Found::Stale))
}

/// `None` if there is no directory at that path, so that ADD can have kept nothing in it.
fn open_if_any(data_dir: &Path) -> Result<Option<StateDir>, CniError> {
    match StateDir::open(data_dir) {
        Ok(dir) => Ok(dir),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(failure("use", data_dir, &error)),
    }
}

fn failure(doing: &str, data_dir: &Path, error: &io::Error) -> CniError {
    let what = format!("cannot {doing} {}", data_dir.display());
    let remedy = "make it a directory, not a link to one, that root owns and only root can write to, or set another \"dataDir\"";
    of_io(error, ErrorCode::IoFailure, &what, remedy)
}

#[cfg(test)]
mod tests {
    use super::super::originals::tests::originals;
    use super::*;
    use crate::setting::LinkSetting;
    use std::fs;

    fn attachment() -> Attachment {
        of("net", "c1")
    }

    fn of(network: &str, container_id: &str) -> Attachment {
        Attachment {
            network: network.into(),
            container_id: container_id.into(),
            ifname: "eth0".into(),
        }
    }

    fn load(store: &Store<'_>) -> Kept<Originals> {
        store.load().expect("readable")
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment = attachment();
        let data_dir = root.path().join("a/b");
        assert!(Store::open(&data_dir, &attachment).expect("nothing there").is_none());
        let store = Store::create(&data_dir, &attachment).expect("create");
        assert_eq!(load(&store), Kept::Nothing);
        store.forget().expect("nothing to remove");
        store.save(&originals(1500)).expect("save");
        assert_eq!(load(&store), Kept::Originals(originals(1500)));
        store.forget().expect("remove");
        assert_eq!(load(&store), Kept::Nothing);
    }

    #[test]
    fn a_renamed_network_finds_them() {
        let root = tempfile::tempdir().expect("tempdir");
        let (old, new) = (of("old", "c1"), of("new", "c1"));
        Store::create(root.path(), &old).expect("create").save(&originals(1500)).expect("save");
        let store = Store::create(root.path(), &new).expect("create");
        assert_eq!(load(&store), Kept::Originals(originals(1500)));
    }

    #[test]
    fn other_content_is_corrupt() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment = attachment();
        let store = Store::create(root.path(), &attachment).expect("create");
        let good = originals(1500).to_text(&attachment);
        let file = root.path().join("c1@eth0.state");
        for bad in [
            String::new(),
            good[..good.len() / 2].to_owned(),
            good.replace("net/c1", "net/c2"),
            good.replace("\"format\":2", "\"format\":0"),
            good.replace("1500", "\"1500\""),
        ] {
            fs::write(&file, &bad).expect("write");
            let kept = load(&store);
            assert!(matches!(&kept, Kept::Corrupt(why) if why.contains("c1@eth0.state")), "{bad}");
            assert_eq!(kept.or_refuse().expect_err("ADD").code, ErrorCode::IoFailure);
        }
        fs::write(&file, &good).expect("write");
        assert_eq!(load(&store), Kept::Originals(originals(1500)));
    }

    #[test]
    fn the_go_backup_is_found_and_goes() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment = attachment();
        let store = Store::create(root.path(), &attachment).expect("create");
        assert_eq!(store.load_go().expect("nothing"), Kept::Nothing);
        let file = root.path().join("c1_eth0.json");
        fs::write(&file, r#"{"mtu": 1500}"#).expect("write");
        let mtu = vec![Setting::Link(LinkSetting::Mtu(1500))];
        assert_eq!(store.load_go().expect("a backup"), Kept::Originals(mtu));
        fs::write(&file, "{").expect("write");
        assert!(matches!(store.load_go().expect("a file"), Kept::Corrupt(_)));
        store.forget_go().expect("remove");
        store.forget_go().expect("again");
        assert_eq!(store.load_go().expect("nothing"), Kept::Nothing);
    }

    #[test]
    fn stale_files_of_one_network_go() {
        let root = tempfile::tempdir().expect("tempdir");
        let (keep, long, other) = (of("net", "c1"), of("net", &"l".repeat(200)), of("net2", "c3"));
        for attachment in [&keep, &long, &other, &of("net", "c2")] {
            let store = Store::create(root.path(), attachment).expect("create");
            store.save(&originals(1500)).expect("save");
        }
        fs::write(root.path().join("c4@eth0.state"), "corrupt").expect("write");
        fs::write(root.path().join("c5@eth0.state.tmp"), "half").expect("a crash's trace");
        fs::write(root.path().join("c6_eth0.json"), "{}").expect("the Go plugin's");
        let stale = Stale::new("net", [keep.clone(), long.clone()]);
        assert_eq!(forget_stale(root.path(), &stale).expect("gc"), 2);
        for attachment in [&keep, &long, &other] {
            let store = Store::create(root.path(), attachment).expect("open");
            assert_eq!(load(&store), Kept::Originals(originals(1500)));
        }
        assert_eq!(fs::read_dir(root.path()).expect("directory").count(), 4);
        assert_eq!(forget_stale(&root.path().join("none"), &stale).expect("none"), 0);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().expect("tempdir");
        let attachment = attachment();
        let file = root.path().join("file");
        fs::write(&file, "").expect("write");
        let error = Store::create(&file, &attachment).expect_err("a file");
        assert!(
            error.msg.contains(&*file.to_string_lossy()) && error.msg.contains("dataDir"),
            "{error}"
        );
        assert!(Store::open(&file, &attachment).expect("nothing kept").is_none());
    }
}
