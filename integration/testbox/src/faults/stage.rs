//! The host of a sweep: two attachments, what the states look like, and the way from one to another.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::snapshot::Snapshot;
use super::{Case, Sweep, Wish};
use crate::tool::sh;
use crate::{Attachment, Call, Outcome, TestBox, eventually_within};

/// What there is of the attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing.
    Absent,
    /// What ADD made.
    Present(Wish),
}

/// How the states look.
#[derive(Debug)]
pub(super) struct Looks {
    pub(super) absent: Snapshot,
    /// After DEL: on a host that had nothing before, what stays by design until GC.
    pub(super) deleted: Snapshot,
    pub(super) usual: Snapshot,
    pub(super) changed: Snapshot,
}

pub(super) struct Stage<'a> {
    sweep: &'a Sweep,
    b: &'a TestBox,
    case: Case,
    pub(super) subject: Attachment,
    pub(super) neighbour: Attachment,
    pub(super) looks: Looks,
    /// What is there now; none after something unexpected.
    pub(super) at: Option<State>,
    /// Whether that was seen, or only follows from a call that succeeded.
    pub(super) seen: bool,
}

impl<'a> Stage<'a> {
    /// Builds everything anew, and learns how the states look from clean runs.
    #[track_caller]
    pub(super) fn build(sweep: &'a Sweep, b: &'a TestBox, case: Case, number: u8) -> Self {
        raze();
        let [subject, neighbour] = (sweep.attachments)(b, number);
        let nothing = Snapshot::take(sweep.scope);
        let looks = Looks {
            absent: nothing.clone(),
            deleted: nothing.clone(),
            usual: nothing.clone(),
            changed: nothing,
        };
        let (at, seen) = (Some(State::Absent), true);
        let mut stage = Self { sweep, b, case, subject, neighbour, looks, at, seen };
        if case != Case::First {
            stage.must(&stage.with_backend((sweep.call)("ADD", &stage.neighbour, Wish::Usual)));
        }
        // Twice: the second run has to find and to leave the same.
        for _ in 0..2 {
            stage.looks.usual = stage.after("ADD", Wish::Usual);
            if case == Case::Changed {
                stage.looks.changed = stage.after("ADD", Wish::Changed);
                stage.must_look_like_that("ADD", &stage.looks.usual.clone());
            }
            stage.looks.deleted = stage.after("DEL", Wish::Usual);
            if case == Case::First {
                stage.looks.absent = stage.after("GC", Wish::Usual);
            } else {
                stage.looks.absent = stage.looks.deleted.clone();
            }
        }
        stage.must_look_like_that("ADD", &stage.looks.usual.clone());
        stage.must_look_like_that("DEL", &stage.looks.deleted.clone());
        if case == Case::First {
            stage.must_look_like_that("GC", &stage.looks.absent.clone());
        }
        stage
    }

    fn after(&self, command: &str, wish: Wish) -> Snapshot {
        self.must(&self.call(command, wish));
        if command == "GC" {
            (self.sweep.after_gc)(&self.subject);
        }
        self.snapshot()
    }

    #[track_caller]
    fn must_look_like_that(&self, command: &str, wanted: &Snapshot) {
        let found = self.after(command, Wish::Usual);
        assert!(
            found == *wanted,
            "{} {command} without any fault does not leave the same again:\n{}",
            self.sweep.plugin,
            found.difference_from(wanted)
        );
    }

    /// A call for the attachment; GC keeps the other one, where there is one.
    pub(super) fn call(&self, command: &str, wish: Wish) -> Call {
        let call = match command {
            "GC" => Call::of_network(self.sweep.plugin, "GC", &self.subject.network.name),
            _ => (self.sweep.call)(command, &self.subject, wish),
        };
        let call = self.with_backend(call);
        match (command, self.case) {
            ("GC", Case::First) => call.valid(&[]),
            ("GC", _) => call.valid(&[&self.neighbour]),
            _ => call,
        }
    }

    fn with_backend(&self, call: Call) -> Call {
        match (self.sweep.backend, self.b.implementation.backend()) {
            (own @ ("nftables" | "firewalld"), _) => call.set("backend", own),
            (_, Some(backend)) => call.set("backend", backend),
            _ => call,
        }
    }

    #[track_caller]
    fn must(&self, call: &Call) {
        let outcome = self.plain(call);
        assert!(outcome.succeeded(), "without any fault: {outcome}");
    }

    /// A call without a fault, once programs of an earlier one have ended.
    pub(super) fn plain(&self, call: &Call) -> Outcome {
        call.run_quietly(self.b.implementation)
    }

    /// How it looks now.
    pub(super) fn snapshot(&self) -> Snapshot {
        if self.sweep.runs_programs {
            wait_for_programs();
        }
        Snapshot::take(self.sweep.scope)
    }

    /// What `state` looks like.
    pub(super) fn look_of(&self, state: State) -> &Snapshot {
        match state {
            State::Absent => &self.looks.absent,
            State::Present(Wish::Usual) => &self.looks.usual,
            State::Present(Wish::Changed) => &self.looks.changed,
        }
    }

    /// Leads to a state by calls that have no fault; whether they succeeded.
    pub(super) fn lead_to(&mut self, wanted: State) -> bool {
        if self.at == Some(wanted) {
            return true;
        }
        let Some(_) = self.at else { return false };
        let commands: &[&str] = match (wanted, self.case) {
            (State::Absent, Case::First) => &["DEL", "GC"],
            (State::Absent, _) => &["DEL"],
            (State::Present(_), _) => &["ADD"],
        };
        for command in commands {
            if !self.plain(&self.call(command, Wish::Usual)).succeeded() {
                return false;
            }
        }
        (self.at, self.seen) = (Some(wanted), false);
        true
    }
}

/// Takes away whatever any plugin may have made, and the containers.
fn raze() {
    wait_for_programs();
    sh("nft flush ruleset
        for table in $(cat /proc/net/ip_tables_names 2>/dev/null); do
            iptables-legacy -t $table -F; iptables-legacy -t $table -X
        done
        for table in $(cat /proc/net/ip6_tables_names 2>/dev/null); do
            ip6tables-legacy -t $table -F; ip6tables-legacy -t $table -X
        done
        for link in $(ip -o link show type ifb | cut -d: -f2); do ip link del $link; done
        for link in $(ip -o link show type veth | cut -d: -f2 | cut -d@ -f1); do
            [ $link = ext0 ] || ip link del $link
        done
        for link in $(ip -o link show type bridge | cut -d: -f2); do ip link del $link; done
        for name in $(ip netns list | cut -d' ' -f1); do
            [ $name = out ] || ip netns del $name
        done
        for file in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 0 > $file; done
        rm -rf /run/cni /run/cni-chain* /run/xtables.lock /var/lib/cni/*");
}

/// Waits for programs that outlived the plugin that ran them, and buries them: they are this process's
/// children now, the box's first.
pub(super) fn wait_for_programs() {
    eventually_within(Duration::from_secs(30), "programs of a killed plugin end", || {
        let mut running = false;
        for (pid, state) in orphans() {
            if state == "Z" {
                let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            } else {
                running = true;
            }
        }
        !running
    });
}

/// iptables' programs whose parent is the box's first process, and their states.
fn orphans() -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter_map(|pid: i32| Some((pid, orphan_state(pid)?))).collect()
}

fn orphan_state(pid: i32) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let (state, parent) = (words.next()?, words.next()?);
    let is_program = ["iptables", "ip6tables", "xtables"].iter().any(|one| name.starts_with(one));
    (is_program && parent == "1").then(|| state.to_owned())
}
