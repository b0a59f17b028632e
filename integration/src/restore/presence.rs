//! Whether the container of a cached attachment is still there, and where.
//!
//! A namespace's path proves little: `/proc/4711/ns/net` may be another process by now, and
//! `ip netns` gives a name again. Mapping a host port to an address that is somebody else's would
//! be worse than not mapping it.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_common::cni::protocol::CniResult;
use cni_common::kernel::mac;
use cni_common::kernel::netns::Netns;
use nix::ifaddrs::getifaddrs;

use crate::runner::RuntimeConf;

/// What a look at an attachment's namespace found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The interface that ADD made is in the namespace at this path.
    There(String),
    /// Not that one, and why one thinks so.
    Gone(String),
    /// It could not be looked at.
    Unknown(String),
}

/// An interface, or what is known of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Identity {
    mac: Option<String>,
    addresses: Vec<IpAddr>,
}

type Interfaces = HashMap<String, Identity>;

/// Where runtimes and `ip netns` keep namespaces.
const NAMED: &str = "/run/netns";

/// The namespaces that have a name on this host, looked into once and only if it is needed.
#[derive(Debug, Default)]
pub struct NamedNamespaces(OnceCell<Vec<(PathBuf, Interfaces)>>);

impl NamedNamespaces {
    /// The namespace whose interface has something in common with the remembered one.
    fn with(&self, ifname: &str, remembered: &Identity) -> Option<&Path> {
        let namespaces = self.0.get_or_init(|| {
            let files = std::fs::read_dir(NAMED).into_iter().flatten().flatten();
            files.filter_map(|file| Some((file.path(), interfaces_of(&file.path())?))).collect()
        });
        let has_it = |interfaces: &Interfaces| {
            interfaces.get(ifname).is_some_and(|found| shares_something(remembered, found))
        };
        let found = namespaces.iter().find(|(_, interfaces)| has_it(interfaces));
        found.map(|(path, _)| path.as_path())
    }
}

fn interfaces_of(path: &Path) -> Option<Interfaces> {
    Netns::open(path).ok()?.run(interfaces).ok()?.ok()
}

/// Looks into the attachment's namespace.
#[must_use]
pub fn look(conf: &RuntimeConf, result: &CniResult, named: &NamedNamespaces) -> Presence {
    let remembered = remembered(result, &conf.ifname);
    let Some(path) = netns_path(conf, result, &remembered, named) else {
        return Presence::Gone(format!(
            "the cache names no namespace, and none in {NAMED} has its interface"
        ));
    };
    let Ok(netns) = Netns::open(Path::new(&path)) else {
        return Presence::Gone(format!("there is no network namespace at {path}"));
    };
    match Netns::own() {
        Ok(own) if own.is(&netns) => {
            return Presence::Gone(format!("{path} is the host's own namespace now"));
        }
        Ok(_) => {}
        Err(error) => return Presence::Unknown(format!("cannot open our own namespace: {error}")),
    }
    let interfaces = match netns.run(interfaces).and_then(|found| found) {
        Ok(interfaces) => interfaces,
        Err(error) => {
            return Presence::Unknown(format!("cannot look into {path}: {error}; run it as root"));
        }
    };
    match interfaces.get(&conf.ifname) {
        None => Presence::Gone(format!("{path} has no interface {}", conf.ifname)),
        Some(found) if is_same(&remembered, found) => Presence::There(path),
        Some(_) => Presence::Gone(format!("{} in {path} is another container's", conf.ifname)),
    }
}

/// libcni keeps the path since 1.2, which containerd 1 and podman 4 do not have. Most main plugins
/// return it; Calico, for one, does not, but its container's address is to be found.
fn netns_path(
    conf: &RuntimeConf,
    result: &CniResult,
    remembered: &Identity,
    named: &NamedNamespaces,
) -> Option<String> {
    if !conf.netns.is_empty() {
        return Some(conf.netns.clone());
    }
    let own = result.interfaces.iter().filter(|interface| interface.name == conf.ifname);
    let mut sandboxes = own.filter_map(|interface| interface.sandbox.clone());
    sandboxes.find(|path| path.starts_with('/')).or_else(|| {
        let found = named.with(&conf.ifname, remembered)?;
        Some(found.to_str()?.to_owned())
    })
}

/// The interfaces in the calling thread's namespace.
fn interfaces() -> std::io::Result<Interfaces> {
    let mut found = Interfaces::new();
    for entry in getifaddrs()? {
        let identity = found.entry(entry.interface_name).or_default();
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            identity.mac = link.addr().map(|bytes| mac::text(&bytes));
        } else if let Some(v4) = address.as_sockaddr_in() {
            identity.addresses.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6()
            && !v6.ip().is_unicast_link_local()
        {
            identity.addresses.push(v6.ip().into());
        }
    }
    Ok(found)
}

/// The addresses that ADD gave the interface.
pub(crate) fn addresses(result: &CniResult, ifname: &str) -> Vec<IpAddr> {
    remembered(result, ifname).addresses
}

/// What ADD returned about the interface.
fn remembered(result: &CniResult, ifname: &str) -> Identity {
    let mut interfaces = result.interfaces.iter();
    let own = interfaces.find(|one| one.name == ifname && one.sandbox.is_some());
    let mac = own.and_then(|own| own.mac.as_ref()).map(|mac| mac.to_ascii_lowercase());
    let addresses = result.ips_of_interface(ifname).map(|ip| ip.address.addr()).collect();
    Identity { mac, addresses }
}

/// Whether the interface can be the one that is remembered. One in common is enough: a container
/// may change its MAC, and gVisor takes the addresses off the interface for itself.
fn is_same(remembered: &Identity, found: &Identity) -> bool {
    let can_tell = remembered.mac.is_some() && found.mac.is_some()
        || !remembered.addresses.is_empty() && !found.addresses.is_empty();
    shares_something(remembered, found) || !can_tell
}

fn shares_something(remembered: &Identity, found: &Identity) -> bool {
    remembered.addresses.iter().any(|address| found.addresses.contains(address))
        || remembered.mac.is_some() && remembered.mac == found.mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(mac: Option<&str>, addresses: &[&str]) -> Identity {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Identity { mac: mac.map(str::to_owned), addresses }
    }

    #[test]
    fn one_thing_in_common_is_enough() {
        let (mac, other) = (Some("02:00:00:00:00:01"), Some("02:00:00:00:00:02"));
        let web = identity(mac, &["10.0.0.2", "fd00::2"]);
        for (found, same) in [
            (identity(mac, &["10.0.0.2"]), true),
            (identity(other, &["fd00::2"]), true),
            // gVisor
            (identity(mac, &[]), true),
            (identity(other, &[]), false),
            (identity(other, &["10.0.0.3"]), false),
            (identity(mac, &["10.0.0.3"]), true),
        ] {
            assert_eq!(is_same(&web, &found), same, "{found:?}");
        }
        let calico = identity(None, &["10.0.0.2"]);
        assert!(is_same(&calico, &identity(other, &[])));
        assert!(!is_same(&calico, &identity(other, &["10.0.0.3"])));
        assert!(is_same(&identity(None, &[]), &identity(other, &["10.0.0.3"])));
    }

    #[test]
    fn the_hosts_end_is_not_the_container() {
        let text =
            br#"{"cniVersion":"1.0.0","interfaces":[{"name":"br0","mac":"0A:00:00:00:00:01"},
            {"name":"eth0","mac":"0A:00:00:00:00:02","sandbox":"/x"}],
            "ips":[{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.2/24","interface":1},
            {"address":"10.0.0.3/24"}]}"#;
        let json = cni_common::cni::protocol::json::Json::parse(text).expect("JSON");
        let result = CniResult::from_json(&json, cni_common::cni::protocol::CniVersion::V1_0_0);
        assert_eq!(
            remembered(&result.expect("a result"), "eth0"),
            identity(Some("0a:00:00:00:00:02"), &["10.0.0.2", "10.0.0.3"])
        );
    }

    #[test]
    fn a_path_that_the_cache_does_not_keep_is_in_the_result_or_found_by_address() {
        let web = identity(None, &["10.0.0.2"]);
        let namespace = |name: &str, ifname: &str, address: &str| {
            let interfaces = Interfaces::from([(ifname.to_owned(), identity(None, &[address]))]);
            (PathBuf::from(name), interfaces)
        };
        let named = NamedNamespaces::default();
        let all = vec![
            namespace("/run/netns/other", "eth0", "10.0.0.3"),
            namespace("/run/netns/second", "net1", "10.0.0.2"),
            namespace("/run/netns/web", "eth0", "10.0.0.2"),
        ];
        named.0.set(all).expect("it is empty");
        let mut conf = RuntimeConf { ifname: "eth0".to_owned(), ..RuntimeConf::default() };
        let mut result = CniResult::default();
        let path = |conf: &RuntimeConf, result: &CniResult| netns_path(conf, result, &web, &named);
        assert_eq!(path(&conf, &result).as_deref(), Some("/run/netns/web"));
        result.interfaces = vec![cni_common::cni::protocol::result::Interface {
            name: "eth0".to_owned(),
            sandbox: Some("/run/netns/told".to_owned()),
            ..Default::default()
        }];
        assert_eq!(path(&conf, &result).as_deref(), Some("/run/netns/told"));
        conf.netns = "/run/netns/kept".to_owned();
        assert_eq!(path(&conf, &result).as_deref(), Some("/run/netns/kept"));
    }

    #[test]
    fn what_is_gone() {
        let conf = |netns: &str| RuntimeConf {
            netns: netns.to_owned(),
            ifname: "eth0".to_owned(),
            ..RuntimeConf::default()
        };
        for netns in ["", "/does/not/exist", "/proc/self/ns/uts", "/proc/self/ns/net"] {
            let presence = look(&conf(netns), &CniResult::default(), &NamedNamespaces::default());
            assert!(matches!(presence, Presence::Gone(_)), "{netns}: {presence:?}");
        }
    }
}
