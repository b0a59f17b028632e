//! Which host ports an attachment asks for: all of them, or first what newer attachments left and then
//! the rest, to wait for it.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::nft::L4Protocol;
use cni_portmap::Mapping;

/// What portmap asks the kernel for; two mappings with the same cannot both be.
pub(super) type Key = (bool, Option<IpAddr>, L4Protocol, u16);

/// An attachment's part of the host ports that it wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Allotment {
    /// What newer attachments left; `None` if that is all of it.
    pub(super) left: Option<Vec<Mapping>>,
    /// The keys of the rest, for which it waits.
    pub(super) lost: Vec<Key>,
    /// Whether whoever has the rest is restored as well, and comes first.
    pub(super) may_wait: bool,
    /// The tags of attachments that want some of it as well, and may have it in the kernel though they
    /// are older.
    pub(super) rivals: Vec<String>,
}

impl Allotment {
    /// Whether newer attachments have some of it.
    pub(super) fn is_partial(&self) -> bool {
        self.left.is_some()
    }

    /// Whether newer attachments have all of it.
    pub(super) fn is_nothing(&self) -> bool {
        self.left.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether the rest is to be claimed as well.
    pub(super) fn waits(&self) -> bool {
        self.is_partial() && self.may_wait
    }

    /// Whether CHECK's error says no more than that the rest is others'.
    pub(super) fn is_explained_by(&self, error: &CniError) -> bool {
        let (Some(left), Some(waits)) = (&self.left, cni_portmap::waiting_by(error)) else {
            return false;
        };
        !left.iter().any(waits)
    }

    /// portmap's request for all of it, the rest behind all that wait.
    pub(super) fn apply_waiting(mut request: Object) -> Object {
        request.set("onConflict", "wait");
        request
    }

    /// portmap's request for no more than is allotted.
    ///
    /// Who has a port all the same may be unknown to the cache, or was added this moment: ADD must not
    /// take it from them, and refuses.
    pub(super) fn apply(&self, mut request: Object) -> Object {
        if let Some(left) = &self.left {
            set_mappings(&mut request, left);
        }
        request.set("onConflict", "fail");
        request
    }

    /// The same, if ADD has refused because of one that is older by the cache.
    pub(super) fn apply_rightfully(&self, request: Object, refusal: &CniError) -> Option<Object> {
        let is_conflict = refusal.code.number() == ErrorCode::PortConflict.number();
        let owner = of_a_port(&refusal.msg).and_then(|what| what.rsplit_once(" attachment "));
        let is_rival = owner.is_some_and(|(_, tag)| self.rivals.iter().any(|rival| rival == tag));
        (is_conflict && is_rival).then(|| {
            let mut request = self.apply(request);
            request.set("onConflict", "replace");
            request
        })
    }

    /// Whether ADD would leave a mapping to its holder: one whom the cache does not know.
    pub(super) fn leaves(&self, mapping: &str, holder: &str) -> bool {
        let is_wanted =
            self.left.as_ref().is_none_or(|left| left.iter().any(|one| one.to_string() == mapping));
        is_wanted && !self.rivals.iter().any(|rival| rival == holder)
    }
}

/// The ports for which somebody was put behind all others: whoever waited behind that one has to come
/// behind it again.
#[derive(Debug, Default)]
pub(super) struct Moved(HashSet<Key>);

impl Moved {
    /// Whether an attachment waits for one of these.
    pub(super) fn concerns(&self, allotment: &Allotment) -> bool {
        allotment.waits() && allotment.lost.iter().any(|key| self.0.contains(key))
    }

    /// An attachment was put behind all others.
    pub(super) fn add(&mut self, allotment: &Allotment) {
        self.0.extend(&allotment.lost);
    }
}

/// Whose a port is, of a refusal that also advises.
pub(super) fn of_a_port(refusal: &str) -> Option<&str> {
    refusal.split_once(": delete that attachment").map(|(what, _)| what)
}

fn set_mappings(request: &mut Object, mappings: &[Mapping]) {
    let mut runtime = match request.get("runtimeConfig") {
        Some(Json::Object(runtime)) => runtime.clone(),
        _ => Object::default(),
    };
    runtime.set("portMappings", mappings.iter().map(mapping_entry).collect::<Vec<Json>>());
    request.set("runtimeConfig", runtime);
}

/// The entry that stands for a mapping in its own family only.
fn mapping_entry(mapping: &Mapping) -> Json {
    let any = if mapping.container.is_ipv4() { "0.0.0.0" } else { "::" };
    let mut entry = Object::default();
    entry.push("hostPort", u64::from(mapping.host_port));
    entry.push("containerPort", u64::from(mapping.container_port));
    entry.push("protocol", mapping.protocol.to_string());
    entry.push("hostIP", mapping.host_address.map_or(any.to_owned(), |a| a.to_string()));
    entry.into()
}

pub(super) fn key(mapping: &Mapping) -> Key {
    (mapping.container.is_ipv4(), mapping.host_address, mapping.protocol, mapping.host_port)
}
