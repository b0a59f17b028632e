//! `purge`: takes out everything of these plugins, attachment by attachment.
//!
//! The plugins are part of this program, so none needs to be installed any more. DEL goes by owner,
//! so what others own stays; GC then removes what was shared and serves nobody.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use anyhow::anyhow;
use cni_bandwidth::Bandwidth;
use cni_common::cni::log::Log;
use cni_common::cni::netns::OwnNetns;
use cni_common::cni::plugin::{AttachmentRequest, GcRequest, Plugin as _};
use cni_common::cni::protocol::json::Object;
use cni_common::cni::protocol::{CniError, CniResult, CniVersion, NetworkConfig};
use cni_common::cni::{Attachment, OwnerTag};
use cni_common::kernel::link::Links;
use cni_common::kernel::route::{Routes, interface_name};
use cni_common::kernel::sysctl::Sysctl;
use cni_firewall::Firewall;
use cni_portmap::Portmap;
use cni_tuning::Tuning;

use crate::runner::cache::Remembered;
use crate::runner::plugins::MetaPlugin;
use crate::runner::{Cache, CacheError, NetworkList, RuntimeConf, request};
use crate::show::{Attached, Container, Owner, Survey};

/// In which order an attachment loses what it has: against the usual chain.
const ORDER: [MetaPlugin; 4] =
    [MetaPlugin::Tuning, MetaPlugin::Bandwidth, MetaPlugin::Firewall, MetaPlugin::Portmap];

/// A name that no network has.
pub(crate) const NO_NETWORK: &str = "cni-chain-purge";

/// What is to go.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    All,
    Network(String),
    Container(String),
}

/// What is to be taken out.
pub(crate) struct Purge {
    scope: Scope,
    survey: Survey,
    remembered: HashMap<OwnerTag, Remembered>,
}

/// What one attachment loses.
pub(crate) struct Victim<'a> {
    attached: &'a Attached,
    /// How many host ports, limits, settings and admitted addresses.
    counts: [usize; 4],
}

impl Scope {
    fn has(&self, owner: &Owner) -> bool {
        match self {
            Self::All => true,
            Self::Network(network) => owner.network == *network,
            Self::Container(id) => owner.container_id == *id,
        }
    }
}

impl Purge {
    /// Looks what there is.
    pub(crate) fn look(cache: &Cache, scope: Scope) -> Result<Self, CacheError> {
        let mut survey = Survey::of(cache)?;
        survey.forget_unfulfilled();
        let mut remembered = HashMap::new();
        for entry in cache.entries()? {
            if let Ok(Some(found)) = entry.content {
                remembered.insert(attachment_of(&found).tag(), found);
            }
        }
        Ok(Self { scope, survey, remembered })
    }

    /// What could not be looked at.
    pub(crate) fn unreadable(&self) -> &[String] {
        &self.survey.unreadable
    }

    /// The attachments that lose something.
    pub(crate) fn victims(&self) -> Vec<Victim<'_>> {
        let in_scope = self.survey.attachments.iter().filter(|found| self.scope.has(&found.owner));
        let victims = in_scope.map(|attached| {
            let is = |owner: &Owner| *owner == attached.owner;
            let counts = [
                self.survey.ports.iter().filter(|found| is(&found.owner)).count(),
                self.survey.limits.iter().filter(|found| is(&found.owner)).count(),
                self.survey.tuned.iter().filter(|found| is(&found.owner)).count(),
                self.survey.admitted.iter().filter(|found| is(&found.owner)).count(),
            ];
            Victim { attached, counts }
        });
        victims.filter(|victim| victim.counts.iter().sum::<usize>() > 0).collect()
    }

    /// Takes out what an attachment has.
    pub(crate) fn remove(&self, victim: &Victim<'_>) -> Result<(), Vec<String>> {
        let outcomes = ORDER.map(|plugin| {
            let request = self.request(victim, plugin).map_err(|error| error.to_string())?;
            del(plugin, &request).map_err(|error| error.to_string())
        });
        let failures: Vec<String> = ORDER
            .iter()
            .zip(outcomes)
            .filter_map(|(plugin, outcome)| Some(format!("{plugin}: {}", outcome.err()?)))
            .collect();
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    fn request(
        &self,
        victim: &Victim<'_>,
        plugin: MetaPlugin,
    ) -> anyhow::Result<AttachmentRequest> {
        let Owner { network, container_id, ifname } = victim.attached.owner.clone();
        if [&network, &container_id].iter().any(|part| part.contains('~')) {
            return Err(anyhow!(
                "its name is too long to be read back from the kernel, and the cache does not know \
                 it; `cni-chain purge --all` removes it"
            ));
        }
        let attachment = Attachment { network, container_id, ifname };
        let found = self.remembered.get(&attachment.tag());
        let config = found.and_then(|found| as_added(found, plugin));
        let text = config.unwrap_or_else(|| bare_config(&attachment.network, plugin));
        Ok(AttachmentRequest {
            netns: match &victim.attached.container {
                Container::There => victim.attached.netns.clone(),
                _ => String::new(),
            },
            own_netns: OwnNetns::of_lasting_process(),
            args: found.map(|found| found.attachment.conf.cni_args()).unwrap_or_default(),
            config: NetworkConfig::from_stdin(text.as_bytes()).map_err(|error| anyhow!(error))?,
            log: Log::disabled(),
            attachment,
        })
    }

    /// Removes what was shared by what is gone now: `route_localnet` towards its containers, then
    /// tables and chains that serve nobody. What was done, and what failed.
    pub(crate) fn clean_up(&self, cache: &Cache) -> (Vec<String>, Vec<String>) {
        let mut failures = Vec::new();
        let done = match Survey::of(cache) {
            Ok(mut left) => {
                left.forget_unfulfilled();
                self.close_loopback(&left, &mut failures)
            }
            Err(error) => {
                failures.push(error.to_string());
                Vec::new()
            }
        };
        if matches!(self.scope, Scope::Container(_)) {
            return (done, failures);
        }
        let mut networks: BTreeSet<&str> =
            self.survey.attachments.iter().map(|found| found.owner.network.as_str()).collect();
        if let Scope::Network(network) = &self.scope {
            networks.retain(|name| name == network);
        } else {
            // Tables may stand empty.
            networks.insert(NO_NETWORK);
        }
        for network in networks {
            for plugin in ORDER {
                let outcome = gc_request(network, plugin).and_then(|request| gc(plugin, &request));
                failures.extend(outcome.err().map(|error| format!("{plugin}: {error}")));
            }
        }
        (done, failures)
    }

    /// Takes `route_localnet` back on the interfaces towards containers that had host ports, if none
    /// behind the same interface has any more; with everything, also on bridges without containers.
    fn close_loopback(&self, left: &Survey, failures: &mut Vec<String>) -> Vec<String> {
        let gone = self.survey.ports.iter().filter(|mapped| self.scope.has(&mapped.owner));
        let mut ways = interfaces_to(gone.map(|mapped| mapped.mapping.container));
        if matches!(self.scope, Scope::All) {
            match bridges_without_ports() {
                Ok(bridges) => ways.extend(bridges),
                Err(error) => failures.push(format!("cannot list the interfaces: {error}")),
            }
        }
        let needed = interfaces_to(left.ports.iter().map(|mapped| mapped.mapping.container));
        let mut done = Vec::new();
        for interface in ways.difference(&needed) {
            let sysctl = Sysctl::ipv4_conf(interface, "route_localnet");
            if sysctl.read().is_ok_and(|value| value == "1") {
                match sysctl.open().and_then(|mut file| file.write("0")) {
                    Ok(()) => done.push(format!("{} is 0 again", sysctl.path().display())),
                    Err(error) => failures.push(format!("{}: {error}", sysctl.path().display())),
                }
            }
        }
        done
    }
}

impl Victim<'_> {
    pub(crate) fn name(&self) -> String {
        self.attached.owner.to_string()
    }

    /// Whether its container goes on without what it loses.
    pub(crate) fn lives(&self) -> bool {
        !matches!(self.attached.container, Container::Gone(_))
    }

    /// Whether the cache knows it, and `restore` can give it back.
    pub(crate) fn is_remembered(&self) -> bool {
        self.attached.container != Container::Forgotten
    }

    /// As in `2 host ports, 1 limit`.
    pub(crate) fn losses(&self) -> String {
        let words = ["host port", "limit", "tuned setting", "admitted address"];
        let part = |(count, word): (usize, &str)| {
            let plural = match (count, word.ends_with('s')) {
                (1, _) => "",
                (_, true) => "es",
                (_, false) => "s",
            };
            (count > 0).then(|| format!("{count} {word}{plural}"))
        };
        let parts: Vec<String> = self.counts.into_iter().zip(words).filter_map(part).collect();
        parts.join(", ")
    }
}

fn attachment_of(found: &Remembered) -> Attachment {
    let RuntimeConf { container_id, ifname, .. } = &found.attachment.conf;
    Attachment {
        network: found.attachment.network.clone(),
        container_id: container_id.clone(),
        ifname: ifname.clone(),
    }
}

/// What ADD gave the plugin: it says where to look, for instance in which zone of firewalld.
fn as_added(found: &Remembered, plugin: MetaPlugin) -> Option<String> {
    let list: NetworkList = found.attachment.list().ok()?;
    let is_it = |plugin_type: &str| MetaPlugin::by_type(plugin_type) == Some(plugin);
    let entry = list.plugins.iter().find(|entry| is_it(&entry.plugin_type))?.clone();
    let list = list.raised_to(CniVersion::CURRENT);
    let result = CniResult::from_json(found.result.as_ref()?, CniVersion::V0_1_0).ok()?;
    let result = result.to_json(CniVersion::CURRENT).ok()?;
    Some(request::for_attachment(&list, &entry, Some(&result), &found.attachment.conf).to_string())
}

fn bare_config(network: &str, plugin: MetaPlugin) -> String {
    let mut config = Object::default();
    config.push("cniVersion", CniVersion::CURRENT.as_str());
    config.push("name", network);
    config.push("type", plugin.as_str());
    cni_common::cni::protocol::json::Json::from(config).to_string()
}

/// GC that is told of no attachment.
pub(crate) fn gc_request(network: &str, plugin: MetaPlugin) -> Result<GcRequest, CniError> {
    let config = NetworkConfig::from_stdin(bare_config(network, plugin).as_bytes())?;
    Ok(GcRequest { config, valid: Vec::new(), log: Log::disabled() })
}

fn del(plugin: MetaPlugin, request: &AttachmentRequest) -> Result<(), CniError> {
    match plugin {
        MetaPlugin::Portmap => Portmap.del(request),
        MetaPlugin::Bandwidth => Bandwidth.del(request),
        MetaPlugin::Tuning => Tuning.del(request),
        MetaPlugin::Firewall => Firewall.del(request),
    }
}

fn gc(plugin: MetaPlugin, request: &GcRequest) -> Result<(), CniError> {
    match plugin {
        MetaPlugin::Portmap => Portmap.gc(request),
        MetaPlugin::Bandwidth => Bandwidth.gc(request),
        MetaPlugin::Tuning => Tuning.gc(request),
        MetaPlugin::Firewall => Firewall.gc(request),
    }
}

/// Bridges whose containers are gone.
fn bridges_without_ports() -> anyhow::Result<Vec<String>> {
    let links = Links::open()?.all()?;
    let filled: BTreeSet<u32> = links.iter().filter_map(|link| link.controller).collect();
    let bridges = links.into_iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    Ok(bridges.filter(|link| !filled.contains(&link.index)).map(|link| link.name).collect())
}

/// The interfaces by which the host reaches IPv4 containers directly.
fn interfaces_to(addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<String> {
    let Ok(mut routes) = Routes::open() else { return BTreeSet::new() };
    let distinct: BTreeSet<IpAddr> = addresses.filter(IpAddr::is_ipv4).collect();
    let way = |address: IpAddr| {
        let route = routes.to(address).ok()??;
        let index = route.interface.filter(|_| !route.local && !route.via_gateway)?;
        interface_name(index).ok()
    };
    distinct.into_iter().filter_map(way).collect()
}
