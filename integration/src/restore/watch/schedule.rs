//! When the next round is, and why. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::event::Event;

/// When what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How often that is, and how often a round answers to what may be its own doing.
const ATTEMPTS: u32 = 3;
/// Rules of containers are deleted whenever one ends, on some hosts every second. A round after such an
/// event leaves the host alone for ten times as long as the last one took, within these bounds.
const REST: u32 = 10;
const SHORTEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// What came of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Whether nothing failed.
    pub(crate) well: bool,
    /// Whether it restored something.
    pub(crate) changed: bool,
}

/// Why there is a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// In words.
    pub(crate) text: String,
    /// Whether it is so common that it is worth a word only if something was missing.
    pub(crate) is_common: bool,
}

/// The next round.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) due: Option<Instant>,
    pub(super) reason: Reason,
    failures: u32,
    /// Rounds in a row that nothing asked for but what came during the one before.
    echoes: u32,
    rested: Instant,
}

impl Schedule {
    /// A round at once.
    pub(super) fn new(text: String, now: Instant) -> Self {
        let reason = Reason { text, is_common: false };
        Self { due: Some(now), reason, failures: 0, echoes: 0, rested: now }
    }

    /// Something happened.
    pub(super) fn heard(&mut self, event: &Event, now: Instant) {
        self.echoes = 0;
        self.plan(event, now);
    }

    fn plan(&mut self, event: &Event, now: Instant) {
        let is_common = matches!(event, Event::Emptied(_));
        let planned = self.due;
        let due = event.due(planned, now);
        self.due = Some(if is_common { planned.unwrap_or(due.max(self.rested)) } else { due });
        if is_common && planned.is_some() {
            return;
        }
        self.reason = Reason { text: event.describe(), is_common };
        if !is_common {
            self.failures = 0;
        }
    }

    /// A round is over, during which these things happened. Its own restores delete rules, too, when they
    /// replace some; they must not keep it going.
    pub(super) fn done(&mut self, round: Round, took: Duration, told: &[Event], now: Instant) {
        self.rested = now + (took * REST).clamp(SHORTEST_REST, LONGEST_REST);
        self.failures = if round.well { 0 } else { self.failures + 1 };
        let tries_again = !round.well && self.failures < ATTEMPTS;
        self.due = tries_again.then(|| now + AGAIN);
        self.reason = Reason { text: "trying again what failed".to_owned(), is_common: false };
        self.echoes = if round.changed { self.echoes + 1 } else { 0 };
        for event in told {
            let may_be_own = round.changed && matches!(event, Event::Emptied(_));
            if !may_be_own || self.echoes < ATTEMPTS {
                self.plan(event, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(20);

    fn emptied() -> Event {
        Event::Emptied("ip nat".to_owned())
    }

    #[test]
    fn rules_that_go_all_the_time_are_looked_at_now_and_then() {
        let start = Instant::now();
        let mut schedule = Schedule::new("start".to_owned(), start);
        let (mut rounds, mut now) = (0, start);
        while now < start + Duration::from_mins(1) {
            if schedule.due.is_some_and(|due| due <= now) {
                rounds += 1;
                let round = Round { well: true, changed: false };
                schedule.done(round, Duration::from_millis(500), &[], now);
            }
            schedule.heard(&emptied(), now);
            now += Duration::from_millis(10);
        }
        assert!((11..=13).contains(&rounds), "{rounds} rounds in a minute");
    }

    #[test]
    fn a_round_does_not_answer_to_itself_for_ever() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new("start".to_owned(), now);
        let mut rounds = 0;
        while let Some(due) = schedule.due {
            now = now.max(due);
            rounds += 1;
            schedule.done(Round { well: true, changed: true }, FAST, &[emptied()], now);
        }
        assert_eq!(rounds, 3);
        schedule.heard(&emptied(), now);
        assert!(schedule.due.is_some(), "what others do is heard again");
    }

    #[test]
    fn what_goes_during_a_round_that_changes_nothing_is_of_others() {
        let now = Instant::now();
        let mut schedule = Schedule::new("start".to_owned(), now);
        schedule.done(Round { well: true, changed: false }, FAST, &[emptied()], now);
        assert!(schedule.due.is_some() && schedule.reason.is_common);
    }

    #[test]
    fn what_failed_is_tried_again_twice() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new("start".to_owned(), now);
        let mut rounds = 0;
        while let Some(due) = schedule.due {
            now = now.max(due);
            rounds += 1;
            schedule.done(Round { well: false, changed: false }, FAST, &[], now);
        }
        assert_eq!(rounds, 3);
    }

    #[test]
    fn a_deleted_table_does_not_wait() {
        let now = Instant::now();
        let mut schedule = Schedule::new("start".to_owned(), now);
        schedule.done(Round { well: true, changed: false }, FAST, &[], now);
        schedule.heard(&emptied(), now);
        let late = schedule.due.expect("a round");
        schedule.heard(&Event::Deleted("inet cni_portmap".to_owned()), now);
        assert!(schedule.due.expect("a round") < late);
        assert!(!schedule.reason.is_common);
    }
}
