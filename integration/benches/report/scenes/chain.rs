//! A pod's chain of four: the plugins one after the other, as libcni calls them, and back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cni_testbox::bench::Cost;

use super::calls::record;
use super::{Series, Setup};
use crate::attachment::Attachment;
use crate::floor::Empty;
use crate::host::Host;
use crate::record::Of;
use crate::replay::Replay;
use crate::subject::{Implementation, Subject, program_of};

const SCENE: &str = "chain";
/// With two ports over TCP.
const PLUGINS: [&str; 4] = ["portmap+tcp", "bandwidth", "firewall", "tuning"];

pub(super) fn run(setup: &Setup) -> Result<(), String> {
    let empty = Empty::find();
    let chains: Vec<Chain> = setup.implementations.iter().map(Chain::new).collect();
    let replays = of_ours(setup)?;
    let replays: Vec<Replay<'_>> = replays.iter().map(record).collect::<Result<_, _>>()?;
    let mut series: BTreeMap<(String, &str), Series> = BTreeMap::new();
    let mut warm = true;
    for _ in 0..=setup.rounds(50, 4) {
        for chain in &chains {
            let costs = chain.round()?;
            for (command, cost) in ["ADD", "DEL"].into_iter().zip(costs).filter(|_| !warm) {
                series.entry((chain.by.name.clone(), command)).or_default().push(cost);
            }
        }
        let mut kernel = [Cost::default(); 2];
        for replay in &replays {
            let [add, del] = replay.once(&|| ());
            kernel = [kernel[0] + add, kernel[1] + del];
        }
        let start = (0..PLUGINS.len())
            .try_fold(Cost::default(), |sum, _| Ok::<_, String>(sum + empty.cost()?))?;
        if !warm {
            for (command, cost) in ["ADD", "DEL"].into_iter().zip(kernel) {
                series.entry(("kernel".into(), command)).or_default().push(cost);
                series.entry(("start".into(), command)).or_default().push(start);
            }
        }
        warm = false;
    }
    for ((by, command), series) in series {
        series.tell(&Of { scene: SCENE, by, command: command.into(), ..Of::default() });
    }
    Ok(())
}

/// Each on a host of its own, for their messages.
fn of_ours(setup: &Setup) -> Result<Vec<Subject>, String> {
    let ours = setup.implementations.iter().find(|one| one.is_ours());
    let ours = ours.ok_or("ours are not there")?;
    let backend = |plugin| backend_of(ours, plugin);
    let subjects = PLUGINS.map(|plugin| Subject::new(ours, plugin, backend(plugin), 0));
    for subject in &subjects {
        let call = subject.attachment(0).call(subject.plugin, subject.backend);
        for command in ["ADD", "DEL"] {
            subject.host.inside(|| call.cost(&subject.program, command))?;
        }
    }
    Ok(subjects.into())
}

/// Ours choose nftables; of others, it is iptables that all have.
fn backend_of(by: &Implementation, plugin: &str) -> &'static str {
    match program_of(plugin) {
        "portmap" | "firewall" if by.is_ours() => "nftables",
        "portmap" | "firewall" => "iptables",
        _ => "",
    }
}

struct Chain {
    by: Implementation,
    host: Host,
}

impl Chain {
    fn new(by: &Implementation) -> Self {
        Self { by: by.clone(), host: Host::furnish(&format!("chain-{}", by.name), 0) }
    }

    /// What ADD of all took, and DEL.
    fn round(&self) -> Result<[Cost; 2], String> {
        let attachment = Attachment::new(&self.host, 0);
        let program = |plugin| -> PathBuf { self.by.directory.join(program_of(plugin)) };
        let mut result = String::new();
        let mut costs = [Cost::default(); 2];
        self.host.inside(|| {
            for plugin in PLUGINS {
                let call = attachment.call_after(plugin, backend_of(&self.by, plugin), &result);
                let (cost, said) = call.cost(&program(plugin), "ADD")?;
                costs[0] = costs[0] + cost;
                result = said;
            }
            for plugin in PLUGINS.iter().rev() {
                let call = attachment.call_after(plugin, backend_of(&self.by, plugin), &result);
                costs[1] = costs[1] + call.cost(&program(plugin), "DEL")?.0;
            }
            Ok::<_, String>(())
        })?;
        if !self.by.is_ours() {
            self.host.clean_bandwidth();
        }
        Ok(costs)
    }
}
