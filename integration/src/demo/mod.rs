//! `cni-chain demo`: a container's ports published by a CNI chain on a host made for the
//! occasion, and clients that try them from everywhere.
//!
//! Needs a kernel, and no other program: the host is a network and mount namespace of this process,
//! so the machine's own network is never touched and nothing stays behind. Without root, it is in a
//! user namespace as well.

pub(crate) mod bridge;
mod chain;
mod drawing;
mod dump;
mod flush;
mod greeting;
mod host;
mod left;
mod look;
mod plan;
mod rate;
mod screen;
mod server;
mod sysctl;
mod trip;
mod tuned;
mod user_namespace;
mod wire;

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cni_common::kernel::netns::Netns;

use crate::runner::Turn;
use crate::terminal::Tone;
use chain::Chain;
use host::{Host, PRIVATE};
use left::Traces;
use plan::{CONTAINER_ID, Plan};
use rate::Rate;
use screen::{JudgedRow, Screen, aligned};
use trip::{Namespace, Trip};
use tuned::Watch;

/// How to run the demo.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Where the plugins are; the first match wins.
    pub(crate) plugin_dirs: Vec<PathBuf>,
    /// Stop before the clean-up, so that the namespaces can be looked at.
    pub(crate) keep: bool,
}

/// Runs the demo. Fails if it could not run, and if something did not answer as it should.
///
/// Must be called before the process starts a thread.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut dirs = plugin_dirs(options)?;
    let in_user_namespace = Host::enter()?;
    let ipv6 = sysctl::has_ipv6();
    let plan = Plan::new(ipv6);
    let host = Host::build(&plan, ipv6, in_user_namespace)?;
    dirs.insert(0, host.bin.clone());
    let chain = Chain::new(plan.stages(), dirs, host.cache.clone(), &host.container_path)?;
    Demo { screen: Screen::stdout(), host, plan, chain, faults: 0 }.run(options.keep)
}

/// Those of the directories that exist, checked to be visible from the private host.
fn plugin_dirs(options: &Options) -> Result<Vec<PathBuf>> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let dirs: Vec<PathBuf> =
        options.plugin_dirs.iter().filter_map(|dir| dir.canonicalize().ok()).collect();
    if let Some(hidden) = dirs.iter().chain([&program]).find(|path| path.starts_with(PRIVATE)) {
        let hidden = hidden.display();
        bail!(
            "{hidden} would be hidden, as the demo has a {PRIVATE} of its own: copy it elsewhere"
        );
    }
    Ok(dirs)
}

/// The demo under way.
struct Demo {
    screen: Screen,
    host: Host,
    plan: Plan,
    chain: Chain,
    faults: usize,
}

impl Demo {
    fn run(mut self, keep: bool) -> Result<()> {
        self.show_networks()?;
        self.show_chain()?;
        let before = self.traces()?;
        let mut watch = Watch::begin(&self.host.container)?;
        let turns = self.chain.add()?;
        self.show_turns("ADD", &turns)?;
        server::start(&self.host.container, &host::bare(&self.plan.container))
            .context("cannot start the servers in the container")?;
        self.try_everything()?;
        self.try_the_limit()?;
        self.check()?;
        let during = self.traces()?;
        watch.look(&self.host.container)?;
        self.flush_and_restore()?;
        if keep {
            self.wait_for_the_visitor()?;
        }
        let turns = self.chain.del()?;
        self.show_turns("DEL", &turns)?;
        self.expect_refusals()?;
        watch.look(&self.host.container)?;
        self.screen.heading("What tuning set and gave back")?;
        self.judge(&["in the container", "its values"], &watch.rows())?;
        self.expect_nothing_left(&before, &during)?;
        self.conclude(keep)
    }

    fn show_networks(&mut self) -> io::Result<()> {
        let title = "A container's ports, published by a chain of CNI plugins on a host of its own";
        self.screen.line(title, Tone::Heading)?;
        self.screen.line("", Tone::Plain)?;
        self.screen.block(&drawing::draw(&self.plan))
    }

    fn show_chain(&mut self) -> Result<()> {
        self.screen.heading("The chain")?;
        self.screen.flowing(&self.chain.in_short())?;
        let programs = self.chain.programs()?;
        let rows =
            programs.iter().map(|(plugin, path)| vec![plugin.clone(), path.display().to_string()]);
        self.screen.heading("Its plugins")?;
        Ok(self.screen.block(&aligned(&rows.collect::<Vec<_>>()))?)
    }

    fn show_turns(&mut self, command: &str, turns: &[Turn]) -> io::Result<()> {
        let took: Vec<String> = turns.iter().map(ToString::to_string).collect();
        self.screen.step(command, &format!("{} ms", took.join(", ")))
    }

    /// A chain that finds fault with itself is a result, and no reason to leave without DEL.
    fn check(&mut self) -> Result<()> {
        match self.chain.check() {
            Ok(turns) => Ok(self.show_turns("CHECK", &turns)?),
            Err(error) => {
                self.faults += 1;
                Ok(self.screen.fault(&format!("{error:#}"))?)
            }
        }
    }

    fn try_everything(&mut self) -> Result<()> {
        let mut rows = Vec::new();
        for trip in self.plan.trips() {
            let outcome = self.netns_of(trip.from).run(|| trip.go())?;
            let (text, peer) = match &outcome {
                Ok(answer) => (answer.text.clone(), answer.peer.to_string()),
                Err(error) => (trip::reason(error), "-".to_owned()),
            };
            rows.push(JudgedRow {
                cells: vec![trip.from.to_string(), trip.url(), text, peer],
                ok: trip.is_good(&outcome),
            });
        }
        self.judge(&["from", "to", "what came back", "client seen"], &rows)
    }

    /// What this project is for: somebody flushes the tables under a running container.
    fn flush_and_restore(&mut self) -> Result<()> {
        if !self.chain.is_restorable() {
            return Ok(());
        }
        let Some(trip) = self.plan.trips().into_iter().next() else { return Ok(()) };
        self.screen.heading("Somebody flushes the tables, and cni-chain restore gives back")?;
        self.host.own.run(flush::everything)??;
        let cut_off = self.host.outside.run(|| trip.go())?;
        let restored = self.chain.restore();
        let served = self.host.outside.run(|| trip.go())?;
        let in_words = |outcome: &io::Result<trip::Answer>| match outcome {
            Ok(answer) => answer.text.clone(),
            Err(error) => trip::reason(error),
        };
        let row = |after: &str, outcome: &io::Result<trip::Answer>, ok| JudgedRow {
            cells: vec![after.to_owned(), trip.url(), in_words(outcome)],
            ok,
        };
        let rows = [
            row(flush::COMMAND, &cut_off, cut_off.is_err()),
            row("cni-chain restore", &served, trip.is_good(&served)),
        ];
        self.judge(&["after", "asked from outside", "what came back"], &rows)?;
        match restored {
            Ok(lines) => Ok(self.screen.flowing(&lines)?),
            Err(error) => {
                self.faults += 1;
                Ok(self.screen.fault(&format!("{error:#}"))?)
            }
        }
    }

    fn try_the_limit(&mut self) -> Result<()> {
        let Some(flood) = self.plan.flood() else { return Ok(()) };
        let outcome = self.netns_of(Namespace::Outside).run(|| Rate::measure(flood))?;
        let is_slow = outcome.as_ref().is_ok_and(|rate| rate.is_slow());
        let unlimited = if is_slow { Some(self.measure_without_a_limit()?) } else { None };
        let ok = outcome.as_ref().is_ok_and(|rate| rate.is_the_limit(unlimited));
        let text = outcome.map_or_else(|error| trip::reason(&error), |rate| rate.to_string());
        let limit = format!("{} Mbit/s", plan::LIMIT / 1_000_000);
        let cells = vec![format!("http://{flood}{}", server::FLOOD), limit, text];
        self.screen.heading("How fast it comes out of the container")?;
        self.judge(&["fetched from outside", "the limit", "measured"], &[JudgedRow { cells, ok }])?;
        if let Some(rate) = unlimited {
            self.screen
                .block(&[format!("into the container, where nothing is limited: {rate}")])?;
        }
        Ok(())
    }

    /// How much this machine gets through: the container fetches a flood from the host.
    fn measure_without_a_limit(&self) -> Result<Rate> {
        let gateway = host::bare(&self.plan.gateway);
        let address = *gateway.first().context("the plan has a gateway")?;
        server::start(&self.host.own, &gateway).context("cannot start the servers on the host")?;
        let flood = SocketAddr::new(address, plan::PAGE.container);
        let rate = self.host.container.run(|| Rate::measure_once(flood))?;
        rate.with_context(|| format!("cannot fetch http://{flood}{}", server::FLOOD))
    }

    /// The mapped ports must be closed again on every address that they were asked on.
    fn expect_refusals(&mut self) -> Result<()> {
        let mut rows = Vec::new();
        // The container itself has no way to the host any more.
        let trips = self.plan.trips().into_iter().filter(|trip| trip.from != Namespace::Container);
        for trip in trips {
            let outcome = self.netns_of(trip.from).run(|| trip.go())?;
            let ok = outcome.is_err();
            let text = outcome.map_or_else(|error| trip::reason(&error), |answer| answer.text);
            rows.push(JudgedRow { cells: vec![trip.from.to_string(), trip.url(), text], ok });
        }
        self.judge(&["from", "to", "what came back"], &rows)
    }

    fn expect_nothing_left(&mut self, before: &[Traces], during: &[Traces]) -> Result<()> {
        let after = self.traces()?;
        let mut rows = Vec::new();
        for (place, ((before, during), after)) in
            Namespace::ALL.iter().zip(before.iter().zip(during).zip(&after))
        {
            let mentions = format!("{}, of {} before DEL", after.mentions, during.mentions);
            let cells = vec![place.to_string(), after.links.join(" "), mentions];
            rows.push(JudgedRow { cells, ok: !after.has_more_than(before) });
        }
        self.screen.heading("What is left")?;
        let rules = format!("nftables entries of {CONTAINER_ID}");
        self.judge(&["in", "links", &rules], &rows)
    }

    /// Says how to look around, and waits.
    fn wait_for_the_visitor(&mut self) -> Result<()> {
        let in_user_namespace = self.host.in_user_namespace;
        let way = |place: Namespace| vec![place.to_string(), way_into(place, in_user_namespace)];
        let ways = Namespace::ALL.map(way);
        let who = if in_user_namespace { "yourself" } else { "root" };
        self.screen.heading(&format!("Look around from another terminal, as {who}"))?;
        self.screen.block(&aligned(&ways))?;
        let page = self.plan.trips().first().map(Trip::url).unwrap_or_default();
        self.screen.block(&[
            String::new(),
            "on the host, for instance:  nft list ruleset".to_owned(),
            format!("outside, for instance:      curl {page}"),
        ])?;
        self.screen.heading("Enter cleans up.")?;
        io::stdin().lock().read_line(&mut String::new())?;
        Ok(())
    }

    fn conclude(mut self, kept: bool) -> Result<()> {
        self.screen.line("", Tone::Plain)?;
        if self.faults == 0 {
            let text = "All as it should be, and nothing of the container is left.";
            self.screen.line(text, Tone::Good)?;
        }
        if !kept {
            let hint = "To look around before the clean-up: cni-chain demo --keep";
            self.screen.line(hint, Tone::Plain)?;
        }
        match self.faults {
            0 => Ok(()),
            faults => bail!("the demo FAILED in {faults} of the above"),
        }
    }

    fn judge(&mut self, head: &[&str], rows: &[JudgedRow]) -> Result<()> {
        self.faults += rows.iter().filter(|row| !row.ok).count();
        Ok(self.screen.judged(head, rows)?)
    }

    /// The traces in each of [`Namespace::ALL`].
    fn traces(&self) -> Result<Vec<Traces>> {
        Namespace::ALL.iter().map(|place| Ok(self.netns_of(*place).run(Traces::read)??)).collect()
    }

    fn netns_of(&self, place: Namespace) -> &Netns {
        match place {
            Namespace::Outside => &self.host.outside,
            Namespace::Host => &self.host.own,
            Namespace::Container => &self.host.container,
        }
    }
}

/// The command that starts a shell in a place.
fn way_into(place: Namespace, in_user_namespace: bool) -> String {
    let pid = std::process::id();
    let netns = match place {
        Namespace::Host => String::new(),
        // nsenter opens the file before it changes to the demo's mounts.
        _ => format!("=/proc/{pid}/root{}", host::namespace_path(place).display()),
    };
    let user = if in_user_namespace { " --user --preserve-credentials" } else { "" };
    format!("nsenter --target {pid}{user} --mount --net{netns}")
}
