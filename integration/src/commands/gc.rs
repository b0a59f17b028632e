//! `cni-chain gc`: removes what containers that are gone left behind.
//!
//! A container that is there loses nothing unless it is named. The plugins' own GC removes all that
//! it is not told to keep, so it runs only for a caller who says what is to be kept; otherwise every
//! attachment that is provably gone is deleted by its name.

use anyhow::bail;
use cni_common::cni::protocol::{CniResult, CniVersion};

use super::network::{Network, complete_id};
use super::{runner, say};
use crate::cli::GcOptions;
use crate::progress::Progress;
use crate::restore::presence::{self, NamedNamespaces, Presence};
use crate::runner::asking::Asked;
use crate::runner::cache::CacheEntry;
use crate::runner::{CachedAttachment, Runner, RuntimeConf, ValidAttachment};

/// How an attachment stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// The caller keeps it.
    Kept,
    /// The caller named it for deletion.
    Named,
    /// Its container is there.
    There,
    /// Its container is gone, and how one can tell.
    Gone(String),
    /// It cannot be told whether its container is there, and why.
    Unknown(String),
}

/// An attachment to the network, or a file of the cache that may be one's.
struct Found {
    name: String,
    entry: CacheEntry,
    attachment: Option<CachedAttachment>,
    standing: Standing,
}

/// One run.
struct Collection<'a> {
    runner: Runner,
    network: Network,
    keep: Vec<ValidAttachment>,
    delete: Vec<ValidAttachment>,
    options: &'a GcOptions,
    deleted: usize,
    kept: usize,
    failed: usize,
}

/// GC.
pub(super) fn gc(options: &GcOptions) -> anyhow::Result<()> {
    let runner = runner(&options.network);
    let network = Network::find(&options.network, &runner.cache())?;
    if network.list().is_some_and(|list| list.disable_gc) {
        return say(&format!("network {} has \"disableGC\": nothing is deleted", network.name));
    }
    let remembered = runner.cache().attachments(None)?;
    let complete = |named: &[ValidAttachment]| {
        let complete = |named: &ValidAttachment| {
            let id = complete_id(&named.container_id, &remembered, Some(&network.name))?;
            Ok(ValidAttachment { container_id: id, ifname: named.ifname.clone() })
        };
        named.iter().map(complete).collect::<anyhow::Result<Vec<_>>>()
    };
    let (keep, delete) = (complete(&options.keep)?, complete(&options.delete)?);
    Collection { runner, network, keep, delete, options, deleted: 0, kept: 0, failed: 0 }.run()
}

impl Collection<'_> {
    fn run(mut self) -> anyhow::Result<()> {
        let found = self.look()?;
        self.expect_all_named(&found)?;
        if self.is_told_what_is_valid() {
            expect_no_living_unkept(&found)?;
        }
        let mut progress = Progress::of(found.len());
        for found in &found {
            let line = self.carry_out(found);
            progress.hide();
            line.map_or(Ok(()), |line| say(&line))?;
            progress.step();
        }
        drop(progress);
        if self.is_told_what_is_valid() {
            self.ask_plugins()?;
        }
        self.conclude()
    }

    fn is_told_what_is_valid(&self) -> bool {
        self.options.keep_none || !self.options.keep.is_empty()
    }

    /// Every attachment to the network, the oldest first, and how it stands.
    fn look(&self) -> anyhow::Result<Vec<Found>> {
        let named_namespaces = NamedNamespaces::default();
        let mut all = Vec::new();
        for entry in self.runner.cache().entries()? {
            let (name, attachment, standing) = match &entry.content {
                Ok(Some(remembered)) if remembered.attachment.network == self.network.name => {
                    let attachment = remembered.attachment.clone();
                    let standing = self.standing(&attachment.conf, || {
                        let result = remembered.result.as_ref();
                        let result = result
                            .and_then(|json| CniResult::from_json(json, CniVersion::V0_1_0).ok());
                        let result = result.unwrap_or_default();
                        presence::look(&attachment.conf, &result, &named_namespaces)
                    });
                    (attachment.name(), Some(attachment), standing)
                }
                Err(error) if self.may_be_meant(&entry) => {
                    let standing = Standing::Unknown(error.to_string());
                    (entry.path.display().to_string(), None, standing)
                }
                _ => continue,
            };
            all.push(Found { name, entry, attachment, standing });
        }
        Ok(all)
    }

    fn standing(&self, conf: &RuntimeConf, look: impl FnOnce() -> Presence) -> Standing {
        let is_in = |named: &[ValidAttachment]| named.iter().any(|named| is(named, conf));
        if is_in(&self.keep) {
            return Standing::Kept;
        }
        match look() {
            Presence::Gone(why) => Standing::Gone(why),
            _ if is_in(&self.delete) => Standing::Named,
            Presence::There(_) => Standing::There,
            Presence::Unknown(why) => Standing::Unknown(why),
        }
    }

    /// Whether a file that cannot be read is, by its name, one of this network's.
    fn may_be_meant(&self, entry: &CacheEntry) -> bool {
        let file = entry.path.file_name().unwrap_or_default().to_string_lossy();
        file.starts_with(&format!("{}-", self.network.name))
    }

    fn expect_all_named(&self, found: &[Found]) -> anyhow::Result<()> {
        let is_there = |named: &ValidAttachment| {
            found.iter().flat_map(|found| &found.attachment).any(|found| is(named, &found.conf))
        };
        match self.delete.iter().find(|named| !is_there(named)) {
            None => Ok(()),
            Some(ValidAttachment { container_id, ifname }) => bail!(
                "--delete {container_id}/{ifname}: no such attachment to network {} is remembered in \
                 {}",
                self.network.name,
                self.runner.cache_dir.display()
            ),
        }
    }

    /// Returns what there is to tell.
    fn carry_out(&mut self, found: &Found) -> Option<String> {
        let why = match &found.standing {
            Standing::Kept | Standing::There => {
                self.kept += 1;
                return None;
            }
            Standing::Unknown(why) => {
                self.failed += 1;
                return Some(format!("{}: kept, but not looked at: {why}", found.name));
            }
            Standing::Gone(why) => why.as_str(),
            Standing::Named => "as asked, although its container is there",
        };
        let attachment = found.attachment.as_ref()?;
        if self.options.dry_run {
            self.deleted += 1;
            return Some(format!("{}: would delete: {why}", found.name));
        }
        // It may have been added again since.
        if !found.entry.is_current() {
            self.kept += 1;
            return Some(format!("{}: kept: it was deleted or added again meanwhile", found.name));
        }
        let outcome = self
            .network
            .list_for(attachment)
            .and_then(|list| Ok(self.runner.del(&list, &attachment.conf)?));
        Some(match outcome {
            Ok(()) => {
                self.deleted += 1;
                format!("{}: deleted: {why}", found.name)
            }
            Err(error) => {
                self.failed += 1;
                format!("{}: failed: {error:#}", found.name)
            }
        })
    }

    /// GC of each plugin. Ours understand it in every version; others' since 1.1.0.
    fn ask_plugins(&mut self) -> anyhow::Result<()> {
        let Some(list) = self.network.list().cloned() else {
            return say("the plugins were not asked: the network's configuration is not there");
        };
        for plugin in &list.plugins {
            let name = &plugin.plugin_type;
            let asked = Asked::of(plugin, &list, CniVersion::V1_1_0, &self.runner);
            let outcome = match asked {
                Ok(Asked::Not(why)) => {
                    say(&format!("{name}: not asked for what nobody remembers: {why}"))?;
                    continue;
                }
                Ok(_) if self.options.dry_run => {
                    say(&format!("{name}: would be asked to remove all that is not kept"))?;
                    continue;
                }
                Ok(Asked::As(list) | Asked::AsNewer(list)) => {
                    self.runner.ask_gc(&list, plugin, Some(&self.keep))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                self.failed += 1;
                say(&format!("{name}: failed: {error}"))?;
            }
        }
        Ok(())
    }

    fn conclude(self) -> anyhow::Result<()> {
        let counts = [
            (self.deleted, if self.options.dry_run { "to delete" } else { "deleted" }),
            (self.kept, "kept"),
            (self.failed, "failed"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
        let parts = if parts.is_empty() { "no attachments".to_owned() } else { parts.join(", ") };
        say(&format!("network {}: {parts}", self.network.name))?;
        match self.failed {
            0 => Ok(()),
            _ => bail!("not everything could be looked at or deleted; the lines above say why"),
        }
    }
}

/// The plugins remove all that is not kept, so one that was forgotten would lose everything.
fn expect_no_living_unkept(found: &[Found]) -> anyhow::Result<()> {
    let is_forgotten =
        |found: &&Found| matches!(found.standing, Standing::There | Standing::Unknown(_));
    let forgotten: Vec<&str> =
        found.iter().filter(is_forgotten).map(|found| found.name.as_str()).collect();
    if forgotten.is_empty() {
        return Ok(());
    }
    bail!(
        "nothing was deleted: {} not kept, and the container is there or may be; add --keep \
         CONTAINERID/IFNAME for each, or --delete CONTAINERID/IFNAME if it is to lose its \
         network: {}",
        if forgotten.len() == 1 { "an attachment is" } else { "attachments are" },
        forgotten.join(", ")
    )
}

fn is(named: &ValidAttachment, conf: &RuntimeConf) -> bool {
    named.container_id == conf.container_id && named.ifname == conf.ifname
}
