//! What the cases have in common: a node's plugins, its network, and what must not be left.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cni_testbox::{
    GO_PLUGINS, HOST_V4, HOST_V6, Implementation, Namespace, OUT_V4, TestBox, Transport, run, sh,
    tool,
};
use serde_json::{Value, json};

/// Where nodes have plugins and networks.
pub(crate) const PLUGINS: &str = "/opt/cni/bin";
pub(crate) const NETWORKS: &str = "/etc/cni/net.d";
pub(crate) const OURS: [&str; 4] = ["portmap", "bandwidth", "tuning", "firewall"];

/// Puts Debian's plugins into [`PLUGINS`], and the implementation's in the places of those that it
/// has; over others that are there.
pub(crate) fn put_plugins(implementation: Implementation) {
    let directory = Path::new(PLUGINS);
    fs::create_dir_all(directory).expect("a copy of /opt");
    for entry in fs::read_dir(GO_PLUGINS).expect("apt-get install containernetworking-plugins") {
        let plugin = entry.expect("an entry").path();
        let name = plugin.file_name().expect("a name").to_owned();
        let ours = OURS.iter().find(|ours| name == **ours);
        let target = ours.map_or(plugin, |ours| implementation.plugin(ours));
        let path = directory.join(&name);
        let _ = fs::remove_file(&path);
        symlink(target, path).expect("a new name");
    }
}

/// The network of the cases: dual stack, and all four plugins in the order in which most lists have
/// them.
pub(crate) fn network(b: &TestBox, version: &str) -> Value {
    let mut list = json!({ "cniVersion": version, "name": "podnet", "plugins": [
        { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
          "ipam": { "type": "host-local",
            "ranges": [[{ "subnet": "10.96.0.0/24" }], [{ "subnet": "fd00:96::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
        { "type": "bandwidth", "capabilities": { "bandwidth": true } },
        { "type": "tuning", "capabilities": { "mac": true }, "sysctl": { "net.core.somaxconn": "511" } },
        { "type": "firewall" },
    ]});
    if let Some(backend) = b.implementation.backend() {
        for entry in list["plugins"].as_array_mut().expect("a list") {
            if entry["type"] == "portmap" || entry["type"] == "firewall" {
                entry["backend"] = json!(backend);
            }
        }
    }
    list
}

/// Writes a network's list to where runtimes look for it.
pub(crate) fn configure(list: &Value) -> PathBuf {
    let name = list["name"].as_str().expect("a network has a name");
    fs::create_dir_all(NETWORKS).expect("the box's own file system");
    let path = Path::new(NETWORKS).join(format!("10-{name}.conflist"));
    // Renamed, so that no runtime reads half of it.
    let new = Path::new(NETWORKS).join("new");
    fs::write(&new, list.to_string()).expect("a new file");
    fs::rename(&new, &path).expect("a file of our own");
    path
}

/// A node that drops what nobody admits, as firewalls have it: what is forwarded shows that firewall has
/// admitted the container.
pub(crate) fn drop_what_is_forwarded(b: &TestBox) {
    if b.implementation.backend().is_some() {
        for program in ["iptables", "ip6tables"] {
            run(tool(program).args(["-P", "FORWARD", "DROP"]));
        }
    } else {
        b.nft("table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }");
    }
}

/// `cni-chain` as an administrator of a node runs it.
pub(crate) fn cni_chain(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cni-chain"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CNI_")) {
        command.env_remove(name);
    }
    command.args(arguments).env("CNI_PATH", PLUGINS).stdin(Stdio::null());
    command
}

/// A host port of a container that serves as `id` is served to everybody: outside, on the host and
/// its loopback, in the container itself, and in a neighbour.
#[track_caller]
pub(crate) fn is_served(b: &TestBox, id: &str, port: u16, own: &Namespace, neighbour: &Namespace) {
    for transport in Transport::ALL {
        for address in [HOST_V4, HOST_V6] {
            let seen = b.out.reach(transport, address, port).by(id);
            if address == HOST_V4 {
                seen.seen_as(OUT_V4);
            }
            for asker in [&b.host, own, neighbour] {
                asker.reach(transport, address, port).by(id);
            }
        }
        b.host.reach(transport, "127.0.0.1", port).by(id);
    }
}

/// All that the plugins and the runtime's cache hold.
pub(crate) fn everything(b: &TestBox) -> String {
    let mut text = b.state();
    let networks = entries("/var/lib/cni/networks");
    let networks = networks.iter().map(|name| format!("/var/lib/cni/networks/{name}"));
    for directory in networks.chain(["/var/lib/cni/results".to_owned()]) {
        let mut names = entries(&directory);
        // host-local's lock, and where it goes on, stay.
        names.retain(|name| !name.starts_with("last_reserved_ip") && name != "lock");
        let _ = writeln!(text, "{directory}: {names:?}");
    }
    text
}

fn entries(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// A namespace's interfaces go a while after it.
const GOING: Duration = Duration::from_secs(5);

/// There is what there was before. A difference is told line by line, so that it can be read.
#[track_caller]
pub(crate) fn nothing_is_left(b: &TestBox, before: &str) {
    let deadline = Instant::now() + GOING;
    let mut now = everything(b);
    while now != before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        now = everything(b);
    }
    let only = |these: &str, those: &str| {
        let missing = |line: &&str| !those.lines().any(|other| other == *line);
        these.lines().filter(missing).collect::<Vec<_>>().join("\n")
    };
    assert!(now == before, "left:\n{}\ngone:\n{}", only(&now, before), only(before, &now));
}

/// Deletes every rule of the host, as an administrator's script does.
pub(crate) fn flush(b: &TestBox) {
    run(tool("nft").args(["flush", "ruleset"]));
    if b.implementation == Implementation::IptablesLegacy {
        for program in ["iptables", "ip6tables"] {
            for table in ["nat", "filter", "raw"] {
                for what in ["-F", "-X"] {
                    run(tool(program).args(["-t", table, what]));
                }
            }
        }
    }
}

/// Loads the host's ruleset from what the tools list of it, as services do that keep one in a file.
pub(crate) fn reload(b: &TestBox) {
    if b.implementation.backend().is_none() {
        sh("{ echo 'flush ruleset'; nft list ruleset; } > /run/rules && nft -f /run/rules");
        return;
    }
    for program in ["iptables", "ip6tables"] {
        sh(&format!("{program}-save > /run/rules && {program}-restore < /run/rules"));
    }
}
