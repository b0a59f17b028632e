//! Running attachments go to the plugins that were there before, with traffic flowing.
//!
//! Of each attachment that the cache remembers and of which ours has something, the Go plugin makes its
//! own, with the configuration and the result of its ADD, and then ours goes. The other plugin's later DEL
//! finds all that it looks for. What can be done only in one place is changed in place by our plugin.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use cni_bandwidth::Bandwidth;
use cni_common::cni::Attachment;
use cni_common::cni::hand_over::{HandOver, Hands};
use cni_common::cni::log::Log;
use cni_common::cni::netns::OwnNetns;
use cni_common::cni::plugin::AttachmentRequest;
use cni_common::cni::protocol::json::Json;
use cni_common::cni::protocol::{CniError, CniResult, CniVersion, NetworkConfig};
use cni_firewall::Firewall;
use cni_portmap::Portmap;
use cni_tuning::Tuning;

use crate::purge::{NO_NETWORK, gc_request};
use crate::restore::presence::{self, NamedNamespaces, Presence};
use crate::runner::cache::{CacheEntry, Remembered};
use crate::runner::plugins::MetaPlugin;
use crate::runner::{CacheError, NetworkList, PluginConf, Runner, RuntimeConf, exec, request};

/// One that hangs must not keep other attachments from changing hands.
const DEADLINE: Duration = Duration::from_mins(1);

/// How long a runtime's DEL may be under way without a sign of it.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// A running attachment of which ours has something.
pub(crate) struct Candidate {
    pub(crate) name: String,
    /// The cache's file, which DEL removes last.
    file: PathBuf,
    list: NetworkList,
    conf: RuntimeConf,
    result: Json,
    /// The entries of whose plugins ours has something, in the chain's order.
    parts: Vec<(MetaPlugin, PluginConf)>,
}

/// What there is to hand over, and what could not be looked at.
pub(crate) struct Survey {
    /// The newest first: of several that want a host port, ours leads it to the newest, and the Go
    /// plugin to the first.
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) unknown: Vec<String>,
}

impl Survey {
    /// Looks through the cache.
    pub(crate) fn of(runner: &Runner) -> Result<Self, CacheError> {
        let named = NamedNamespaces::default();
        let (mut candidates, mut unknown) = (Vec::new(), Vec::new());
        for entry in runner.cache().entries()?.into_iter().rev() {
            match Candidate::of(&entry, &named) {
                Ok(candidate) => {
                    candidates.extend(candidate.filter(|found| !found.parts.is_empty()));
                }
                Err(error) => unknown.push(format!("{}: {error:#}", entry.path.display())),
            }
        }
        Ok(Self { candidates, unknown })
    }
}

impl Candidate {
    /// `None` of what is no attachment, or whose container is gone.
    fn of(entry: &CacheEntry, named: &NamedNamespaces) -> anyhow::Result<Option<Self>> {
        let remembered = entry.content.as_ref().map_err(|error| anyhow!("{error}"))?;
        let Some(Remembered { attachment, result }) = remembered else { return Ok(None) };
        let list = attachment.list()?;
        let is_of_ours = |plugin: &PluginConf| MetaPlugin::by_type(&plugin.plugin_type).is_some();
        if !list.plugins.iter().any(is_of_ours) {
            return Ok(None);
        }
        let result = result.clone().context("it holds no result of ADD")?;
        let parsed = CniResult::from_json(&result, CniVersion::V0_1_0)?;
        let mut conf = attachment.conf.clone();
        match presence::look(&conf, &parsed, named) {
            Presence::There(netns) => conf.netns = netns,
            Presence::Gone(_) => return Ok(None),
            Presence::Unknown(why) => bail!(why),
        }
        let (name, file) = (attachment.name(), entry.path.clone());
        let mut found = Self { name, file, list, conf, result, parts: Vec::new() };
        for entry in found.list.plugins.clone() {
            let Some(plugin) = MetaPlugin::by_type(&entry.plugin_type) else { continue };
            if found.hands(plugin, &entry)?.ours {
                found.parts.push((plugin, entry));
            }
        }
        Ok(Some(found))
    }

    /// The network's name.
    pub(crate) fn network(&self) -> &str {
        &self.list.name
    }

    /// The plugins that have something of it.
    pub(crate) fn plugins(&self) -> Vec<MetaPlugin> {
        let mut plugins: Vec<MetaPlugin> = self.parts.iter().map(|(plugin, _)| *plugin).collect();
        plugins.dedup();
        plugins
    }

    /// Hands over all of it that can be; the error says what could not.
    pub(crate) fn hand_over(&self, runner: &Runner) -> Result<(), Vec<String>> {
        let runner = Runner { deadline: Some(DEADLINE), ..runner.clone() };
        let failures: Vec<String> = self
            .parts
            .iter()
            .filter_map(|(plugin, entry)| {
                let error = self.part(*plugin, entry, &runner).err()?;
                Some(format!("{plugin}: {error:#}"))
            })
            .collect();
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Whether its runtime has deleted it.
    pub(crate) fn is_deleted(&self) -> bool {
        !self.file.exists()
    }

    /// Takes back what the other plugins' ADD made after their DEL.
    pub(crate) fn take_back(&self, runner: &Runner) -> Result<(), Vec<String>> {
        let runner = Runner { deadline: Some(DEADLINE), ..runner.clone() };
        let result = self.result_in(&self.list.cni_version).ok();
        let made = self.parts.iter().rev().filter(|(plugin, _)| by_add(*plugin));
        let failures: Vec<String> = made
            .filter_map(|(plugin, entry)| {
                let del = runner.del_plugin(&self.list, entry, result.as_ref(), &self.conf);
                Some(format!("{plugin}: {}", del.err()?))
            })
            .collect();
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    fn part(&self, plugin: MetaPlugin, entry: &PluginConf, runner: &Runner) -> anyhow::Result<()> {
        let hands = self.hands(plugin, entry)?;
        if by_add(plugin) && !hands.go {
            let path = exec::find(&entry.plugin_type, &runner.plugin_dirs)?;
            if plugin.is_at(&path) {
                bail!("{} is still cni-chain's", path.display());
            }
            make_room(plugin, &self.request(entry)?)?;
            let result = self.result_in(&self.list.cni_version)?;
            runner.add_plugin(&self.list, entry, Some(&result), &self.conf)?;
        }
        Ok(let_go(plugin, &self.request(entry)?)?)
    }

    fn hands(&self, plugin: MetaPlugin, entry: &PluginConf) -> anyhow::Result<Hands> {
        Ok(hands(plugin, &self.request(entry)?)?)
    }

    /// What our plugin was given at ADD.
    fn request(&self, entry: &PluginConf) -> anyhow::Result<AttachmentRequest> {
        let list = self.list.raised_to(CniVersion::CURRENT);
        let result = self.result_in(CniVersion::CURRENT.as_str())?;
        let text = request::for_attachment(&list, entry, Some(&result), &self.conf).to_string();
        Ok(AttachmentRequest {
            attachment: Attachment {
                network: self.list.name.clone(),
                container_id: self.conf.container_id.clone(),
                ifname: self.conf.ifname.clone(),
            },
            netns: self.conf.netns.clone(),
            own_netns: OwnNetns::of_lasting_process(),
            args: self.conf.cni_args(),
            config: NetworkConfig::from_stdin(text.as_bytes())?,
            log: Log::disabled(),
        })
    }

    fn result_in(&self, version: &str) -> anyhow::Result<Json> {
        let target = match version {
            "" => CniVersion::V0_1_0,
            version => CniVersion::from_text(version)
                .with_context(|| format!("its list has the unknown version {version:?}"))?,
        };
        Ok(CniResult::from_json(&self.result, CniVersion::V0_1_0)?.to_json(target)?)
    }
}

/// Removes tables, chains and files that ours shared and nobody needs any more; what failed.
pub(crate) fn leave() -> Vec<String> {
    let outcomes = MetaPlugin::ALL.map(|plugin| {
        let outcome = gc_request(NO_NETWORK, plugin).and_then(|request| match plugin {
            MetaPlugin::Portmap => Portmap.leave(&request),
            MetaPlugin::Bandwidth => Bandwidth.leave(&request),
            MetaPlugin::Tuning => Tuning.leave(&request),
            MetaPlugin::Firewall => Firewall.leave(&request),
        });
        outcome.err().map(|error| format!("{plugin}: {error}"))
    });
    outcomes.into_iter().flatten().collect()
}

/// Whether the plugin that was there before has to run ADD.
pub(crate) fn by_add(plugin: MetaPlugin) -> bool {
    match plugin {
        MetaPlugin::Portmap => Portmap::GO_ADDS,
        MetaPlugin::Bandwidth => Bandwidth::GO_ADDS,
        MetaPlugin::Tuning => Tuning::GO_ADDS,
        MetaPlugin::Firewall => Firewall::GO_ADDS,
    }
}

fn hands(plugin: MetaPlugin, request: &AttachmentRequest) -> Result<Hands, CniError> {
    match plugin {
        MetaPlugin::Portmap => Portmap.hands(request),
        MetaPlugin::Bandwidth => Bandwidth.hands(request),
        MetaPlugin::Tuning => Tuning.hands(request),
        MetaPlugin::Firewall => Firewall.hands(request),
    }
}

fn make_room(plugin: MetaPlugin, request: &AttachmentRequest) -> Result<(), CniError> {
    match plugin {
        MetaPlugin::Portmap => Portmap.make_room(request),
        MetaPlugin::Bandwidth => Bandwidth.make_room(request),
        MetaPlugin::Tuning => Tuning.make_room(request),
        MetaPlugin::Firewall => Firewall.make_room(request),
    }
}

fn let_go(plugin: MetaPlugin, request: &AttachmentRequest) -> Result<(), CniError> {
    match plugin {
        MetaPlugin::Portmap => Portmap.let_go(request),
        MetaPlugin::Bandwidth => Bandwidth.let_go(request),
        MetaPlugin::Tuning => Tuning.let_go(request),
        MetaPlugin::Firewall => Firewall.let_go(request),
    }
}
