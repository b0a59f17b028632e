//! What is told of one packet, gathered. Pure, but for the clock.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::TABLE;
use super::event::{Event, Kind};
use crate::rules::Words;
use crate::rules::verdict::Verdict;

/// A packet that has gone its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Source and destination as it came.
    pub(crate) ends: Option<(SocketAddr, SocketAddr)>,
    /// The interface that it came in by; none for the host's own.
    pub(crate) input: Option<String>,
    pub(crate) passages: Vec<Passage>,
}

/// A rule or policy that it met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Passage {
    /// Family, table, chain.
    pub(crate) place: String,
    /// Whose table that is, if one can tell.
    pub(crate) owner: Option<&'static str>,
    /// What it met, in words.
    pub(crate) what: String,
    pub(crate) verdict: Verdict,
    /// Where the packet went from here on, if that is another destination than before.
    pub(crate) led_to: Option<SocketAddr>,
}

/// Packets of which something is still told.
#[derive(Default)]
pub(super) struct Packets {
    open: Vec<(u32, Instant, Vec<Event>)>,
    seen: usize,
    words: Words,
}

impl Packets {
    /// How many there were so far.
    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    /// Takes what is told of packets that our rule chose; others may be traced by somebody else.
    pub(super) fn add(&mut self, event: Event) {
        let now = Instant::now();
        let known = self.open.iter_mut().rfind(|(packet, ..)| *packet == event.packet);
        match known {
            Some((_, last, events)) if !begins_again(&event, events) => {
                *last = now;
                events.push(event);
            }
            _ if event.table.1 == TABLE.name => {
                self.seen += 1;
                self.open.push((event.packet, now, vec![event]));
            }
            _ => {}
        }
    }

    /// Takes those out of which nothing was told for so long.
    pub(super) fn through(&mut self, quiet: Duration) -> Vec<Packet> {
        let is_open = |(_, last, _): &(u32, Instant, Vec<Event>)| last.elapsed() < quiet;
        let (open, done) = std::mem::take(&mut self.open).into_iter().partition(is_open);
        self.open = open;
        done.into_iter().map(|(_, _, events)| self.packet(&events)).collect()
    }

    fn packet(&mut self, events: &[Event]) -> Packet {
        let mut destination = None;
        let mut passages = Vec::new();
        for event in events {
            let told = event.ends.map(|(_, to)| to);
            let moved = told.filter(|to| destination.is_some_and(|before| before != *to));
            destination = told.or(destination);
            if event.table.1 == TABLE.name || event.kind == Kind::Return {
                continue;
            }
            passages.push(self.passage(event, moved));
        }
        Packet {
            ends: events.iter().find_map(|event| event.ends),
            input: events.iter().find_map(|event| event.input).and_then(name),
            passages,
        }
    }

    fn passage(&mut self, event: &Event, led_to: Option<SocketAddr>) -> Passage {
        let (family, table) = &event.table;
        let what = match event.kind {
            Kind::Rule(handle) => self.words.rule(family, table, handle),
            Kind::Policy | Kind::Return => "policy".to_owned(),
        };
        Passage {
            place: format!("{family} {table} {}", event.chain),
            owner: crate::rules::owner(table, &event.chain),
            what,
            verdict: event.verdict.clone(),
            led_to,
        }
    }
}

/// Whether this is another packet. The kernel's number is made of where the packet is in memory, and a later one of
/// the connection may be in the same place. Our rule is the first that a packet meets; one of the host's own to itself
/// meets that of output, and then that of prerouting.
fn begins_again(event: &Event, events: &[Event]) -> bool {
    let is_ours = event.table.1 == TABLE.name && matches!(event.kind, Kind::Rule(_));
    let comes_in_again = || {
        events.first().is_some_and(|first| first.chain == "output") && event.chain == "prerouting"
    };
    is_ours && !comes_in_again()
}

impl Packet {
    /// The passage that dropped it.
    pub(crate) fn dropped(&self) -> Option<&Passage> {
        self.passages.iter().find(|passage| passage.verdict == Verdict::Drop)
    }
}

fn name(index: u32) -> Option<String> {
    cni_common::kernel::route::interface_name(index).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(table: &str, chain: &str, kind: Kind) -> Event {
        Event {
            packet: 7,
            table: ("inet", table.to_owned()),
            chain: chain.to_owned(),
            kind,
            verdict: Verdict::Accept,
            ends: None,
            input: None,
            output: None,
        }
    }

    #[test]
    fn a_number_that_is_used_again_is_another_packet() {
        let ours = |chain| event(&TABLE.name, chain, Kind::Rule(1));
        let passed = || event("site", "filter", Kind::Policy);
        let mut packets = Packets::default();
        for event in
            [passed(), ours("prerouting"), passed(), ours("prerouting"), passed(), passed()]
        {
            packets.add(event);
        }
        // One of the host's to itself comes in again.
        for event in [ours("output"), passed(), ours("prerouting"), passed()] {
            packets.add(event);
        }
        let passages: Vec<usize> =
            packets.through(Duration::ZERO).iter().map(|packet| packet.passages.len()).collect();
        assert_eq!(passages, [1, 2, 2]);
        assert_eq!(packets.seen(), 3);
    }
}
