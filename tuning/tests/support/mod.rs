//! Calls of tuning, and what they are asked to change.

use std::fs;

use cni_testbox::{Call, Namespace, sh};
use serde_json::{Value, json};

pub(crate) const DATA_DIR: &str = "/run/cni/tuning";

/// Makes a container with an interface, whose other end on the host is `h<id>`.
pub(crate) fn container(id: &str, ifname: &str) {
    sh(&format!(
        "ip netns add {id} && ip link add h{id} type veth peer name {ifname} netns {id} \
         && ip link set h{id} up && ip -n {id} link set {ifname} up && ip -n {id} link set lo up"
    ));
}

/// A call for `eth0` of `c1`. The keys are JSON text that ends without a comma.
pub(crate) fn tuning(command: &str, keys: &str) -> Call {
    of("c1", "eth0", command, keys)
}

/// A call for an interface of a container.
pub(crate) fn of(id: &str, ifname: &str, command: &str, keys: &str) -> Call {
    let netns = format!("/run/netns/{id}");
    let call = Call::of_network("tuning", command, "net")
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", &netns)
        .env("CNI_IFNAME", ifname)
        .raw_keys(keys);
    if matches!(command, "GC" | "STATUS") {
        return call;
    }
    call.set("cniVersion", "1.0.0").set("prevResult", result("1.0.0", &netns, ifname))
}

/// What the plugin before tuning returned.
pub(crate) fn result(version: &str, netns: &str, ifname: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [
            { "name": ifname, "mac": "02:00:00:00:00:99", "mtu": 1500, "sandbox": netns }],
        "ips": [{ "version": "4", "address": "10.0.0.2/24", "interface": 0 }],
    })
}

/// The value of `/proc/sys/net/<path>` in a container.
pub(crate) fn sysctl(id: &str, path: &str) -> String {
    Namespace::named(id).read_sysctl(path)
}

/// MAC, MTU, queue length and the two modes of an interface, as `ip` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) mac: String,
    pub(crate) mtu: u64,
    pub(crate) qlen: u64,
    pub(crate) promisc: bool,
    pub(crate) allmulti: bool,
}

#[track_caller]
pub(crate) fn link(id: &str, ifname: &str) -> Link {
    let found = cni_testbox::link(id, ifname).expect("the interface");
    let flags = found["flags"].as_array().expect("flags");
    Link {
        mac: found["address"].as_str().expect("an address").to_owned(),
        mtu: found["mtu"].as_u64().expect("an MTU"),
        qlen: found["txqlen"].as_u64().unwrap_or(0),
        promisc: flags.contains(&"PROMISC".into()),
        allmulti: flags.contains(&"ALLMULTI".into()),
    }
}

/// The names in a directory, sorted; none if there is no such directory.
pub(crate) fn files(directory: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}
