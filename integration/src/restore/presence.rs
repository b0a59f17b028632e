//! Whether the container of a cached attachment is still there.
//!
//! A namespace's path proves little: `/proc/4711/ns/net` may be another process by now, and
//! `ip netns` gives a name again. Mapping a host port to an address that is somebody else's would
//! be worse than not mapping it.

use std::net::IpAddr;
use std::path::Path;

use cni_common::netns::Netns;
use cni_common::protocol::CniResult;
use nix::ifaddrs::getifaddrs;

use crate::request::RuntimeConf;

/// What a look at an attachment's namespace found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The interface that ADD made.
    There,
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

/// Looks into the attachment's namespace.
#[must_use]
pub fn look(conf: &RuntimeConf, result: &CniResult) -> Presence {
    let path = conf.netns.as_str();
    if path.is_empty() {
        return Presence::Gone("the cache names no namespace".to_owned());
    }
    let Ok(netns) = Netns::open(Path::new(path)) else {
        return Presence::Gone(format!("there is no network namespace at {path}"));
    };
    match Netns::own() {
        Ok(own) if own.is(&netns) => {
            return Presence::Gone(format!("{path} is the host's own namespace now"));
        }
        Ok(_) => {}
        Err(error) => return Presence::Unknown(format!("cannot open our own namespace: {error}")),
    }
    let found = match netns.run(|| interface(&conf.ifname)).and_then(|found| found) {
        Ok(found) => found,
        Err(error) => {
            return Presence::Unknown(format!("cannot look into {path}: {error}; run it as root"));
        }
    };
    let Some(found) = found else {
        return Presence::Gone(format!("{path} has no interface {}", conf.ifname));
    };
    if is_same(&remembered(result, &conf.ifname), &found) {
        Presence::There
    } else {
        Presence::Gone(format!("{} in {path} is another container's", conf.ifname))
    }
}

/// The interface of that name in the calling thread's namespace.
fn interface(name: &str) -> std::io::Result<Option<Identity>> {
    let mut found: Option<Identity> = None;
    for entry in getifaddrs()?.filter(|entry| entry.interface_name == name) {
        let identity = found.get_or_insert_default();
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            identity.mac = link.addr().map(mac_text);
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

fn mac_text(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// What ADD returned about the interface.
fn remembered(result: &CniResult, ifname: &str) -> Identity {
    let is_it = |index: usize| {
        let interface = result.interfaces.get(index);
        interface.is_none_or(|interface| interface.name == ifname && interface.sandbox.is_some())
    };
    let belongs =
        |index: Option<i64>| index.and_then(|index| usize::try_from(index).ok()).is_none_or(is_it);
    let mac = (0..result.interfaces.len())
        .find(|index| is_it(*index))
        .and_then(|index| result.interfaces[index].mac.as_ref())
        .map(|mac| mac.to_ascii_lowercase());
    let ips = result.ips.iter().filter(|ip| belongs(ip.interface));
    Identity { mac, addresses: ips.map(|ip| ip.address.addr()).collect() }
}

/// Whether the interface can be the one that is remembered. One in common is enough: a container
/// may change its MAC, and gVisor takes the addresses off the interface for itself.
fn is_same(remembered: &Identity, found: &Identity) -> bool {
    if remembered.addresses.iter().any(|address| found.addresses.contains(address)) {
        return true;
    }
    match (&remembered.mac, &found.mac) {
        (Some(remembered), Some(found)) => remembered == found,
        _ => remembered.addresses.is_empty() || found.addresses.is_empty(),
    }
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
        let json = cni_common::protocol::json::Json::parse(text).expect("JSON");
        let result = CniResult::from_json(&json, cni_common::protocol::CniVersion::V1_0_0);
        assert_eq!(
            remembered(&result.expect("a result"), "eth0"),
            identity(Some("0a:00:00:00:00:02"), &["10.0.0.2", "10.0.0.3"])
        );
    }

    #[test]
    fn what_is_gone() {
        let conf = |netns: &str| RuntimeConf {
            netns: netns.to_owned(),
            ifname: "eth0".to_owned(),
            ..RuntimeConf::default()
        };
        for netns in ["", "/does/not/exist", "/proc/self/ns/uts", "/proc/self/ns/net"] {
            let presence = look(&conf(netns), &CniResult::default());
            assert!(matches!(presence, Presence::Gone(_)), "{netns}: {presence:?}");
        }
    }
}
