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
        let known = self.open.iter_mut().find(|(packet, ..)| *packet == event.packet);
        if let Some((_, last, events)) = known {
            *last = now;
            events.push(event);
        } else if event.table.1 == TABLE.name {
            self.seen += 1;
            self.open.push((event.packet, now, vec![event]));
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

impl Packet {
    /// The passage that dropped it.
    pub(crate) fn dropped(&self) -> Option<&Passage> {
        self.passages.iter().find(|passage| passage.verdict == Verdict::Drop)
    }
}

fn name(index: u32) -> Option<String> {
    cni_common::kernel::route::interface_name(index).ok()
}
