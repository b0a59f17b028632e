//! What `show` says: tables for people, JSON for programs. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cni_common::cni::protocol::json::{Json, Object};
use cni_portmap::Mapping;

use super::listeners::Listener;
use super::subject::Subject;
use super::survey::{
    Admitted, Attached, Container, Limited, Mapped, Owner, Standing, Survey, Tuned,
};
use super::translations::Translation;
use crate::terminal::{Cell, Row, Terminal, Tone};

/// All that is known of a subject.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) subject: Subject,
    pub(crate) survey: Survey,
    /// Programs of the host on the port that is asked about.
    pub(crate) listeners: Vec<Listener>,
    /// Rules of other programs about that port.
    pub(crate) translations: Vec<Translation>,
}

impl Report {
    /// The tables, each under its heading.
    pub(crate) fn text(&self, terminal: Terminal) -> String {
        let survey = &self.survey;
        let mut tables = vec![
            table(&["HOST PORT", "LEADS TO", "OWNER", "STATE"], &survey.ports, port),
            table(&["OWNER", "TRAFFIC", "LIMIT", "INTERFACE"], &survey.limits, limit),
            table(&["OWNER", "SETTING", "ORIGINAL"], &survey.tuned, tuned),
            table(&["ADMITTED", "OWNER", "BY", "ISOLATION"], &survey.admitted, admitted),
            table(&["ATTACHMENT", "ADDRESSES", "CONTAINER"], &survey.attachments, attachment),
            table(&["HOST PROGRAM", "LISTENS ON"], &self.listeners, listener),
            table(&["OTHER PROGRAM", "IN", "RULE"], &self.translations, translation),
        ];
        tables.retain(|rows| !rows.is_empty());
        // An ID is to look the same everywhere.
        let short = tables.iter().any(|rows| !terminal.has_room(rows));
        let mut sections: Vec<Vec<String>> =
            tables.iter().map(|rows| terminal.table(rows, short)).collect();
        if survey.is_empty() {
            sections.insert(0, vec![self.nothing()]);
        }
        let remarks: Vec<String> =
            self.remarks().iter().map(|text| terminal.paint(text, Tone::Odd)).collect();
        if !remarks.is_empty() {
            sections.push(remarks);
        }
        let sections: Vec<String> = sections.iter().map(|lines| lines.join("\n") + "\n").collect();
        sections.join("\n")
    }

    fn nothing(&self) -> String {
        match &self.subject {
            Subject::Everything => "No attachment of these plugins is on this host.".to_owned(),
            Subject::Port(port, None) => format!("No mapping has host port {port}."),
            Subject::Port(port, Some(protocol)) => {
                format!("No mapping has host port {port}/{protocol}.")
            }
            Subject::Address(address) => format!("Nothing here is about {address}."),
            Subject::Owners(text, _) => format!("Nothing of {text} is in force."),
        }
    }

    /// What a table's reader is to do.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.survey.ports.iter().any(|mapped| mapped.standing == Standing::Missing) {
            remarks.push("What is missing, `cni-chain restore` puts back.".to_owned());
        }
        let is_left = |attached: &Attached| matches!(attached.container, Container::Gone(_));
        if self.survey.attachments.iter().any(is_left) {
            remarks.push(
                "What is left of a container that is gone, `cni-chain gc NETWORK` deletes."
                    .to_owned(),
            );
        }
        if !self.listeners.is_empty() && !self.survey.ports.is_empty() {
            remarks.push(
                "A mapping takes a connection before a program of the host hears of it.".to_owned(),
            );
        }
        remarks
    }

    /// The same for programs; `docs/schema/show.json` describes it.
    pub(crate) fn json(&self) -> Json {
        let survey = &self.survey;
        let mut top = Object::default();
        top.push("ports", list(&survey.ports, port_json));
        top.push("limits", list(&survey.limits, limit_json));
        top.push("tuned", list(&survey.tuned, tuned_json));
        top.push("admitted", list(&survey.admitted, admitted_json));
        top.push("attachments", list(&survey.attachments, attachment_json));
        top.push("listeners", list(&self.listeners, listener_json));
        top.push("translations", list(&self.translations, translation_json));
        top.push("unreadable", survey.unreadable.clone());
        top.into()
    }
}

/// A heading and a row for each thing; nothing where there are none.
fn table<T>(head: &[&str], things: &[T], row: fn(&T) -> Row) -> Vec<Row> {
    if things.is_empty() {
        return Vec::new();
    }
    std::iter::once(Row::of(head, Tone::Heading)).chain(things.iter().map(row)).collect()
}

fn row(cells: Vec<Cell>, tone: Tone) -> Row {
    Row { cells, tone }
}

fn owner_cell(owner: &Owner) -> Cell {
    Cell::new(owner.to_string(), short(owner))
}

fn short(owner: &Owner) -> String {
    format!("{}/{}/{}", owner.network, short_id(owner), owner.ifname)
}

/// IDs are mostly 64 digits; their beginning is what other commands take, too.
fn short_id(owner: &Owner) -> String {
    const ENOUGH: usize = 12;
    let id = &owner.container_id;
    match id.char_indices().nth(ENOUGH) {
        Some((end, _)) if id.len() > ENOUGH + 1 => format!("{}…", &id[..end]),
        _ => id.clone(),
    }
}

fn port(mapped: &Mapped) -> Row {
    let Mapped { mapping, owner, standing } = mapped;
    let (state, tone) = match standing {
        Standing::InForce(place) => (Cell::from(format!("in {place}")), Tone::Plain),
        Standing::Missing => (Cell::from("missing".to_owned()), Tone::Bad),
        Standing::Waiting(holder) => {
            let words = |holder: &str| format!("waiting: {holder} has it");
            (Cell::new(words(&holder.to_string()), words(&short_id(holder))), Tone::Odd)
        }
    };
    let to = SocketAddr::new(mapping.container, mapping.container_port).to_string();
    row(vec![host_port(mapping).into(), to.into(), owner_cell(owner), state], tone)
}

/// As in `0.0.0.0:8080/tcp`.
fn host_port(mapping: &Mapping) -> String {
    let any: IpAddr = match mapping.container {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let address = SocketAddr::new(mapping.host_address.unwrap_or(any), mapping.host_port);
    format!("{address}/{}", mapping.protocol)
}

fn limit(limited: &Limited) -> Row {
    let direction = if limited.is_ingress { "ingress" } else { "egress" };
    let cells = vec![
        owner_cell(&limited.owner),
        direction.to_owned().into(),
        format!("{}{}", rate(limited.rate), queue(limited)).into(),
        limited.interface.clone().into(),
    ];
    row(cells, Tone::Plain)
}

/// Said of a queue that not every kernel has.
fn queue(limited: &Limited) -> String {
    if limited.queue == "fifo" { String::new() } else { format!(", {}", limited.queue) }
}

/// As in `1.5 Mbit/s`, in powers of ten.
fn rate(bits: u64) -> String {
    let (unit, name) = match bits {
        0..1_000 => (1, "bit/s"),
        1_000..1_000_000 => (1_000, "kbit/s"),
        1_000_000..1_000_000_000 => (1_000_000, "Mbit/s"),
        _ => (1_000_000_000, "Gbit/s"),
    };
    let (whole, tenth) = (bits / unit, bits % unit * 10 / unit);
    if tenth == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

fn tuned(tuned: &Tuned) -> Row {
    let cells =
        vec![owner_cell(&tuned.owner), tuned.setting.clone().into(), tuned.original.clone().into()];
    row(cells, Tone::Plain)
}

fn admitted(admitted: &Admitted) -> Row {
    let isolation = match &admitted.isolation {
        Some((bridge, policy)) => format!("{policy} on {bridge}"),
        None => "none".to_owned(),
    };
    let cells = vec![
        admitted.address.to_string().into(),
        owner_cell(&admitted.owner),
        admitted.place.clone().into(),
        isolation.into(),
    ];
    row(cells, Tone::Plain)
}

fn attachment(attached: &Attached) -> Row {
    let (state, tone) = match &attached.container {
        Container::There => (format!("in {}", attached.netns), Tone::Plain),
        Container::Gone(why) => (format!("gone: {why}"), Tone::Odd),
        Container::Unknown(why) => (format!("unknown: {why}"), Tone::Odd),
        Container::Forgotten => ("not in the cache".to_owned(), Tone::Odd),
    };
    let addresses: Vec<String> = attached.addresses.iter().map(IpAddr::to_string).collect();
    row(vec![owner_cell(&attached.owner), addresses.join(" ").into(), state.into()], tone)
}

fn listener(listener: &Listener) -> Row {
    let program = match &listener.program {
        Some((name, pid)) => format!("{name} (process {pid})"),
        None => "unknown".to_owned(),
    };
    let address = SocketAddr::new(listener.address, listener.port);
    row(vec![program.into(), format!("{address}/{}", listener.protocol).into()], Tone::Odd)
}

fn translation(translation: &Translation) -> Row {
    let program = translation.program.unwrap_or("unknown").to_owned();
    let cells =
        vec![program.into(), translation.place.clone().into(), translation.rule.clone().into()];
    row(cells, Tone::Odd)
}

fn list<T>(things: &[T], json: fn(&T) -> Object) -> Vec<Json> {
    things.iter().map(|thing| json(thing).into()).collect()
}

fn owner_json(owner: &Owner) -> Object {
    let mut object = Object::default();
    object.push("network", owner.network.as_str());
    object.push("containerID", owner.container_id.as_str());
    object.push("ifname", owner.ifname.as_str());
    object
}

fn port_json(mapped: &Mapped) -> Object {
    let Mapped { mapping, owner, standing } = mapped;
    let mut object = Object::default();
    if let Some(address) = mapping.host_address {
        object.push("hostAddress", address.to_string());
    }
    object.push("hostPort", u64::from(mapping.host_port));
    object.push("protocol", mapping.protocol.to_string());
    object.push("containerAddress", mapping.container.to_string());
    object.push("containerPort", u64::from(mapping.container_port));
    object.push("owner", owner_json(owner));
    match standing {
        Standing::InForce(place) => {
            object.push("state", "in force");
            object.push("place", place.as_str());
        }
        Standing::Missing => object.push("state", "missing"),
        Standing::Waiting(holder) => {
            object.push("state", "waiting");
            object.push("heldBy", owner_json(holder));
        }
    }
    object
}

fn limit_json(limited: &Limited) -> Object {
    let mut object = Object::default();
    object.push("owner", owner_json(&limited.owner));
    object.push("direction", if limited.is_ingress { "ingress" } else { "egress" });
    object.push("bitsPerSecond", limited.rate);
    object.push("queue", limited.queue);
    object.push("interface", limited.interface.as_str());
    object
}

fn tuned_json(tuned: &Tuned) -> Object {
    let mut object = Object::default();
    object.push("owner", owner_json(&tuned.owner));
    object.push("setting", tuned.setting.as_str());
    object.push("original", tuned.original.as_str());
    object
}

fn admitted_json(admitted: &Admitted) -> Object {
    let mut object = Object::default();
    object.push("owner", owner_json(&admitted.owner));
    object.push("address", admitted.address.to_string());
    object.push("place", admitted.place.as_str());
    if let Some((bridge, policy)) = &admitted.isolation {
        let mut isolation = Object::default();
        isolation.push("bridge", bridge.as_str());
        isolation.push("policy", policy.as_str());
        object.push("isolation", isolation);
    }
    object
}

fn attachment_json(attached: &Attached) -> Object {
    let mut object = owner_json(&attached.owner);
    let (state, reason) = match &attached.container {
        Container::There => ("there", None),
        Container::Gone(why) => ("gone", Some(why)),
        Container::Unknown(why) => ("unknown", Some(why)),
        Container::Forgotten => ("not in the cache", None),
    };
    object.push("container", state);
    if let Some(reason) = reason {
        object.push("reason", reason.as_str());
    }
    if !attached.netns.is_empty() {
        object.push("netns", attached.netns.as_str());
    }
    let addresses: Vec<String> = attached.addresses.iter().map(IpAddr::to_string).collect();
    object.push("addresses", addresses);
    object
}

fn listener_json(listener: &Listener) -> Object {
    let mut object = Object::default();
    object.push("protocol", listener.protocol.to_string());
    object.push("address", listener.address.to_string());
    object.push("port", u64::from(listener.port));
    if let Some((name, pid)) = &listener.program {
        object.push("program", name.as_str());
        object.push("pid", u64::from(*pid));
    }
    object
}

fn translation_json(translation: &Translation) -> Object {
    let mut object = Object::default();
    if let Some(program) = translation.program {
        object.push("program", program);
    }
    object.push("place", translation.place.as_str());
    object.push("rule", translation.rule.as_str());
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_common::kernel::nft::L4Protocol;

    const ID: &str = "3f2a9c1e77aa01bd9b51aa03f7d0e1c2b3a495867788990011223344556677aa";

    fn owner(id: &str) -> Owner {
        let (network, ifname) = ("podnet".to_owned(), "eth0".to_owned());
        Owner { network, container_id: id.to_owned(), ifname }
    }

    fn mapped(host_port: u16, container: &str, id: &str, standing: Standing) -> Mapped {
        let container = container.parse().expect("an address");
        let protocol = L4Protocol::Tcp;
        let mapping =
            Mapping { host_address: None, host_port, protocol, container, container_port: 80 };
        Mapped { mapping, owner: owner(id), standing }
    }

    fn report() -> Report {
        let in_force = || Standing::InForce("nftables".to_owned());
        let attached = |id: &str, address: &str, container| Attached {
            owner: owner(id),
            container,
            netns: "/run/netns/web".to_owned(),
            addresses: vec![address.parse().expect("an address")],
        };
        let gone = Container::Gone("there is no network namespace at /run/netns/db".to_owned());
        let survey = Survey {
            attachments: vec![
                attached(ID, "10.88.1.2", Container::There),
                attached("77aa01", "10.88.1.3", gone),
            ],
            ports: vec![
                mapped(8080, "10.88.1.2", ID, in_force()),
                mapped(8080, "10.88.1.3", "77aa01", Standing::Waiting(owner(ID))),
                mapped(8081, "fd88:1::2", ID, Standing::Missing),
            ],
            limits: vec![Limited {
                owner: owner(ID),
                is_ingress: false,
                rate: 1_500_000,
                interface: "bwp1".to_owned(),
                queue: "fifo",
            }],
            tuned: vec![Tuned {
                owner: owner(ID),
                setting: "mtu".to_owned(),
                original: "1500".to_owned(),
            }],
            admitted: vec![Admitted {
                owner: owner(ID),
                address: "10.88.1.2".parse().expect("an address"),
                place: "nftables".to_owned(),
                isolation: Some(("br1".to_owned(), "isolated".to_owned())),
            }],
            unreadable: Vec::new(),
        };
        let listeners = vec![Listener {
            protocol: L4Protocol::Tcp,
            address: "::".parse().expect("an address"),
            port: 8080,
            program: Some(("nginx".to_owned(), 4711)),
        }];
        let translations = vec![Translation {
            program: Some("docker"),
            place: "iptables-nft (IPv4)".to_owned(),
            rule: "DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination \
                   172.17.0.2:80"
                .to_owned(),
        }];
        Report { subject: Subject::Everything, survey, listeners, translations }
    }

    fn screen(width: Option<usize>) -> String {
        report().text(Terminal { width, colour: false })
    }

    #[test]
    fn on_80_columns() {
        insta::assert_snapshot!(screen(Some(80)));
        assert!(screen(Some(80)).lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn on_120_columns() {
        insta::assert_snapshot!(screen(Some(120)));
        assert!(screen(Some(120)).lines().all(|line| line.chars().count() <= 120));
    }

    #[test]
    fn without_a_terminal_nothing_is_shortened() {
        insta::assert_snapshot!(screen(None));
    }

    #[test]
    fn in_colour() {
        let text = report().text(Terminal { width: Some(120), colour: true });
        assert!(text.contains("\x1b[1;31m  [::]:8081/tcp"), "what is missing is red: {text}");
        assert!(text.contains("\x1b[33m  0.0.0.0:8080/tcp"), "what waits is yellow: {text}");
    }

    #[test]
    fn for_programs() {
        insta::assert_snapshot!(report().json().to_pretty());
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let nothing = |subject| {
            let (survey, listeners, translations) = (Survey::default(), Vec::new(), Vec::new());
            let report = Report { subject, survey, listeners, translations };
            report.text(Terminal { width: None, colour: false })
        };
        assert_eq!(nothing(Subject::Port(80, None)), "No mapping has host port 80.\n");
        assert_eq!(
            nothing(Subject::Everything),
            "No attachment of these plugins is on this host.\n"
        );
    }

    #[test]
    fn rates_in_words() {
        for (bits, text) in [
            (8, "8 bit/s"),
            (1_500, "1.5 kbit/s"),
            (20_000_000, "20 Mbit/s"),
            (2_500_000_000, "2.5 Gbit/s"),
        ] {
            assert_eq!(rate(bits), text);
        }
    }
}
