//! Network configuration lists: their rules, and how one is found by name in a directory.
//!
//! The rules are libcni's, with its asymmetries: the top level of a list is a plain map, whose
//! keys match exactly and in which `null` is a wrong type, while a plugin's entry is decoded as
//! every plugin decodes it, without regard to case.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cni_common::cni::protocol::environment::is_valid_name;
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::protocol::version::NumericVersion;
use cni_common::cni::protocol::{CniError, CniVersion, Field};
use cni_common::kernel::file;

/// A network: an ordered list of plugins under one name and one protocol version.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkList {
    /// The network's name. It is judged by ADD, not here.
    pub name: String,
    /// The version every plugin gets; empty means 0.1.0. See [`NetworkList::from_bytes`].
    pub cni_version: String,
    /// CHECK succeeds without running anything.
    pub disable_check: bool,
    /// GC succeeds without running anything.
    pub disable_gc: bool,
    /// The plugins in ADD's order.
    pub plugins: Vec<PluginConf>,
    only_inlined: bool,
    bytes: Vec<u8>,
}

/// One plugin's entry of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginConf {
    /// The plugin's file name.
    pub plugin_type: String,
    /// The entry's own `name`; empty for most.
    pub name: String,
    /// The capabilities that the entry declares `true`.
    pub capabilities: Vec<String>,
    /// The whole entry as it was written.
    pub object: Object,
}

/// Why a network could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// This directory is missing or holds no configuration.
    #[error("no net configurations found in {}", .0.display())]
    NoConfigs(PathBuf),
    /// No configuration has this name in this directory.
    #[error("no net configuration with name {0:?} in {dir}", dir = .1.display())]
    NotFound(String, PathBuf),
    /// This file or directory cannot be read.
    #[error("error reading {path}: {1}", path = .0.display())]
    Read(PathBuf, io::Error),
    /// The document is no valid list.
    #[error("error parsing configuration list: {0}")]
    List(String),
    /// The document is no valid plugin configuration.
    #[error("error parsing configuration: {0}")]
    Plugin(String),
    /// A list file without a single plugin.
    #[error("no plugin configs found")]
    NoPlugins,
    /// Any of the above, in this file.
    #[error("{path}: {1}", path = .0.display())]
    InFile(PathBuf, Box<ConfError>),
}

const LIST_EXTENSIONS: [&str; 1] = [".conflist"];
const SINGLE_EXTENSIONS: [&str; 2] = [".conf", ".json"];
/// In a network's own directory only these are read.
const INCLUDED_EXTENSIONS: [&str; 1] = [".conf"];

impl NetworkList {
    /// Parses a list.
    ///
    /// The effective version is the highest among `cniVersions` and `cniVersion` that is not
    /// newer than 1.1.0; without `cniVersions` it is `cniVersion`, whatever that says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ConfError> {
        Self::parse(bytes).map_err(ConfError::List)
    }

    /// Loads a file: a list, or one plugin's configuration that becomes a list of one.
    ///
    /// A `.conflist` is a list; under any other name the file is one if it has `plugins`. To a
    /// list belong the files `<directory>/<network name>/*.conf`, unless it says
    /// `loadOnlyInlinedPlugins`.
    pub fn from_file(path: &Path) -> Result<Self, ConfError> {
        let bytes = read(path)?;
        let is_list = has_extension(path, &LIST_EXTENSIONS)
            || Json::parse(&bytes).is_ok_and(|json| {
                json.as_object().is_some_and(|top| member(top, "plugins").is_some())
            });
        let list =
            if is_list { Self::parse_list_file(path, &bytes) } else { Self::parse_single(&bytes) };
        list.map_err(|error| in_file(path, error))
    }

    /// Finds the network called `name` in a directory: first among its `.conflist` files, then
    /// among its `.conf` and `.json` files, each in lexicographic order. A file that cannot be
    /// parsed ends the search, because it may be the one that was meant.
    pub fn load(dir: &Path, name: &str) -> Result<Self, ConfError> {
        let lists = files(dir, &LIST_EXTENSIONS)?;
        for path in &lists {
            let list =
                Self::parse_list_file(path, &read(path)?).map_err(|error| in_file(path, error))?;
            if list.name == name {
                return Ok(list);
            }
        }
        let singles = files(dir, &SINGLE_EXTENSIONS)?;
        for path in &singles {
            let list = Self::parse_single(&read(path)?).map_err(|error| in_file(path, error))?;
            if list.name == name {
                return Ok(list);
            }
        }
        if lists.is_empty() && singles.is_empty() {
            return Err(ConfError::NoConfigs(dir.to_owned()));
        }
        Err(ConfError::NotFound(name.to_owned(), dir.to_owned()))
    }

    /// The list's document, as the cache keeps it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the list's version is this one or newer. Its text may be no version.
    pub(crate) fn at_least(&self, version: CniVersion) -> Result<bool, String> {
        NumericVersion::parse(&self.cni_version).map(|number| number.at_least(version))
    }

    /// The same list, in a version that has the command asked about.
    pub(crate) fn raised_to(&self, version: CniVersion) -> Self {
        Self { cni_version: version.as_str().to_owned(), ..self.clone() }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let json = Json::parse(bytes).map_err(|error| error.to_string())?;
        let top = json
            .as_object()
            .ok_or_else(|| format!("the document is {}, not an object", json.kind()))?;
        let name = string(top, "name")?.ok_or("no name")?.to_owned();
        let only_inlined = flag(top, "loadOnlyInlinedPlugins")?;
        let plugins = match member(top, "plugins") {
            None if only_inlined => {
                return Err("`loadOnlyInlinedPlugins` is true, and no 'plugins' key".to_owned());
            }
            None => Vec::new(),
            Some(Json::Array(items)) if items.is_empty() => {
                return Err("no plugins in list".to_owned());
            }
            Some(Json::Array(items)) => inlined_plugins(items)?,
            Some(other) => return Err(wrong_type("plugins", "a list", other)),
        };
        Ok(Self {
            name,
            cni_version: effective_version(top)?,
            disable_check: flag(top, "disableCheck")?,
            disable_gc: flag(top, "disableGC")?,
            plugins,
            only_inlined,
            bytes: bytes.to_owned(),
        })
    }

    fn parse_list_file(path: &Path, bytes: &[u8]) -> Result<Self, ConfError> {
        let mut list = Self::from_bytes(bytes)?;
        // A name that ADD refuses anyway must not lead out of the directory.
        if !list.only_inlined && is_valid_name(&list.name) {
            let included = path.parent().unwrap_or(Path::new("")).join(&list.name);
            for path in files(&included, &INCLUDED_EXTENSIONS)? {
                let plugin =
                    PluginConf::parse(&read(&path)?).map_err(|error| in_file(&path, error))?;
                list.plugins.push(plugin);
            }
        }
        if list.plugins.is_empty() {
            return Err(ConfError::NoPlugins);
        }
        Ok(list)
    }

    /// One plugin's configuration, with the name and version of the list it becomes.
    fn parse_single(bytes: &[u8]) -> Result<Self, ConfError> {
        let plugin = PluginConf::parse(bytes)?;
        let cni_version =
            plugin.object.get("cniVersion").and_then(Json::as_str).unwrap_or_default().to_owned();
        let mut document = Object::default();
        document.push("name", plugin.name.as_str());
        document.push("cniVersion", cni_version.as_str());
        document.push("plugins", vec![Json::from(plugin.object.clone())]);
        Ok(Self {
            name: plugin.name.clone(),
            cni_version,
            disable_check: false,
            disable_gc: false,
            plugins: vec![plugin],
            only_inlined: true,
            bytes: Json::from(document).to_string().into_bytes(),
        })
    }
}

impl PluginConf {
    fn parse(bytes: &[u8]) -> Result<Self, ConfError> {
        let json = Json::parse(bytes).map_err(|error| ConfError::Plugin(error.to_string()))?;
        Self::from_json(&json).map_err(ConfError::Plugin)
    }

    /// Checks the fields that every plugin shares; the rest is the plugin's own business.
    fn from_json(json: &Json) -> Result<Self, String> {
        let Json::Object(object) = json else {
            return Err(format!(
                "a plugin's configuration must be an object, but is {}",
                json.kind()
            ));
        };
        let (plugin_type, name, capabilities) =
            common_fields(&Field::root(json)).map_err(|error| error.to_string())?;
        if plugin_type.is_empty() {
            return Err("missing 'type'".to_owned());
        }
        Ok(Self { plugin_type, name, capabilities, object: object.clone() })
    }
}

fn common_fields(root: &Field<'_>) -> Result<(String, String, Vec<String>), CniError> {
    let top = root.object()?.ok_or_else(|| root.expected("an object"))?;
    let text = |key| Ok(top.field(key).string()?.unwrap_or_default().to_owned());
    let ipam = top.field("ipam");
    if let Some(ipam) = ipam.object()? {
        ipam.field("type").string()?;
    }
    top.field("dns").object()?;
    top.field("cniVersion").string()?;
    let capabilities = top.field("capabilities");
    let declared = match capabilities.object()? {
        Some(fields) => enabled_capabilities(fields.members())?,
        None => Vec::new(),
    };
    Ok((text("type")?, text("name")?, declared))
}

fn enabled_capabilities(declared: &Object) -> Result<Vec<String>, CniError> {
    let mut enabled: Vec<String> = Vec::new();
    for (name, value) in declared.iter() {
        enabled.retain(|earlier| earlier != name);
        match value {
            Json::Bool(true) => enabled.push(name.to_owned()),
            Json::Bool(false) | Json::Null => {}
            other => {
                return Err(CniError::config(wrong_type(
                    &format!("capabilities.{name}"),
                    "true or false",
                    other,
                )));
            }
        }
    }
    Ok(enabled)
}

fn inlined_plugins(items: &[Json]) -> Result<Vec<PluginConf>, String> {
    let parse = |(index, item)| {
        PluginConf::from_json(item)
            .map_err(|reason| format!("failed to parse plugin config {index}: {reason}"))
    };
    items.iter().enumerate().map(parse).collect()
}

fn effective_version(top: &Object) -> Result<String, String> {
    let single = string(top, "cniVersion")?.unwrap_or_default();
    let Some(listed) = member(top, "cniVersions") else { return Ok(single.to_owned()) };
    let listed = listed.as_array().ok_or_else(|| wrong_type("cniVersions", "a list", listed))?;
    let mut candidates = Vec::new();
    for (index, item) in listed.iter().enumerate() {
        let key = format!("cniVersions[{index}]");
        let text = item.as_str().ok_or_else(|| wrong_type(&key, "a string", item))?;
        let number = NumericVersion::parse(text).map_err(|error| format!("{key}: {error}"))?;
        candidates.push((number, text));
    }
    if !single.is_empty() {
        let number =
            NumericVersion::parse(single).map_err(|error| format!("cniVersion: {error}"))?;
        candidates.push((number, single));
    }
    let newest = NumericVersion::parse(CniVersion::CURRENT.as_str())?;
    let best = candidates.into_iter().filter(|(number, _)| *number <= newest).max();
    Ok(best.map_or(single, |(_, text)| text).to_owned())
}

/// A switch: true or false, or either word in a string.
fn flag(top: &Object, key: &str) -> Result<bool, String> {
    match member(top, key) {
        None => Ok(false),
        Some(Json::Bool(value)) => Ok(*value),
        Some(Json::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Json::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(wrong_type(key, "true or false", other)),
    }
}

fn string<'a>(top: &'a Object, key: &str) -> Result<Option<&'a str>, String> {
    match member(top, key) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(key, "a string", other)),
    }
}

/// The last member with exactly this key, `null` included.
fn member<'a>(top: &'a Object, key: &str) -> Option<&'a Json> {
    top.iter().rev().find(|(candidate, _)| *candidate == key).map(|(_, value)| value)
}

fn wrong_type(key: &str, expected: &str, found: &Json) -> String {
    let found = match found {
        Json::String(text) => format!("{text:?}"),
        other => other.kind().to_owned(),
    };
    format!("{key} must be {expected}, but is {found}")
}

/// The directory's files with one of the extensions, sorted. A missing directory has none.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, ConfError> {
    let unreadable = |error| ConfError::Read(dir.to_owned(), error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let is_dir = entry.file_type().map_err(unreadable)?.is_dir();
        if !is_dir && has_extension(&entry.path(), extensions) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    extensions.iter().any(|extension| name.ends_with(extension.as_bytes()))
}

fn read(path: &Path) -> Result<Vec<u8>, ConfError> {
    file::read(path).map_err(|error| ConfError::Read(path.to_owned(), error))
}

fn in_file(path: &Path, error: ConfError) -> ConfError {
    match error {
        // These name a file already.
        ConfError::InFile(..) | ConfError::Read(..) => error,
        _ => ConfError::InFile(path.to_owned(), Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_count_are_the_last_word_and_true() {
        let list = NetworkList::from_bytes(
            br#"{"name":"n","plugins":[{"Type":"a",
                "Capabilities":{"x":true,"y":false,"z":true,"n":null,"z":false,"X":true}}]}"#,
        )
        .expect("valid");
        assert_eq!(list.plugins[0].plugin_type, "a");
        assert_eq!(list.plugins[0].capabilities, ["x", "X"]);
    }

    #[test]
    fn the_top_level_matches_keys_exactly() {
        let error = NetworkList::from_bytes(br#"{"Name":"n","plugins":[{"type":"a"}]}"#)
            .expect_err("no name");
        assert_eq!(error.to_string(), "error parsing configuration list: no name");
    }
}
