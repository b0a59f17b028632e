//! Containers on macvlan and ipvlan, as Debian's plugins of these names make them: on the host's uplink, without an end
//! on the host.

use std::path::Path;

use cni_testbox::{
    Attachment, Call, FAR_V4, GO_PLUGINS, HOST_V4, Network, TestBox, Transport, bandwidth, batch,
    both, cases, firewall, link, portmap, tuning,
};
use serde_json::json;

use crate::require_guest;

cases! {
    tuning_of_a_macvlan, ours;
    tuning_of_an_ipvlan, ours;
    a_limit_needs_an_end_on_the_host, ours;
    a_port_of_a_macvlan, ours;
    a_port_of_an_ipvlan, ours;
}

/// The host's own end of the uplink's network: macvlan and ipvlan keep a container from the uplink itself.
const SHIM_V4: &str = "198.51.100.3";

/// A container with an interface of this kind on the uplink, which serves as `id` on port 80.
fn on_uplink(b: &TestBox, kind: &str, id: &str, address: &str) -> Attachment {
    require_guest();
    let container = b.container(id);
    let mut attachment = Attachment {
        container,
        ifname: "eth0".to_owned(),
        network: Network::v4(1).named("uplink"),
        result: json!(null),
    };
    let mode = if kind == "macvlan" { "bridge" } else { "l2" };
    let call = Call::new(kind, "ADD", &attachment).env("CNI_PATH", GO_PLUGINS).keys(&json!({
        "master": "ext0",
        "mode": mode,
        "ipam": { "type": "static",
            "addresses": [{ "address": format!("{address}/24"), "gateway": SHIM_V4 }],
            "routes": [{ "dst": "0.0.0.0/0" }] },
    }));
    attachment.result = call.run_binary(&Path::new(GO_PLUGINS).join(kind)).expect_result();
    attachment.container.netns.serve(id, 80);
    attachment
}

/// Gives the host an interface like the containers', with routes to them: how a host reaches them at all.
fn shim(kind: &str, containers: &[&Attachment]) {
    let mode = if kind == "macvlan" { "bridge" } else { "l2" };
    batch(&[
        &format!("link add link ext0 name shim type {kind} mode {mode}"),
        &format!("addr add {SHIM_V4}/32 dev shim"),
        "link set shim up",
    ]);
    for container in containers {
        batch(&[&format!("route add {}/32 dev shim", container.v4())]);
    }
}

fn tuning_of_a_macvlan(b: &TestBox) {
    let web = on_uplink(b, "macvlan", "web", "198.51.100.50");
    let keys = json!({ "mtu": 1400, "mac": "c2:11:22:33:44:55", "promisc": true,
        "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" } });
    is_set_and_given_back(b, &web, &keys);
}

/// Its address is the uplink's.
fn tuning_of_an_ipvlan(b: &TestBox) {
    let web = on_uplink(b, "ipvlan", "web", "198.51.100.50");
    let keys = json!({ "mtu": 1400, "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" } });
    is_set_and_given_back(b, &web, &keys);
}

#[track_caller]
fn is_set_and_given_back(b: &TestBox, web: &Attachment, keys: &serde_json::Value) {
    let netns = &web.container.netns;
    let tuned = || {
        let link = link(&netns.name, "eth0").expect("the container's");
        ["address", "mtu", "promiscuity", "flags"].map(|key| link[key].clone())
    };
    let before = tuned();
    tuning("ADD", web).keys(keys).run(b).expect_result();
    let [mac, mtu, promiscuity, _] = tuned();
    assert_eq!(mtu, 1400);
    assert_eq!(mac, *keys.get("mac").unwrap_or(&before[0]));
    assert_eq!(promiscuity == 1, keys.get("promisc").is_some());
    assert_eq!(netns.read_sysctl("ipv4/conf/eth0/arp_filter"), "1");
    tuning("CHECK", web).keys(keys).run(b).expect_silence();
    tuning("DEL", web).keys(keys).run(b).expect_silence();
    assert_eq!(tuned(), before);
    assert_eq!(netns.read_sysctl("ipv4/conf/eth0/arp_filter"), "0");
}

fn a_limit_needs_an_end_on_the_host(b: &TestBox) {
    for (kind, address) in [("macvlan", "198.51.100.50"), ("ipvlan", "198.51.100.51")] {
        let web = on_uplink(b, kind, kind, address);
        let call = |command| bandwidth(command, &web).ingress(8_000_000, 80_000);
        let reason = format!("\"eth0\" is a {kind}, not a veth");
        call("ADD").run(b).expect_error_with(7, &[&reason]);
        call("DEL").run(b).expect_silence();
        // An uplink has one kind of them.
        web.container.netns.batch(&["link del eth0"]);
    }
}

fn a_port_of_a_macvlan(b: &TestBox) {
    port_on_uplink(b, "macvlan");
}

fn a_port_of_an_ipvlan(b: &TestBox) {
    port_on_uplink(b, "ipvlan");
}

/// From the uplink's own network, too: such a client would be answered past the host if it was not masqueraded, as a
/// container's neighbour is.
fn port_on_uplink(b: &TestBox, kind: &str) {
    let far = b.far();
    let web = on_uplink(b, kind, "web", "198.51.100.50");
    let neighbour = on_uplink(b, kind, "neighbour", "198.51.100.51");
    shim(kind, &[&web, &neighbour]);
    firewall("ADD", &web).run(b).expect_result();
    b.map(&web, &both(8080, 80));
    for transport in Transport::ALL {
        far.reach(transport, "203.0.113.1", 8080).by("web").seen_as(FAR_V4);
        b.out.reach(transport, HOST_V4, 8080).by("web").seen_as(SHIM_V4);
        for client in [&b.host, &neighbour.container.netns, &web.container.netns] {
            client.reach(transport, HOST_V4, 8080).by("web");
        }
    }
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
    firewall("CHECK", &web).run(b).expect_silence();
    b.unmap(&web, &both(8080, 80));
    firewall("DEL", &web).run(b).expect_silence();
    far.cannot_reach(Transport::Tcp, "203.0.113.1", 8080);
}
