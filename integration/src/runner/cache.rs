//! What ADD leaves for CHECK, DEL and GC, in the place and the format of libcni.
//!
//! One file for each attachment: `<cache dir>/results/<network>-<container id>-<ifname>`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::protocol::{CniError, CniResult, CniVersion};
use cni_common::kernel::file;

use super::conflist::{ConfError, NetworkList};
use super::request::RuntimeConf;

/// The `kind` that marks a file as this format.
const KIND: &str = "cniCacheV1";

/// The cache of one directory.
#[derive(Clone, Debug)]
pub struct Cache {
    results: PathBuf,
}

/// An attachment as the cache remembers it.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedAttachment {
    /// The network's name.
    pub network: String,
    /// What the caller passed to ADD.
    pub conf: RuntimeConf,
    /// The list's document.
    pub config: Vec<u8>,
}

/// One file of the cache, with what it says or why that cannot be read.
#[derive(Debug)]
pub(crate) struct CacheEntry {
    /// The file.
    pub path: PathBuf,
    /// When ADD ended: it writes the file, and nobody writes it later.
    pub written: SystemTime,
    /// The attachment; `None` in a file of another kind.
    pub content: Result<Option<Remembered>, CacheError>,
}

impl CachedAttachment {
    /// `network/containerID/ifname`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}/{}", self.network, self.conf.container_id, self.conf.ifname)
    }

    /// The list that ADD ran.
    pub(crate) fn list(&self) -> Result<NetworkList, ConfError> {
        NetworkList::from_bytes(&self.config)
    }
}

/// An attachment and what its ADD returned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Remembered {
    /// What ADD was given.
    pub attachment: CachedAttachment,
    /// What it returned, as it was written.
    pub result: Option<Json>,
}

impl CacheEntry {
    /// Whether the file is there and no later ADD has written it again.
    pub(crate) fn is_current(&self) -> bool {
        modified(&self.path).is_ok_and(|modified| modified == self.written)
    }
}

/// Why the cache could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The three parts of a file's name. Each is needed, and none may lead to another directory.
    #[error(
        "cache file path requires network name ({0:?}), container ID ({1:?}), and interface name \
         ({2:?}), each without a slash"
    )]
    Name(String, String, String),
    /// This file or directory cannot be read or written.
    #[error("{path}: {1}", path = .0.display())]
    Io(PathBuf, io::Error),
    /// This file is not what libcni writes, and why.
    #[error("{path}: {1}", path = .0.display())]
    Content(PathBuf, String),
}

impl Cache {
    /// The cache below `cache_dir`, usually `/var/lib/cni`.
    pub(crate) fn new(cache_dir: &Path) -> Self {
        Self { results: cache_dir.join("results") }
    }

    /// Remembers an attachment, all of it or nothing.
    pub(crate) fn write(
        &self,
        list: &NetworkList,
        conf: &RuntimeConf,
        result: &Json,
    ) -> Result<(), CacheError> {
        let path = self.path(&list.name, conf)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.results)
            .map_err(|error| CacheError::Io(self.results.clone(), error))?;
        let text = document(list, conf, result).to_string();
        self.replace(&path, text.as_bytes()).map_err(|error| CacheError::Io(path, error))
    }

    /// Forgets an attachment; one that is not there is forgotten already.
    pub(crate) fn remove(&self, network: &str, conf: &RuntimeConf) -> Result<(), CacheError> {
        let path = self.path(network, conf)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CacheError::Io(path, error))
            }
            _ => Ok(()),
        }
    }

    /// The result of ADD in the form of `version`; `None` if there is none.
    ///
    /// A file of before 2019 is the bare result.
    pub(crate) fn result(
        &self,
        network: &str,
        conf: &RuntimeConf,
        version: &str,
    ) -> Result<Option<Json>, CacheError> {
        let path = self.path(network, conf)?;
        let Some(top) = read(&path)? else { return Ok(None) };
        let bare;
        let result = if is_current(&top) {
            top.get("result")
        } else {
            bare = Json::from(top);
            Some(&bare)
        };
        let Some(result) = result else { return Ok(None) };
        let content = |reason: String| CacheError::Content(path.clone(), reason);
        let target = CniVersion::from_text(version)
            .ok_or_else(|| content(format!("no converter to CNI result version {version:?}")))?;
        CniResult::from_json(result, CniVersion::V0_1_0)
            .and_then(|result| result.to_json(target))
            .map(Some)
            .map_err(|error: CniError| content(error.to_string()))
    }

    /// What ADD was given for this attachment; `None` if it is not in the cache.
    pub fn attachment(
        &self,
        network: &str,
        conf: &RuntimeConf,
    ) -> Result<Option<CachedAttachment>, CacheError> {
        let path = self.path(network, conf)?;
        match read(&path)? {
            Some(top) if is_current(&top) => {
                decode(&top).map(Some).map_err(|reason| CacheError::Content(path, reason))
            }
            _ => Ok(None),
        }
    }

    /// All attachments, or those of one container, in the order of their file names. Files that
    /// are something else are skipped.
    pub fn attachments(
        &self,
        container_id: Option<&str>,
    ) -> Result<Vec<CachedAttachment>, CacheError> {
        let unreadable = |error| CacheError::Io(self.results.clone(), error);
        let entries = match fs::read_dir(&self.results) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(unreadable)?.file_name().into_string());
        }
        names.sort();
        let wanted = |name: &String| {
            // No network's name starts with a dot, but a write that is going on does.
            !name.starts_with('.')
                && container_id.is_none_or(|id| name.contains(&format!("-{id}-")))
        };
        let decoded = names.iter().filter(|name| wanted(name)).filter_map(|name| {
            let top = read(&self.results.join(name)).ok()??;
            is_current(&top).then(|| decode(&top).ok())?
        });
        Ok(decoded
            .filter(|found| !found.network.is_empty() && !found.conf.ifname.is_empty())
            .filter(|found| container_id.is_none_or(|id| found.conf.container_id == id))
            .collect())
    }

    /// Every file, those that cannot be read included, the oldest first.
    pub(crate) fn entries(&self) -> Result<Vec<CacheEntry>, CacheError> {
        let unreadable = |error| CacheError::Io(self.results.clone(), error);
        let files = match fs::read_dir(&self.results) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(error)),
        };
        let mut entries = Vec::new();
        for file in files {
            let path = file.map_err(unreadable)?.path();
            let is_draft = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if is_draft || path.is_dir() {
                continue;
            }
            // One that is gone by now was deleted like any other.
            if let Ok(written) = modified(&path) {
                let content = remembered_when_whole(&path);
                entries.push(CacheEntry { path, written, content });
            }
        }
        entries.sort_by(|a, b| (a.written, &a.path).cmp(&(b.written, &b.path)));
        Ok(entries)
    }

    /// Where the attachment's file is.
    pub(crate) fn path(&self, network: &str, conf: &RuntimeConf) -> Result<PathBuf, CacheError> {
        let parts = [network, conf.container_id.as_str(), conf.ifname.as_str()];
        if parts.iter().any(|part| part.is_empty() || part.contains('/')) {
            let [network, container_id, ifname] = parts.map(str::to_owned);
            return Err(CacheError::Name(network, container_id, ifname));
        }
        Ok(self.results.join(parts.join("-")))
    }

    /// Writes beside the file and renames: a reader sees the old content or the new.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let draft = self.results.join(format!(".cni-chain.{}.{number}", std::process::id()));
        // What a killed process of the same id left is in the way.
        let _ = fs::remove_file(&draft);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(content))
            .and_then(|()| fs::rename(&draft, path));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

fn modified(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// How long a file may be half written: libcni empties it and writes it anew.
const HALF_WRITTEN: Duration = Duration::from_millis(100);

fn remembered_when_whole(path: &Path) -> Result<Option<Remembered>, CacheError> {
    remembered(path).or_else(|_| {
        std::thread::sleep(HALF_WRITTEN);
        remembered(path)
    })
}

fn remembered(path: &Path) -> Result<Option<Remembered>, CacheError> {
    let Some(top) = read(path)?.filter(is_current) else { return Ok(None) };
    let content = |reason| CacheError::Content(path.to_owned(), reason);
    let attachment = decode(&top).map_err(content)?;
    let CachedAttachment { network, conf, .. } = &attachment;
    for (key, text) in
        [("networkName", network), ("containerId", &conf.container_id), ("ifName", &conf.ifname)]
    {
        if text.is_empty() {
            return Err(content(format!("{key} is missing")));
        }
    }
    Ok(Some(Remembered { attachment, result: top.get("result").cloned() }))
}

fn document(list: &NetworkList, conf: &RuntimeConf, result: &Json) -> Json {
    let mut top = Object::default();
    top.push("kind", KIND);
    top.push("containerId", conf.container_id.as_str());
    top.push("config", BASE64.encode(list.bytes()));
    top.push("ifName", conf.ifname.as_str());
    top.push("networkName", list.name.as_str());
    if !conf.netns.is_empty() {
        top.push("netns", conf.netns.as_str());
    }
    if !conf.args.is_empty() {
        let pair = |(key, value): &(String, String)| Json::from(vec![key.as_str(), value.as_str()]);
        top.push("cniArgs", conf.args.iter().map(pair).collect::<Vec<Json>>());
    }
    if !conf.capability_args.is_empty() {
        top.push("capabilityArgs", conf.capability_args.clone());
    }
    top.push("result", result.clone());
    top.into()
}

fn decode(top: &Object) -> Result<CachedAttachment, String> {
    let text = |key: &str| match top.get(key) {
        None => Ok(String::new()),
        Some(Json::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("{key} is {}, not a string", other.kind())),
    };
    let capability_args = match top.get("capabilityArgs") {
        None => Object::default(),
        Some(Json::Object(args)) => args.clone(),
        Some(other) => return Err(format!("capabilityArgs is {}, not an object", other.kind())),
    };
    Ok(CachedAttachment {
        network: text("networkName")?,
        conf: RuntimeConf {
            container_id: text("containerId")?,
            netns: text("netns")?,
            ifname: text("ifName")?,
            args: decode_args(top)?,
            capability_args,
        },
        config: BASE64
            .decode(text("config")?)
            .map_err(|error| format!("config is no base64: {error}"))?,
    })
}

fn decode_args(top: &Object) -> Result<Vec<(String, String)>, String> {
    let pair = |item: &Json| match item.as_array() {
        Some([Json::String(key), Json::String(value)]) => Ok((key.clone(), value.clone())),
        _ => Err("cniArgs must hold pairs of strings".to_owned()),
    };
    match top.get("cniArgs") {
        None => Ok(Vec::new()),
        Some(Json::Array(items)) => items.iter().map(pair).collect(),
        Some(other) => Err(format!("cniArgs is {}, not a list", other.kind())),
    }
}

fn is_current(top: &Object) -> bool {
    top.get("kind").and_then(Json::as_str) == Some(KIND)
}

/// A cache file's object; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Object>, CacheError> {
    let bytes = match file::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CacheError::Io(path.to_owned(), error)),
    };
    let content = |reason| CacheError::Content(path.to_owned(), reason);
    match Json::parse(&bytes) {
        Ok(Json::Object(top)) => Ok(Some(top)),
        Ok(other) => Err(content(format!("it is {}, not an object", other.kind()))),
        Err(error) => Err(content(error.to_string())),
    }
}
