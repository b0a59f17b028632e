//! What `explain` says: parts that each go to one program, for people and for programs. Pure.

use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::{Step, Surroundings};
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft;

use super::{Explained, Scene, Told};
use crate::runner::{NetworkList, RuntimeConf};
use crate::terminal::{Terminal, Tone, wrapped};

/// For people: whatever no program reads is a comment.
pub(crate) fn text(
    list: &NetworkList,
    conf: &RuntimeConf,
    scene: &Scene,
    all: &[Explained],
    terminal: Terminal,
) -> String {
    let mut page = Page { lines: Vec::new(), terminal };
    page.comment(
        &format!(
            "What ADD does for container {}, interface {}, of network {}, on a host that has nothing of these \
             plugins yet. Nothing was changed.",
            conf.container_id, conf.ifname, list.name
        ),
        Tone::Plain,
    );
    for explained in all {
        page.lines.push(String::new());
        page.entry(explained, scene, conf);
    }
    page.lines.join("\n") + "\n"
}

struct Page {
    lines: Vec<String>,
    terminal: Terminal,
}

impl Page {
    fn comment(&mut self, text: &str, tone: Tone) {
        let width = self.terminal.width.map_or(usize::MAX, |width| width.saturating_sub(2).max(20));
        let lines = wrapped(text, width);
        self.lines.extend(lines.iter().map(|line| self.terminal.paint(&format!("# {line}"), tone)));
    }

    fn entry(&mut self, explained: &Explained, scene: &Scene, conf: &RuntimeConf) {
        let entry = &explained.entry;
        match &explained.told {
            Told::Done(_) => self.comment(entry, Tone::Heading),
            Told::Given => {
                self.comment(entry, Tone::Heading);
                self.comment(&given(scene), Tone::Plain);
            }
            Told::Unknown => {
                self.comment(entry, Tone::Heading);
                self.comment("not one of cni-chain's: what it does is not known here", Tone::Plain);
            }
            Told::Refused(error) => {
                self.comment(entry, Tone::Heading);
                self.comment(&format!("ADD would fail: {}", words(error)), Tone::Bad);
            }
        }
        for warning in &explained.warnings {
            self.comment(&format!("warning: {warning}"), Tone::Odd);
        }
        let Told::Done(explanation) = &explained.told else { return };
        for step in &explanation.steps {
            self.step(step, conf);
        }
    }

    fn step(&mut self, step: &Step, conf: &RuntimeConf) {
        let Part { program, place, input } = match part(step) {
            Ok(part) => part,
            Err(note) => return self.comment(note, Tone::Plain),
        };
        let by = match place {
            Place::Host => format!("by {program}:"),
            Place::Container => {
                format!(
                    "by {program}, in the container's namespace (nsenter --net={}):",
                    conf.netns
                )
            }
        };
        self.comment(&by, Tone::Plain);
        self.lines.extend(input.lines().map(str::to_owned));
    }
}

/// What one program is given.
struct Part {
    program: &'static str,
    place: Place,
    input: String,
}

/// Where it runs.
#[derive(Clone, Copy)]
enum Place {
    Host,
    Container,
}

/// A step as input of a program; the error is a step that no program does.
fn part(step: &Step) -> Result<Part, &str> {
    let shell = |lines: &[String]| lines.join("\n") + "\n";
    let (program, place, input) = match step {
        Step::Nft(transaction) => ("nft -f", Place::Host, nft::text::render(transaction)),
        Step::Restore(IpVersion::V4, input) => {
            ("iptables-restore --noflush", Place::Host, input.clone())
        }
        Step::Restore(IpVersion::V6, input) => {
            ("ip6tables-restore --noflush", Place::Host, input.clone())
        }
        Step::OnHost(lines) => ("sh", Place::Host, shell(lines)),
        Step::InContainer(lines) => ("sh", Place::Container, shell(lines)),
        Step::Note(text) => return Err(text),
    };
    Ok(Part { program, place, input })
}

fn given(scene: &Scene) -> String {
    let Surroundings { bridge, host_end, .. } = &scene.around;
    let addresses: Vec<String> =
        scene.result.ips_of_container().map(|ip| ip.address.to_string()).collect();
    let on = |what: &str, name: &Option<String>| {
        name.as_ref().map(|name| format!(", {what} {name}")).unwrap_or_default()
    };
    let source = if scene.is_example {
        "an example (--prev-result takes a real one)"
    } else {
        "as prevResult says"
    };
    format!(
        "it makes the interface, which is taken for granted: {source}: {}{}{}",
        if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") },
        on("bridge", bridge),
        on("host's end", host_end)
    )
}

fn words(error: &cni_common::cni::protocol::CniError) -> String {
    let details = &error.details;
    if details.is_empty() { error.msg.clone() } else { format!("{}: {details}", error.msg) }
}

/// The same for programs; `docs/schema/explain.json` describes it.
pub(crate) fn json(
    list: &NetworkList,
    conf: &RuntimeConf,
    scene: &Scene,
    all: &[Explained],
) -> Json {
    let mut top = Object::default();
    top.push("network", list.name.as_str());
    top.push("containerID", conf.container_id.as_str());
    top.push("ifname", conf.ifname.as_str());
    top.push("isExample", scene.is_example);
    top.push("plugins", all.iter().map(entry_json).collect::<Vec<_>>());
    top.into()
}

fn entry_json(explained: &Explained) -> Json {
    let mut object = Object::default();
    object.push("entry", explained.entry.as_str());
    let outcome = match &explained.told {
        Told::Done(_) => "explained",
        Told::Refused(_) => "refused",
        Told::Given => "given",
        Told::Unknown => "unknown",
    };
    object.push("outcome", outcome);
    if let Told::Refused(error) = &explained.told {
        object.push("error", words(error));
    }
    object.push("warnings", explained.warnings.clone());
    let steps = match &explained.told {
        Told::Done(explanation) => explanation.steps.iter().map(step_json).collect(),
        _ => Vec::new(),
    };
    object.push("steps", steps);
    object.into()
}

fn step_json(step: &Step) -> Json {
    let mut object = Object::default();
    match part(step) {
        Err(note) => object.push("note", note),
        Ok(Part { program, place, input }) => {
            object.push("program", program);
            let place = match place {
                Place::Host => "host",
                Place::Container => "container",
            };
            object.push("place", place);
            object.push("input", input);
        }
    }
    if let Step::Nft(transaction) = step {
        // The tree of answers is another than serde's.
        let json = nft::json::render(transaction);
        if let Ok(commands) = Json::parse(json["nftables"].to_string().as_bytes()) {
            object.push("nftables", commands);
        }
        if nft::json::needs_newer_nft(transaction) {
            let note = "it takes nft 1.1.0 to read this as JSON: older ones make a set of a map to an address and a port; \
                        they read the text";
            object.push("note", note);
        }
    }
    object.into()
}
