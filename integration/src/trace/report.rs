//! What `trace` says: a line for each step, and where it ends. Pure.

use std::net::SocketAddr;

use cni_common::cni::protocol::json::{Json, Object};

use super::live::Packet;
use super::step::{Finding, Step, Trace};
use crate::rules::verdict::Verdict;
use crate::terminal::{Terminal, Tone, wrapped};

/// Columns of a finding, and of what was looked at.
const FINDING: usize = 6;
const SUBJECT: usize = 14;

/// For people.
pub(crate) fn text(traces: &[Trace], terminal: Terminal) -> String {
    let sections: Vec<String> = traces.iter().map(|trace| section(trace, terminal)).collect();
    sections.join("\n")
}

fn section(trace: &Trace, terminal: Terminal) -> String {
    let mut lines = vec![terminal.paint(&heading(trace), Tone::Heading)];
    for step in &trace.steps {
        lines.extend(step_lines(step, terminal));
    }
    let (tone, end) = end(trace);
    let width = terminal.width.unwrap_or(usize::MAX);
    lines.extend(wrapped(&end, width).iter().map(|line| terminal.paint(line, tone)));
    lines.join("\n") + "\n"
}

fn heading(trace: &Trace) -> String {
    let to = match trace.to {
        Some(to) => SocketAddr::new(to, trace.port).to_string(),
        None => format!("port {}", trace.port),
    };
    let from = trace.from.map_or_else(|| "a client".to_owned(), |from| from.to_string());
    format!("From {from} to {to}/{}", trace.protocol)
}

fn step_lines(step: &Step, terminal: Terminal) -> Vec<String> {
    let (word, tone) = match step.finding {
        Finding::Ok => ("ok", Tone::Good),
        Finding::Note => ("note", Tone::Plain),
        Finding::Doubt => ("?", Tone::Odd),
        Finding::Stop => ("STOP", Tone::Bad),
    };
    let indent = 2 + FINDING + SUBJECT;
    let width = terminal.width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(20));
    let mut lines = Vec::new();
    for (at, text) in wrapped(&step.text, width).into_iter().enumerate() {
        let (word, subject) = if at == 0 { (word, step.subject) } else { ("", "") };
        let word = terminal.paint(&format!("{word:<FINDING$}"), tone);
        lines.push(format!("  {word}{subject:<SUBJECT$}{text}"));
    }
    let remedy = step.remedy.as_ref().filter(|_| step.finding != Finding::Ok);
    for (at, text) in
        remedy.into_iter().flat_map(|text| wrapped(text, width.saturating_sub(3))).enumerate()
    {
        let arrow = if at == 0 { "-> " } else { "   " };
        lines.push(format!("{:indent$}{arrow}{text}", ""));
    }
    lines
}

fn end(trace: &Trace) -> (Tone, String) {
    if let Some(step) = trace.end() {
        return (Tone::Bad, format!("It stops at: {}.", step.subject));
    }
    let doubts = trace.steps.iter().filter(|step| step.finding == Finding::Doubt).count();
    match doubts {
        0 => (Tone::Good, "Nothing stops it.".to_owned()),
        _ => (
            Tone::Odd,
            "Nothing is known to stop it, but see what is marked with \"?\".".to_owned(),
        ),
    }
}

/// A packet that was followed, for people.
pub(crate) fn packet_text(packet: &Packet, terminal: Terminal) -> String {
    let ends = packet.ends.map_or("a packet".to_owned(), |(from, to)| format!("{from} to {to}"));
    let by =
        packet.input.as_ref().map_or("from the host".to_owned(), |name| format!("in by {name}"));
    let mut lines = vec![terminal.paint(&format!("{ends}, {by}"), Tone::Heading)];
    let width = terminal.width.map_or(usize::MAX, |width| width.saturating_sub(6).max(20));
    for passage in &packet.passages {
        if let Some(to) = passage.led_to {
            lines.push(format!("  now to {to}"));
        }
        let owner = passage.owner.map(|owner| format!(" ({owner})")).unwrap_or_default();
        lines.push(format!("  {}{owner}", passage.place));
        let text = match verdict_text(&passage.verdict) {
            Some(verdict) if !passage.what.ends_with(&verdict) => {
                format!("{} -> {verdict}", passage.what)
            }
            _ => passage.what.clone(),
        };
        lines.extend(wrapped(&text, width).iter().map(|line| format!("      {line}")));
    }
    lines.push(match packet.dropped() {
        Some(passage) => terminal.paint(&format!("  dropped in {}", passage.place), Tone::Bad),
        None if packet.passages.is_empty() => "  met no rule of nf_tables".to_owned(),
        None => terminal.paint("  passed all of them", Tone::Good),
    });
    lines.join("\n") + "\n"
}

fn verdict_text(verdict: &Verdict) -> Option<String> {
    Some(match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
        Verdict::Continue | Verdict::Other => return None,
    })
}

/// For programs; `docs/schema/trace.json` describes it.
pub(crate) fn json(traces: &[Trace]) -> Json {
    let mut top = Object::default();
    top.push("traces", traces.iter().map(trace_json).collect::<Vec<Json>>());
    top.into()
}

fn trace_json(trace: &Trace) -> Json {
    let mut object = Object::default();
    object.push("port", u64::from(trace.port));
    object.push("protocol", trace.protocol.to_string());
    for (name, address) in [("to", trace.to), ("from", trace.from)] {
        if let Some(address) = address {
            object.push(name, address.to_string());
        }
    }
    object.push("steps", trace.steps.iter().map(step_json).collect::<Vec<Json>>());
    if let Some(step) = trace.end() {
        object.push("stopsAt", step.subject);
    }
    object.into()
}

fn step_json(step: &Step) -> Json {
    let finding = match step.finding {
        Finding::Ok => "ok",
        Finding::Note => "note",
        Finding::Doubt => "doubt",
        Finding::Stop => "stop",
    };
    let mut object = Object::default();
    object.push("subject", step.subject);
    object.push("finding", finding);
    object.push("text", step.text.as_str());
    if let Some(remedy) = &step.remedy {
        object.push("remedy", remedy.as_str());
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use cni_common::kernel::nft::L4Protocol;

    use super::*;

    fn trace(steps: Vec<Step>) -> Trace {
        let to = Some("192.0.2.10".parse().expect("an address"));
        Trace { port: 8080, protocol: L4Protocol::Tcp, to, from: None, steps }
    }

    fn shown(steps: Vec<Step>) -> String {
        text(&[trace(steps)], Terminal { width: Some(60), colour: false })
    }

    #[test]
    fn a_connection_that_stops() {
        let steps = vec![
            Step::ok("mapping", "*:8080/tcp leads to 10.88.1.2:80 of podnet/web/eth0, in nftables"),
            Step::stop(
                "forwarding",
                "the host does not forward",
                "sysctl -w net.ipv4.ip_forward=1",
            ),
        ];
        insta::assert_snapshot!(shown(steps.clone()));
        assert!(json(&[trace(steps)]).to_string().ends_with(r#""stopsAt":"forwarding"}]}"#));
    }

    #[test]
    fn what_cannot_be_told_is_no_stop() {
        let ok = shown(vec![Step::ok("mapping", "there")]);
        assert!(ok.ends_with("\nNothing stops it.\n"), "{ok}");
        let doubt = shown(vec![Step::unknown("filters", &"no")]);
        assert!(doubt.contains("\n  ?     filters       it cannot be looked at: no\n"), "{doubt}");
        assert!(doubt.contains("Nothing is known to stop it"), "{doubt}");
    }
}
