//! Who reaches whom, on real packets: every flow under every policy, in both families. The table
//! in docs/firewall.md is this one.

use serde_json::{Value, json};

use cni_testbox::{
    Attachment, Firewalld, HOST_V4, HOST_V6, Implementation, Network, OUT_V4, OUT_V6, TestBox,
    Transport, cases, run, tcp, tool,
};

cases! {
    nftables_open, ours;
    nftables_same_bridge, ours;
    nftables_isolated, ours;
    nftables_isolated_with_br_netfilter, ours;
    iptables_open;
    iptables_same_bridge;
    iptables_isolated, backends;
    iptables_isolated_with_br_netfilter, backends;
    iptables_open_under_policy_drop;
    iptables_same_bridge_under_policy_drop;
    iptables_isolated_under_policy_drop, backends;
    firewalld_open, once;
    firewalld_same_bridge, once;
    firewalld_isolated, ours;
}

/// What the containers' networks ask for.
struct Keys {
    backend: &'static str,
    policy: &'static str,
}

impl Keys {
    fn json(&self) -> Value {
        json!({ "backend": self.backend, "ingressPolicy": self.policy })
    }

    fn open(&self) -> Value {
        json!({ "backend": self.backend })
    }
}

/// From whom to whom. `Web` is the container that the row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    OutsideToWeb,
    WebToOutside,
    OutsideToMappedPort,
    HostToWeb,
    WebToHost,
    HostToMappedPort,
    SameBridgeToWeb,
    SameBridgeToMappedPort,
    OtherBridgeToWeb,
    WebToOtherBridge,
    OtherBridgeToMappedPort,
    OtherBridgeToGateway,
    OpenBridgeToWeb,
    WebToOpenBridge,
    OpenBridgeToMappedPort,
    OpenBridgeToGateway,
}

/// A flow, in words, and what becomes of it: with our plugin under open, same-bridge and
/// isolated, and with the Go plugin under open and same-bridge (1.1.1 has no isolated). First
/// where the host forwards freely, then under a FORWARD policy of DROP.
struct Row {
    flow: Flow,
    words: &'static str,
    ours: [bool; 3],
    go: [bool; 2],
    ours_under_drop: [bool; 3],
    go_under_drop: [bool; 2],
    ours_beside_firewalld: [bool; 3],
    go_beside_firewalld: [bool; 2],
}

const fn row(
    flow: Flow,
    words: &'static str,
    (ours, go): Cells,
    (ours_under_drop, go_under_drop): Cells,
    (ours_beside_firewalld, go_beside_firewalld): Cells,
) -> Row {
    const fn three(cells: [u8; 3]) -> [bool; 3] {
        [cells[0] == 1, cells[1] == 1, cells[2] == 1]
    }
    const fn two(cells: [u8; 2]) -> [bool; 2] {
        [cells[0] == 1, cells[1] == 1]
    }
    Row {
        flow,
        words,
        ours: three(ours),
        go: two(go),
        ours_under_drop: three(ours_under_drop),
        go_under_drop: two(go_under_drop),
        ours_beside_firewalld: three(ours_beside_firewalld),
        go_beside_firewalld: two(go_beside_firewalld),
    }
}

type Cells = ([u8; 3], [u8; 2]);
const ALL: Cells = ([1, 1, 1], [1, 1]);
const NONE: Cells = ([0, 0, 0], [0, 0]);
const CLOSED: Cells = ([1, 0, 0], [1, 0]);

const MATRIX: [Row; 16] = [
    row(Flow::OutsideToWeb, "outside → container", ALL, NONE, NONE),
    row(Flow::WebToOutside, "container → outside", ALL, ALL, ALL),
    row(Flow::OutsideToMappedPort, "outside → mapped port", ALL, ([1, 1, 1], [0, 0]), ALL),
    row(Flow::HostToWeb, "host → container", ALL, ALL, ALL),
    row(Flow::WebToHost, "container → host", ALL, ALL, ALL),
    row(Flow::HostToMappedPort, "host → mapped port", ALL, ALL, ALL),
    row(
        Flow::SameBridgeToWeb,
        "same bridge → container",
        ([1, 1, 0], [1, 1]),
        ([1, 1, 0], [1, 1]),
        ([1, 1, 0], [1, 1]),
    ),
    row(Flow::SameBridgeToMappedPort, "same bridge → mapped port", ALL, ALL, ALL),
    row(Flow::OtherBridgeToWeb, "other bridge → container", CLOSED, CLOSED, CLOSED),
    row(Flow::WebToOtherBridge, "container → other bridge", CLOSED, CLOSED, CLOSED),
    row(
        Flow::OtherBridgeToMappedPort,
        "other bridge → mapped port",
        ([1, 1, 1], [1, 0]),
        ([1, 1, 1], [1, 0]),
        ([1, 1, 1], [1, 0]),
    ),
    row(
        Flow::OtherBridgeToGateway,
        "other bridge → gateway address",
        ([1, 0, 0], [1, 1]),
        ([1, 0, 0], [1, 1]),
        ([1, 0, 0], [1, 1]),
    ),
    row(
        Flow::OpenBridgeToWeb,
        "open bridge → container",
        ([1, 0, 0], [1, 1]),
        ([1, 0, 0], [1, 1]),
        ([1, 0, 0], [1, 1]),
    ),
    row(Flow::WebToOpenBridge, "container → open bridge", ALL, ALL, ALL),
    row(Flow::OpenBridgeToMappedPort, "open bridge → mapped port", ALL, ALL, ALL),
    row(
        Flow::OpenBridgeToGateway,
        "open bridge → gateway address",
        ([1, 0, 0], [1, 1]),
        ([1, 0, 0], [1, 1]),
        ([1, 0, 0], [1, 1]),
    ),
];

/// The containers of one measurement.
struct Scene<'a> {
    b: &'a TestBox,
    web: Attachment,
    neighbour: Attachment,
    other: Attachment,
    open: Attachment,
}

impl<'a> Scene<'a> {
    /// `web` and `neighbour` on one bridge, `other` on a second of the same policy, `open` on a
    /// third that lets everybody in; a server on the host and outside.
    fn set(b: &'a TestBox, keys: &Keys) -> Self {
        let first = Network::dual(1);
        let scene = Self {
            b,
            web: b.web(&first, "web"),
            neighbour: b.web(&first, "neighbour"),
            other: b.web(&Network::dual(2), "other"),
            open: b.web(&Network::dual(3), "open"),
        };
        b.host.serve("host", 80);
        b.out.serve("out", 80);
        for attachment in [&scene.web, &scene.neighbour, &scene.other] {
            b.admit(attachment, &keys.json());
        }
        b.admit(&scene.open, &keys.open());
        b.map(&scene.web, &[tcp(8080, 80)]);
        scene
    }

    /// Asserts one cell in both families.
    fn assert(&self, flow: Flow, passes: bool) {
        for v4 in [true, false] {
            let (from, address, port, server) = self.question(flow, v4);
            let asker = match from {
                From::Host => &self.b.host,
                From::Out => &self.b.out,
                From::Container(attachment) => &attachment.container.netns,
            };
            println!("{flow:?} to {address} {port}: expected {passes}");
            if passes {
                asker.reach(Transport::Tcp, &address, port).by(server);
            } else {
                asker.cannot_reach(Transport::Tcp, &address, port);
            }
        }
    }

    fn question(&self, flow: Flow, v4: bool) -> (From<'_>, String, u16, &'static str) {
        let of = |attachment: &Attachment| if v4 { attachment.v4() } else { attachment.v6() };
        let pick = |four: &str, six: &str| if v4 { four.to_owned() } else { six.to_owned() };
        let network = &self.web.network;
        let gateway = if v4 { network.gateway_v4() } else { network.gateway_v6() };
        let (host, out) = (pick(HOST_V4, HOST_V6), pick(OUT_V4, OUT_V6));
        let (web, neighbour) = (From::Container(&self.web), From::Container(&self.neighbour));
        let (other, open) = (From::Container(&self.other), From::Container(&self.open));
        match flow {
            Flow::OutsideToWeb => (From::Out, of(&self.web), 80, "web"),
            Flow::WebToOutside => (web, out, 80, "out"),
            Flow::OutsideToMappedPort => (From::Out, host, 8080, "web"),
            Flow::HostToWeb => (From::Host, of(&self.web), 80, "web"),
            Flow::WebToHost => (web, host, 80, "host"),
            Flow::HostToMappedPort => (From::Host, host, 8080, "web"),
            Flow::SameBridgeToWeb => (neighbour, of(&self.web), 80, "web"),
            Flow::SameBridgeToMappedPort => (neighbour, host, 8080, "web"),
            Flow::OtherBridgeToWeb => (other, of(&self.web), 80, "web"),
            Flow::WebToOtherBridge => (web, of(&self.other), 80, "other"),
            Flow::OtherBridgeToMappedPort => (other, host, 8080, "web"),
            Flow::OtherBridgeToGateway => (other, gateway, 80, "host"),
            Flow::OpenBridgeToWeb => (open, of(&self.web), 80, "web"),
            Flow::WebToOpenBridge => (web, of(&self.open), 80, "open"),
            Flow::OpenBridgeToMappedPort => (open, host, 8080, "web"),
            Flow::OpenBridgeToGateway => (open, gateway, 80, "host"),
        }
    }
}

enum From<'a> {
    Out,
    Host,
    Container(&'a Attachment),
}

/// What the host itself does to forwarded packets: nothing, drop by policy, or what firewalld's
/// default zone says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Free,
    Drops,
    Firewalld,
}

const OPEN: usize = 0;
const SAME_BRIDGE: usize = 1;
const ISOLATED: usize = 2;

fn measure(b: &TestBox, backend: &'static str, index: usize, host: Host) {
    let policy = ["open", "same-bridge", "isolated"][index];
    if host == Host::Drops {
        run(tool("iptables").args(["-P", "FORWARD", "DROP"]));
        run(tool("ip6tables").args(["-P", "FORWARD", "DROP"]));
    }
    let _firewalld = (host == Host::Firewalld).then(Firewalld::start);
    let scene = Scene::set(b, &Keys { backend, policy });
    for row in MATRIX {
        let passes = match (b.implementation, host) {
            (Implementation::Go, Host::Firewalld) => row.go_beside_firewalld[index],
            (Implementation::Go, Host::Free) => row.go[index],
            (Implementation::Go, Host::Drops) => row.go_under_drop[index],
            (_, Host::Free) => row.ours[index],
            (_, Host::Firewalld) => row.ours_beside_firewalld[index],
            (_, Host::Drops) => row.ours_under_drop[index],
        };
        scene.assert(row.flow, passes);
    }
}

fn nftables_open(b: &TestBox) {
    measure(b, "nftables", OPEN, Host::Free);
}

fn nftables_same_bridge(b: &TestBox) {
    measure(b, "nftables", SAME_BRIDGE, Host::Free);
}

fn nftables_isolated(b: &TestBox) {
    measure(b, "nftables", ISOLATED, Host::Free);
}

fn nftables_isolated_with_br_netfilter(b: &TestBox) {
    b.host.bridge_netfilter(true);
    measure(b, "nftables", ISOLATED, Host::Free);
}

fn iptables_open(b: &TestBox) {
    measure(b, "iptables", OPEN, Host::Free);
}

fn iptables_same_bridge(b: &TestBox) {
    measure(b, "iptables", SAME_BRIDGE, Host::Free);
}

fn iptables_isolated(b: &TestBox) {
    measure(b, "iptables", ISOLATED, Host::Free);
}

fn iptables_isolated_with_br_netfilter(b: &TestBox) {
    b.host.bridge_netfilter(true);
    measure(b, "iptables", ISOLATED, Host::Free);
}

fn iptables_open_under_policy_drop(b: &TestBox) {
    measure(b, "iptables", OPEN, Host::Drops);
}

fn iptables_same_bridge_under_policy_drop(b: &TestBox) {
    measure(b, "iptables", SAME_BRIDGE, Host::Drops);
}

fn iptables_isolated_under_policy_drop(b: &TestBox) {
    measure(b, "iptables", ISOLATED, Host::Drops);
}

fn firewalld_open(b: &TestBox) {
    measure(b, "firewalld", OPEN, Host::Firewalld);
}

fn firewalld_same_bridge(b: &TestBox) {
    measure(b, "firewalld", SAME_BRIDGE, Host::Firewalld);
}

fn firewalld_isolated(b: &TestBox) {
    measure(b, "firewalld", ISOLATED, Host::Firewalld);
}

/// The tables of docs/firewall.md.
fn document() -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (heading, ours, go) in [
        (
            "The host forwards freely (backends nftables and iptables)",
            (|row| row.ours) as fn(&Row) -> [bool; 3],
            (|row| row.go) as fn(&Row) -> [bool; 2],
        ),
        (
            "FORWARD policy DROP (backend iptables)",
            |row| row.ours_under_drop,
            |row| row.go_under_drop,
        ),
        (
            "firewalld with its shipped configuration (backend firewalld)",
            |row| row.ours_beside_firewalld,
            |row| row.go_beside_firewalld,
        ),
    ] {
        let _ = write!(
            text,
            "**{heading}**\n\n| | open | same-bridge | isolated | Go: open | Go: same-bridge |\n\
             |---|---|---|---|---|---|\n"
        );
        for row in &MATRIX {
            let cells = ours(row).into_iter().chain(go(row));
            let cells: Vec<_> = cells.map(|passes| if passes { "yes" } else { "no" }).collect();
            let _ = writeln!(text, "| {} | {} |", row.words, cells.join(" | "));
        }
        text.push('\n');
    }
    text
}

/// `cargo test -p cni-firewall --test behaviour documented -- --nocapture` prints what belongs there.
#[test]
fn the_documented_matrix_is_the_measured_one() {
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/firewall.md");
    let page = std::fs::read_to_string(PAGE).expect("docs/firewall.md");
    let (_, rest) = page.split_once("<!-- matrix -->\n").expect("the matrix begins");
    let (matrix, _) = rest.split_once("<!-- end of matrix -->").expect("the matrix ends");
    println!("{}", document());
    assert_eq!(matrix, document());
}
