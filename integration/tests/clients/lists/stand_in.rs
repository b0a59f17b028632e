//! Stands in for the plugins that make the interfaces of clusters, and for those that come behind ours in
//! their lists: a real pair of veths, with a result of the shape that the plugin returns.
//!
//! It is found under the plugin's name. Addresses are of Debian's `host-local`, and flannel delegates to
//! Debian's `bridge`, as the real one does.

#![forbid(unsafe_code)]

use std::env;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use cni_testbox::{listed, sh};
use serde_json::{Value, json};

const VERSIONS: &str = r#"{"cniVersion":"1.0.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0"]}"#;
/// Where packets of the containers go, which is an address of no interface.
const GATEWAY: &str = "169.254.1.1";
const GATEWAY_V6: &str = "fe80::1";

fn main() -> ExitCode {
    let program = env::args().next().expect("a program has a name");
    let name = Path::new(&program).file_name().expect("a name").to_string_lossy().into_owned();
    let command = variable("CNI_COMMAND");
    if command == "VERSION" {
        print!("{VERSIONS}");
        return ExitCode::SUCCESS;
    }
    let mut stdin = String::new();
    std::io::stdin().read_to_string(&mut stdin).expect("stdin is text");
    let config: Value = serde_json::from_str(&stdin).expect("a configuration");
    if config.get("prevResult").is_some() && command == "ADD" {
        // Of whom stands behind another plugin that has made the interface.
        print!("{}", config["prevResult"]);
        return ExitCode::SUCCESS;
    }
    match (name.as_str(), command.as_str()) {
        ("flannel", "ADD" | "DEL") => delegate(&config),
        ("egress-cni" | "consul-cni", _) | (_, "CHECK") => ExitCode::SUCCESS,
        (_, "ADD") => add(&name, &config),
        _ => del(&name, &config),
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// As flannel: its own list names what it delegates to, and the node's subnet completes that.
fn delegate(config: &Value) -> ExitCode {
    let mut delegated = json!({
        "name": config["name"],
        "type": "bridge",
        "bridge": "cni0",
        "ipMasq": false,
        "isGateway": true,
        "mtu": 1450,
        "ipam": { "type": "host-local", "subnet": "10.244.0.0/24", "routes": [{ "dst": "10.244.0.0/16" }] },
    });
    if let Some(version) = config.get("cniVersion") {
        delegated["cniVersion"] = version.clone();
    }
    for (key, value) in config["delegate"].as_object().into_iter().flatten() {
        delegated[key] = value.clone();
    }
    let plugin = delegated["type"].as_str().expect("a plugin's name").to_owned();
    let (status, stdout) = call(&plugin, &delegated);
    print!("{stdout}");
    ExitCode::from(status)
}

/// Another plugin, with our environment.
fn call(plugin: &str, config: &Value) -> (u8, String) {
    let directory = variable("CNI_PATH");
    let mut child = Command::new(Path::new(&directory).join(plugin))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{plugin} in {directory}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(config.to_string().as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let status = output.status.code().and_then(|code| u8::try_from(code).ok());
    (status.unwrap_or(255), String::from_utf8(output.stdout).expect("text"))
}

/// `host-local` on a subnet of each family that the list asks for.
fn ipam(config: &Value) -> Value {
    let mut ranges = vec![json!([{ "subnet": "10.244.0.0/24" }])];
    if has_ipv6(config) {
        ranges.push(json!([{ "subnet": "fd00:10:244::/64" }]));
    }
    json!({ "cniVersion": "1.0.0", "name": config["name"], "ipam": { "type": "host-local", "ranges": ranges } })
}

fn has_ipv6(config: &Value) -> bool {
    config["ipam"]["assign_ipv6"] == "true"
}

/// The interface at the host's end, by the plugin's prefix and the container.
fn host_end(name: &str) -> String {
    let prefix = match name {
        "calico" | "terway" => "cali",
        "cilium-cni" => "lxc",
        "aws-cni" => "eni",
        "weave-net" => "vethwe",
        _ => "veth",
    };
    let id = variable("CNI_CONTAINERID");
    format!("{prefix}{}", id.get(..9).unwrap_or(&id))
}

fn add(name: &str, config: &Value) -> ExitCode {
    let (status, answer) = call("host-local", &ipam(config));
    assert_eq!(status, 0, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("a result");
    let assigned = answer["ips"].as_array().expect("addresses").iter();
    let addresses: Vec<String> = assigned
        .filter_map(|ip| ip["address"].as_str()?.split('/').next().map(str::to_owned))
        .collect();
    let netns = variable("CNI_NETNS");
    let container = netns.rsplit('/').next().expect("a name").to_owned();
    let (host, own) = (host_end(name), variable("CNI_IFNAME"));
    sh(&format!(
        "ip link add {host} type veth peer name {own} netns {container}
         ip link set {host} up
         ip -n {container} link set {own} up
         ip addr add {GATEWAY_V6}/64 dev {host} nodad"
    ));
    let mac = |namespace: &str, link: &str| {
        let options = if namespace.is_empty() { String::new() } else { format!("-n {namespace}") };
        listed(&format!("ip {options} -j link show {link}"))[0]["address"].clone()
    };
    let (host_mac, own_mac) = (mac("", &host), mac(&container, &own));
    for address in &addresses {
        if address.contains(':') {
            sh(&format!(
                "ip -n {container} addr add {address}/128 dev {own} nodad
                 ip -n {container} route add default via {GATEWAY_V6} dev {own}
                 ip route add {address}/128 dev {host}"
            ));
        } else {
            sh(&format!(
                "ip -n {container} addr add {address}/32 dev {own}
                 ip -n {container} route add {GATEWAY} dev {own} scope link
                 ip -n {container} neigh add {GATEWAY} lladdr {} dev {own} nud permanent
                 ip -n {container} route add default via {GATEWAY}
                 ip route add {address}/32 dev {host}",
                host_mac.as_str().expect("a MAC")
            ));
        }
    }
    let interfaces = interfaces(name, (&host, &host_mac), (&own, &own_mac), &netns);
    let version = config["cniVersion"].as_str().unwrap_or_default();
    println!("{}", result(version, &interfaces, &addresses));
    ExitCode::SUCCESS
}

/// What the plugin says that it has made.
fn interfaces(name: &str, host: (&str, &Value), own: (&str, &Value), netns: &str) -> Value {
    match name {
        // No interface of the container, and no address says of which interface it is.
        "calico" => json!([{ "name": host.0 }]),
        // The last one is none: what DEL wants to know is kept in it.
        "aws-cni" => json!([
            { "name": host.0 },
            { "name": own.0, "sandbox": netns },
            { "name": host.0.replace("eni", "dummy"), "mac": "0", "sandbox": "0" },
        ]),
        _ => json!([
            { "name": host.0, "mac": host.1 },
            { "name": own.0, "mac": own.1, "sandbox": netns },
        ]),
    }
}

fn result(version: &str, interfaces: &Value, addresses: &[String]) -> Value {
    let with_length = |address: &String| {
        let length = if address.contains(':') { 128 } else { 32 };
        format!("{address}/{length}")
    };
    if ["", "0.1.0", "0.2.0"].contains(&version) {
        let version = if version.is_empty() { "0.1.0" } else { version };
        return json!({ "cniVersion": version, "ip4": { "ip": with_length(&addresses[0]) }, "dns": {} });
    }
    let names_interfaces = interfaces.as_array().is_some_and(|all| all.len() > 1);
    let ips = addresses.iter().map(|address| {
        let mut ip = json!({ "address": with_length(address) });
        if names_interfaces {
            ip["interface"] = json!(1);
        }
        if version.starts_with("0.") {
            ip["version"] = json!(if address.contains(':') { "6" } else { "4" });
        }
        ip
    });
    json!({ "cniVersion": version, "interfaces": interfaces, "ips": ips.collect::<Value>(), "dns": {} })
}

fn del(name: &str, config: &Value) -> ExitCode {
    let host = host_end(name);
    sh(&format!("! ip link show {host} >/dev/null 2>&1 || ip link del {host}"));
    let (status, answer) = call("host-local", &ipam(config));
    print!("{answer}");
    ExitCode::from(status)
}
