//! What was put into conflists, remembered beside the plugins for uninstall.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::kernel::layout::Newer;

use super::durable::{Draft, sync_directory};
use super::entries::Insertion;

/// No runtime takes it for a plugin.
const NAME: &str = ".cni-chain-install.json";

/// The number of the file's layout. It rises whenever an older version would take it for something else.
const FORMAT: u32 = 1;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) conflists: Vec<AppendedTo>,
}

/// What was put into one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendedTo {
    /// As whoever installed saw it, who may have been in a container.
    pub(crate) file: PathBuf,
    pub(super) insertions: Vec<Insertion>,
}

impl AppendedTo {
    /// The plugins whose entries these are.
    pub(crate) fn plugins(&self) -> impl Iterator<Item = &str> {
        self.insertions.iter().map(|insertion| insertion.plugin.as_str())
    }
}

impl Record {
    /// That of a directory of plugins; empty if there is none.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        Self::parse(&text).with_context(|| format!("{} cannot be used", path.display()))
    }

    /// Writes it; without anything to remember, no file is there.
    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(NAME);
        let outcome = if self.conflists.is_empty() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                outcome => outcome,
            }
        } else {
            let text = self.to_json().to_pretty() + "\n";
            Draft::write(&path, text.as_bytes(), 0o644).and_then(Draft::place)
        };
        outcome
            .and_then(|()| sync_directory(dir))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Remembers what was put in, beside what an earlier call put into the same file.
    pub(crate) fn add(&mut self, appended: AppendedTo) {
        if appended.insertions.is_empty() {
            return;
        }
        match self.conflists.iter_mut().find(|known| known.file == appended.file) {
            None => self.conflists.push(appended),
            Some(known) => {
                // An entry that is put in again was taken out by somebody meanwhile.
                let is_new = |old: &Insertion| {
                    appended.insertions.iter().all(|new| new.plugin != old.plugin)
                };
                known.insertions.retain(is_new);
                known.insertions.extend(appended.insertions);
            }
        }
    }

    fn to_json(&self) -> Json {
        let insertion = |insertion: &Insertion| {
            let mut object = Object::default();
            object.push("plugin", insertion.plugin.as_str());
            object.push("text", insertion.text.as_str());
            Json::from(object)
        };
        let conflist = |appended: &AppendedTo| {
            let mut object = Object::default();
            object.push("file", appended.file.display().to_string());
            object.push("appended", appended.insertions.iter().map(insertion).collect::<Vec<_>>());
            Json::from(object)
        };
        let mut top = Object::default();
        top.push("format", u64::from(FORMAT));
        top.push("conflists", self.conflists.iter().map(conflist).collect::<Vec<_>>());
        top.into()
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let json = Json::parse(text)?;
        refuse_newer(&json)?;
        let conflists = list(&json, "conflists")?.iter().map(|conflist| {
            let insertions = list(conflist, "appended")?.iter().map(|insertion| {
                let (plugin, text) = (string(insertion, "plugin")?, string(insertion, "text")?);
                Ok(Insertion { plugin, text })
            });
            let insertions = insertions.collect::<anyhow::Result<_>>()?;
            Ok(AppendedTo { file: string(conflist, "file")?.into(), insertions })
        });
        Ok(Self { conflists: conflists.collect::<anyhow::Result<_>>()? })
    }
}

fn refuse_newer(json: &Json) -> anyhow::Result<()> {
    let format = json.as_object().and_then(|object| object.get("format"));
    let number = match format {
        Some(Json::Number(number)) => number.as_u64(),
        _ => None,
    };
    let number = number.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    Newer::refuse(number, FORMAT, || "it".to_owned()).context("upgrade cni-chain")
}

fn list<'a>(json: &'a Json, key: &str) -> anyhow::Result<&'a [Json]> {
    let list = json.as_object().and_then(|object| object.get(key)).and_then(Json::as_array);
    list.ok_or_else(|| anyhow!("{key} is no list"))
}

fn string(json: &Json, key: &str) -> anyhow::Result<String> {
    let text = json.as_object().and_then(|object| object.get(key)).and_then(Json::as_str);
    text.map(str::to_owned).ok_or_else(|| anyhow!("{key} is no string"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(file: &str, texts: &[(&str, &str)]) -> AppendedTo {
        let insertion = |(plugin, text): &(&str, &str)| Insertion {
            plugin: (*plugin).to_owned(),
            text: (*text).to_owned(),
        };
        AppendedTo { file: file.into(), insertions: texts.iter().map(insertion).collect() }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Record::read(dir.path()).expect("none"), Record::default());
        let mut record = Record::default();
        record.add(appended("/a", &[("portmap", ",\n\t{ \"type\": \"portmap\" }")]));
        record.add(appended("/b", &[]));
        record.add(appended("/a", &[("firewall", ", x")]));
        record.add(appended("/a", &[("firewall", ", y")]));
        record.write(dir.path()).expect("written");
        let read = Record::read(dir.path()).expect("read");
        assert_eq!(read, record);
        assert_eq!(read.conflists.len(), 1);
        let texts: Vec<&str> =
            read.conflists[0].insertions.iter().map(|i| i.text.as_str()).collect();
        assert_eq!(texts, [",\n\t{ \"type\": \"portmap\" }", ", y"]);
        Record::default().write(dir.path()).expect("removed");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0);
        assert!(Record::parse(b"{}").is_err() && Record::parse(b"{").is_err());
        let of = |format: u32| format!(r#"{{"format":{format},"conflists":[]}}"#);
        assert_eq!(Record::parse(of(1).as_bytes()).expect("today's"), Record::default());
        let error = Record::parse(of(2).as_bytes()).expect_err("a newer version's");
        assert!(format!("{error:#}").contains("layout 2"), "{error:#}");
    }
}
