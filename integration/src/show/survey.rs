//! What there is on this host, with its owners: in the kernel, and in the cache.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use cni_common::cni::protocol::{CniResult, CniVersion};
use cni_portmap::Mapping;

use crate::restore::claimed_mappings;
use crate::restore::presence::{self, NamedNamespaces, Presence};
use crate::runner::cache::CacheEntry;
use crate::runner::{Cache, CacheError, CachedAttachment, RuntimeConf};

/// An attachment, as the tag on what it owns tells it. Over-long parts end in `~` and a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) network: String,
    pub(crate) container_id: String,
    pub(crate) ifname: String,
}

/// Whether the container of an attachment is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    There,
    Gone(String),
    Unknown(String),
    /// The kernel has something of it, and the cache does not know it.
    Forgotten,
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) owner: Owner,
    pub(crate) container: Container,
    pub(crate) netns: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// How a mapping stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The kernel has it, in this place.
    InForce(String),
    /// The kernel does not have it, though ADD was asked for it.
    Missing,
    /// The kernel leads the port to this owner.
    Waiting(Owner),
}

/// A mapping and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) mapping: Mapping,
    pub(crate) owner: Owner,
    pub(crate) standing: Standing,
}

/// A limit and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) owner: Owner,
    pub(crate) is_ingress: bool,
    /// Bits per second.
    pub(crate) rate: u64,
    pub(crate) interface: String,
    pub(crate) queue: &'static str,
}

/// A setting that DEL gives back, and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tuned {
    pub(crate) owner: Owner,
    pub(crate) setting: String,
    pub(crate) original: String,
}

/// An address that the firewall lets through, and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) owner: Owner,
    pub(crate) address: IpAddr,
    /// The kind of table that does it.
    pub(crate) place: String,
    /// The bridge and the policy that keep the owner apart.
    pub(crate) isolation: Option<(String, String)>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    pub(crate) attachments: Vec<Attached>,
    pub(crate) ports: Vec<Mapped>,
    pub(crate) limits: Vec<Limited>,
    pub(crate) tuned: Vec<Tuned>,
    pub(crate) admitted: Vec<Admitted>,
    /// What could not be read, and why.
    pub(crate) unreadable: Vec<String>,
}

impl Mapped {
    /// Whether packets are led by it.
    pub(crate) fn is_in_force(&self) -> bool {
        matches!(self.standing, Standing::InForce(_))
    }

    /// Where it begins and where it leads, for people.
    pub(crate) fn ends(&self) -> (String, String) {
        let mapping = &self.mapping;
        let host = mapping.host_address.map_or("*".to_owned(), |address| address.to_string());
        let container = SocketAddr::new(mapping.container, mapping.container_port).to_string();
        (format!("{host}:{}/{}", mapping.host_port, mapping.protocol), container)
    }
}

impl Owner {
    /// Reads a tag; `None` for a comment that is none.
    pub(crate) fn parse(tag: &str) -> Option<Self> {
        let mut parts = tag.split('/').map(str::to_owned);
        let (network, container_id, ifname) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then_some(Self { network, container_id, ifname })
    }

    fn of(attachment: &CachedAttachment) -> Option<Self> {
        let RuntimeConf { container_id, ifname, .. } = &attachment.conf;
        let attachment = cni_common::cni::Attachment {
            network: attachment.network.clone(),
            container_id: container_id.clone(),
            ifname: ifname.clone(),
        };
        Self::parse(attachment.tag().as_str())
    }
}

/// `network/containerID/ifname`
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}

impl Survey {
    /// Reads the kernel, and compares with what the cache says that ADD was asked for.
    pub(crate) fn of(cache: &Cache) -> Result<Self, CacheError> {
        let mut survey = Self::default();
        survey.read_kernel();
        let entries = cache.entries()?;
        survey.read_cache(&entries);
        survey.add_forgotten();
        survey.sort();
        Ok(survey)
    }

    fn read_kernel(&mut self) {
        let mut unreadable = Vec::new();
        let owner = |tag: &str| Owner::parse(tag);
        match cni_portmap::listing::installed() {
            Ok(found) => self.ports.extend(found.into_iter().filter_map(|found| {
                let standing = match found.held_by {
                    Some(holder) => Standing::Waiting(owner(&holder)?),
                    None => Standing::InForce(found.place),
                };
                Some(Mapped { mapping: found.mapping, owner: owner(&found.owner)?, standing })
            })),
            Err(error) => unreadable.push(error.to_string()),
        }
        match cni_firewall::listing::installed() {
            Ok(found) => self.admitted.extend(found.into_iter().filter_map(|found| {
                Some(Admitted {
                    owner: owner(&found.owner)?,
                    address: found.address,
                    place: found.place,
                    isolation: found.isolation,
                })
            })),
            Err(error) => unreadable.push(error.to_string()),
        }
        match cni_bandwidth::listing::installed() {
            Ok(found) => self.limits.extend(found.into_iter().filter_map(|found| {
                Some(Limited {
                    owner: owner(&found.owner)?,
                    is_ingress: found.is_ingress,
                    rate: found.rate,
                    interface: found.interface,
                    queue: found.queue,
                })
            })),
            Err(error) => unreadable.push(error.to_string()),
        }
        match cni_tuning::listing::installed() {
            Ok(found) => self.tuned.extend(found.into_iter().filter_map(|found| {
                let (setting, original) = (found.setting, found.original);
                Some(Tuned { owner: owner(&found.owner)?, setting, original })
            })),
            Err(error) => unreadable.push(error.to_string()),
        }
        self.unreadable.extend(unreadable);
    }

    fn read_cache(&mut self, entries: &[CacheEntry]) {
        let named = NamedNamespaces::default();
        let mut wanted: Vec<(Owner, Vec<Mapping>)> = Vec::new();
        for entry in entries {
            let remembered = match &entry.content {
                Ok(Some(remembered)) => remembered,
                Ok(None) => continue,
                Err(error) => {
                    self.unreadable.push(error.to_string());
                    continue;
                }
            };
            let attachment = &remembered.attachment;
            let Some(owner) = Owner::of(attachment) else { continue };
            let result = remembered.result.as_ref();
            let result =
                result.and_then(|json| CniResult::from_json(json, CniVersion::V0_1_0).ok());
            let result = result.unwrap_or_default();
            let (container, netns) = match presence::look(&attachment.conf, &result, &named) {
                Presence::There(netns) => (Container::There, netns),
                Presence::Gone(why) => (Container::Gone(why), attachment.conf.netns.clone()),
                Presence::Unknown(why) => (Container::Unknown(why), attachment.conf.netns.clone()),
            };
            if container == Container::There
                && let Ok(list) = attachment.list()
            {
                wanted.push((owner.clone(), claimed_mappings(&list, &attachment.conf, &result)));
            }
            let addresses = presence::addresses(&result, &attachment.conf.ifname);
            self.attachments.push(Attached { owner, container, netns, addresses });
        }
        self.add_unfulfilled(wanted);
    }

    /// Mappings that ADD was asked for and the kernel does not have.
    fn add_unfulfilled(&mut self, wanted: Vec<(Owner, Vec<Mapping>)>) {
        let key = |mapping: &Mapping| {
            let is_v4 = mapping.container.is_ipv4();
            (is_v4, mapping.host_address, mapping.protocol.number(), mapping.host_port)
        };
        let mut held: HashMap<_, Vec<&Owner>> = HashMap::new();
        let known: HashSet<_> =
            self.ports.iter().map(|mapped| (key(&mapped.mapping), &mapped.owner)).collect();
        for mapped in self.ports.iter().filter(|mapped| mapped.is_in_force()) {
            held.entry(key(&mapped.mapping)).or_default().push(&mapped.owner);
        }
        let mut unfulfilled = Vec::new();
        for (owner, mappings) in wanted {
            for mapping in mappings {
                let holders = held.get(&key(&mapping)).map_or(&[][..], Vec::as_slice);
                if known.contains(&(key(&mapping), &owner)) {
                    continue;
                }
                let standing = match holders.first() {
                    Some(holder) => Standing::Waiting((*holder).clone()),
                    None => Standing::Missing,
                };
                unfulfilled.push(Mapped { mapping, owner: owner.clone(), standing });
            }
        }
        self.ports.extend(unfulfilled);
    }

    /// Leaves of host ports only those that the kernel has.
    pub(crate) fn forget_unfulfilled(&mut self) {
        self.ports.retain(Mapped::is_in_force);
    }

    /// Owners in the kernel that the cache does not know.
    fn add_forgotten(&mut self) {
        let known: HashSet<&Owner> =
            self.attachments.iter().map(|attached| &attached.owner).collect();
        let forgotten: BTreeSet<Owner> =
            self.tags().filter(|owner| !known.contains(*owner)).cloned().collect();
        for owner in forgotten {
            let own = self.ports.iter().filter(|mapped| mapped.owner == owner);
            let addresses: BTreeSet<IpAddr> = own.map(|mapped| mapped.mapping.container).collect();
            self.attachments.push(Attached {
                owner,
                container: Container::Forgotten,
                netns: String::new(),
                addresses: addresses.into_iter().collect(),
            });
        }
    }

    /// The owners of everything but attachments, once for each thing.
    fn tags(&self) -> impl Iterator<Item = &Owner> {
        let ports = self.ports.iter().map(|mapped| &mapped.owner);
        let limits = self.limits.iter().map(|limited| &limited.owner);
        let tuned = self.tuned.iter().map(|tuned| &tuned.owner);
        let admitted = self.admitted.iter().map(|admitted| &admitted.owner);
        ports.chain(limits).chain(tuned).chain(admitted)
    }

    /// Every owner.
    pub(crate) fn owners(&self) -> Vec<Owner> {
        self.attachments.iter().map(|attached| attached.owner.clone()).collect()
    }

    /// Keeps what these owners have.
    pub(crate) fn retain(&mut self, is_kept: &dyn Fn(&Owner) -> bool) {
        self.attachments.retain(|attached| is_kept(&attached.owner));
        self.ports.retain(|mapped| is_kept(&mapped.owner));
        self.limits.retain(|limited| is_kept(&limited.owner));
        self.tuned.retain(|tuned| is_kept(&tuned.owner));
        self.admitted.retain(|admitted| is_kept(&admitted.owner));
    }

    /// Keeps of the rest only whose ports they are, and whether the firewall lets those through.
    pub(crate) fn keep_owners_of_ports(&mut self) {
        let owners: HashSet<Owner> = self.ports.iter().map(|mapped| mapped.owner.clone()).collect();
        self.attachments.retain(|attached| owners.contains(&attached.owner));
        self.admitted.retain(|admitted| owners.contains(&admitted.owner));
        self.limits.clear();
        self.tuned.clear();
    }

    fn sort(&mut self) {
        self.attachments.sort_by(|a, b| a.owner.cmp(&b.owner));
        self.ports.sort_by_cached_key(|mapped| {
            let mapping = &mapped.mapping;
            let host = (mapping.host_port, mapping.protocol.number(), mapping.host_address);
            (host, mapping.container, mapped.owner.clone())
        });
        self.limits.sort_by(|a, b| (&a.owner, a.is_ingress).cmp(&(&b.owner, b.is_ingress)));
        self.tuned.sort_by(|a, b| (&a.owner, &a.setting).cmp(&(&b.owner, &b.setting)));
        self.admitted.sort_by(|a, b| (a.address, &a.owner).cmp(&(b.address, &b.owner)));
    }

    /// Whether there is nothing to show.
    pub(crate) fn is_empty(&self) -> bool {
        self.attachments.is_empty() && self.ports.is_empty() && self.admitted.is_empty()
    }
}
