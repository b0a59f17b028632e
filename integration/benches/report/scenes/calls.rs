//! Every command of every plugin on every backend, turn by turn, and the floors beside.

use cni_testbox::{Call, trace};

use super::{Series, Setup, each_plugin, number};
use crate::attachment::Attachment;
use crate::floor::Empty;
use crate::host::Host;
use crate::memory;
use crate::record::Of;
use crate::replay::Replay;
use crate::subject::Subject;

const SCENE: &str = "calls";
/// A UDP port makes portmap look for stale flows.
const CASES: [&str; 5] = ["portmap", "portmap+udp", "bandwidth", "firewall", "tuning"];
/// In the order of a round: what stands between ADD and DEL finds the attachment.
const COMMANDS: [&str; 6] = ["VERSION", "STATUS", "ADD", "CHECK", "GC", "DEL"];

pub(super) fn run(setup: &Setup) -> Result<(), String> {
    let empty = Empty::find();
    each_plugin(SCENE, &CASES, |plugin| of_plugin(setup, plugin, &empty))?;
    let (call, program) = empty.call();
    let of = Of { scene: SCENE, by: "start".into(), ..Of::default() };
    let traced = trace::run(call, program, "VERSION")?;
    of.tell("system calls", &[number(traced.calls)]);
    tell_memory(&of, call, program, "VERSION");
    Ok(())
}

fn of_plugin(setup: &Setup, plugin: &'static str, empty: &Empty) -> Result<(), String> {
    let subjects = Subject::all(setup, SCENE, plugin, 0);
    let mut all: Vec<Measured<'_>> =
        subjects.iter().map(Measured::new).collect::<Result<_, _>>()?;
    let replay = kernel(&subjects)?;
    let mut start = Series::default();
    let mut kernel = [Series::default(), Series::default()];
    for _ in 0..setup.rounds(50, 5) {
        for measured in &mut all {
            measured.round()?;
        }
        start.push(empty.cost()?);
        for costs in replay.iter().map(|replay| replay.once(&|| ())) {
            for (series, cost) in kernel.iter_mut().zip(costs) {
                series.push(cost);
            }
        }
    }
    let of = Of { scene: SCENE, plugin: plugin.into(), ..Of::default() };
    start.tell(&of.by("start"));
    if replay.is_some() {
        for (command, series) in ["ADD", "DEL"].iter().zip(&kernel) {
            series.tell(&of.by("kernel").command(command));
        }
    }
    for measured in &all {
        measured.tell()?;
    }
    Ok(())
}

/// The messages of ours, on the backend that runs no program.
fn kernel(subjects: &[Subject]) -> Result<Option<Replay<'_>>, String> {
    let native = |subject: &&Subject| subject.by.is_ours() && subject.backend != "iptables";
    let Some(subject) = subjects.iter().find(native) else { return Ok(None) };
    let replay = record(subject)?;
    if let Err(why) = is_exact(subject, &replay) {
        let of = subject.of(SCENE).by("kernel");
        of.note(&why);
    }
    Ok(Some(replay))
}

/// Of an ADD and a DEL on a host that has seen some.
pub(super) fn record(subject: &Subject) -> Result<Replay<'_>, String> {
    let call = subject.attachment(0).call(subject.plugin, subject.backend);
    let (add, del) = subject.host.inside(|| {
        let add = trace::run(&call, &subject.program, "ADD")?;
        let del = trace::run(&call, &subject.program, "DEL")?;
        Ok::<_, String>((add, del))
    })?;
    Ok(Replay::new(&subject.host, add, del))
}

/// Whether it leaves behind what the plugin leaves.
fn is_exact(subject: &Subject, replay: &Replay<'_>) -> Result<(), String> {
    let call = subject.attachment(0).call(subject.plugin, subject.backend);
    let cost = |command| subject.host.inside(|| call.cost(&subject.program, command));
    cost("ADD")?;
    let added = state(&subject.host);
    cost("DEL")?;
    let deleted = state(&subject.host);
    let seen = std::sync::Mutex::new(String::new());
    replay.once(&|| *seen.lock().expect("one thread") = state(&subject.host));
    for (command, plugins, replayed) in [
        ("ADD", added, seen.into_inner().expect("one thread")),
        ("DEL", deleted, state(&subject.host)),
    ] {
        let differs = plugins.lines().zip(replayed.lines()).find(|(one, other)| one != other);
        if let Some((one, other)) = differs {
            return Err(format!("what is replayed of {command} leaves {other:?}, not {one:?}"));
        }
        if plugins.lines().count() != replayed.lines().count() {
            return Err(format!("what is replayed of {command} leaves more or less"));
        }
    }
    Ok(())
}

/// What a plugin may change, without what is another one each time: the address and the number of an IFB.
fn state(host: &Host) -> String {
    host.shell(&format!(
        "{{ nft list ruleset; ip -d link show type ifb | sed 's/^[0-9]*: //' | grep -v link/ether
           tc qdisc show; tc filter show dev v0; tc filter show dev v0 ingress
           tc filter show dev v0 egress; }} | sort
         ip -n {0} -d link show dev eth0; ip netns exec {0} sysctl net.core.somaxconn net.ipv4.conf.eth0.arp_filter",
        host.container
    ))
}

struct Measured<'a> {
    subject: &'a Subject,
    /// What it serves, with its call.
    commands: Vec<(&'static str, Call, Series)>,
}

impl<'a> Measured<'a> {
    /// Each command once, which makes what all later calls share.
    fn new(subject: &'a Subject) -> Result<Self, String> {
        let (plugin, backend) = (subject.plugin, subject.backend);
        let first = subject.attachment(0);
        let add = first.call(plugin, backend);
        let (_, result) = subject.host.inside(|| add.cost(&subject.program, "ADD"))?;
        let after = first.call_after(plugin, backend, &result);
        subject.host.inside(|| after.cost(&subject.program, "DEL"))?;
        subject.clean();
        let mut commands = Vec::new();
        for command in COMMANDS {
            let call = match command {
                "ADD" | "VERSION" => add.clone(),
                "STATUS" | "GC" => Attachment::of_network(&add, 0),
                _ => after.clone(),
            };
            match subject.host.inside(|| call.cost(&subject.program, command)) {
                Ok(_) => commands.push((command, call, Series::default())),
                Err(why) => subject.of(SCENE).command(command).note(&why),
            }
        }
        subject.clean();
        Ok(Self { subject, commands })
    }

    fn round(&mut self) -> Result<(), String> {
        let Self { subject, commands } = self;
        subject.host.inside(|| {
            for (command, call, series) in commands {
                series.push(call.cost(&subject.program, command)?.0);
            }
            Ok::<_, String>(())
        })?;
        subject.clean();
        Ok(())
    }

    fn tell(&self) -> Result<(), String> {
        let Self { subject, commands } = self;
        for (command, _, series) in commands {
            series.tell(&subject.of(SCENE).command(command));
        }
        let calls: Vec<(&str, &Call)> =
            commands.iter().map(|(command, call, _)| (*command, call)).collect();
        tell_counts(subject, &subject.of(SCENE), &calls)
    }
}

/// What is counted, and once is enough: system calls, programs, messages, memory. The commands are in an order in which
/// they find what they need.
pub(super) fn tell_counts(
    subject: &Subject,
    of: &Of,
    calls: &[(&str, &Call)],
) -> Result<(), String> {
    for (command, call) in calls {
        let of = of.command(command);
        let traced = subject.host.inside(|| trace::run(call, &subject.program, command))?;
        of.tell("system calls", &[number(traced.calls)]);
        of.tell("programs", &[number(traced.ran.len())]);
        of.tell("messages", &[number(traced.messages)]);
    }
    subject.clean_first();
    for (command, call) in calls {
        subject.host.inside(|| tell_memory(&of.command(command), call, &subject.program, command));
    }
    subject.clean_first();
    Ok(())
}

/// In KiB.
fn tell_memory(of: &Of, call: &Call, program: &std::path::Path, command: &str) {
    let peak = memory::peak(call, program, command);
    of.tell("memory", &[number(usize::try_from(peak).expect("KiB"))]);
}
