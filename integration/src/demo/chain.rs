//! The chain as the demo runs it: one container, and the time each plugin takes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cni_common::cni::protocol::CniVersion;

use super::plan::{self, CONTAINER_ID, IFNAME, Stage};
use crate::restore::Restorer;
use crate::runner::plugins::MetaPlugin;
use crate::runner::{NetworkList, RunError, Runner, RuntimeConf, Turn, exec};

/// A plugin that does not return is a failure, not something to wait for.
const DEADLINE: Duration = Duration::from_secs(30);

/// The chain on its container.
#[derive(Debug)]
pub(super) struct Chain {
    stages: Vec<Stage>,
    version: CniVersion,
    list: NetworkList,
    conf: RuntimeConf,
    runner: Runner,
    turns: Receiver<Turn>,
}

impl Chain {
    /// Settles on the newest protocol version that all plugins speak.
    pub(super) fn new(
        stages: Vec<Stage>,
        dirs: Vec<PathBuf>,
        cache: PathBuf,
        netns: &Path,
    ) -> Result<Self> {
        let (sender, turns) = mpsc::channel();
        let mut runner = Runner::new(dirs, cache);
        runner.deadline = Some(DEADLINE);
        runner.turns = Some(sender);
        let version = newest_common_version(&runner, &stages)?;
        let document = plan::conflist(version, &stages).to_string();
        let list = NetworkList::from_bytes(document.as_bytes())
            .context("the demo's own configuration list is not valid")?;
        let conf = RuntimeConf {
            container_id: CONTAINER_ID.to_owned(),
            netns: netns.display().to_string(),
            ifname: IFNAME.to_owned(),
            args: Vec::new(),
            capability_args: plan::capability_args(&stages),
        };
        Ok(Self { stages, version, list, conf, runner, turns })
    }

    /// ADD, and the plugins' turns.
    pub(super) fn add(&self) -> Result<Vec<Turn>> {
        self.turns_of(self.runner.add(&self.list, &self.conf).map(|_| ()), "ADD")
    }

    /// CHECK, and the plugins' turns.
    pub(super) fn check(&self) -> Result<Vec<Turn>> {
        self.turns_of(self.runner.check(&self.list, &self.conf), "CHECK")
    }

    /// DEL, and the plugins' turns.
    pub(super) fn del(&self) -> Result<Vec<Turn>> {
        self.turns_of(self.runner.del(&self.list, &self.conf), "DEL")
    }

    fn turns_of(&self, outcome: Result<(), RunError>, command: &str) -> Result<Vec<Turn>> {
        // Taken in any case, lest the next command be shown with this one's.
        let turns = self.turns.try_iter().collect();
        outcome.with_context(|| format!("{command} of the chain failed"))?;
        Ok(turns)
    }

    /// The conflist as a person would write it, one plugin a line, and what the runtime adds.
    pub(super) fn in_short(&self) -> Vec<String> {
        let mut lines = vec![format!(
            r#"{{ "cniVersion": "{}", "name": "{}", "plugins": ["#,
            self.version, self.list.name
        )];
        let last = self.stages.len().saturating_sub(1);
        for (index, stage) in self.stages.iter().enumerate() {
            let comma = if index == last { "" } else { "," };
            lines.push(format!("  {}{comma}", spaced(&plan::entry(stage).to_string())));
        }
        lines.push("] }".to_owned());
        for (name, value) in self.conf.capability_args.iter() {
            lines.push(format!("{name}, from the runtime:"));
            for item in value.as_array().unwrap_or(std::slice::from_ref(value)) {
                lines.push(format!("  {}", spaced(&item.to_string())));
            }
        }
        lines
    }

    /// Gives back what a flush took, as `cni-chain restore` does: a line for each attachment.
    pub(super) fn restore(&self) -> Result<Vec<String>> {
        let Runner { plugin_dirs, cache_dir, .. } = &self.runner;
        let restorer = Restorer::new(Runner::new(plugin_dirs.clone(), cache_dir.clone()));
        let mut lines = Vec::new();
        let summary = restorer.run(|report| lines.push(report.to_string()))?;
        if summary.failed() > 0 || !summary.has_changed() {
            bail!("restore gave nothing back: {}", lines.join("; "));
        }
        Ok(lines)
    }

    /// Whether the chain's plugins are those of this collection, whose ADD may run again.
    pub(super) fn is_restorable(&self) -> bool {
        let path = exec::find(MetaPlugin::Portmap.as_str(), &self.runner.plugin_dirs);
        path.is_ok_and(|path| MetaPlugin::Portmap.is_at(&path))
    }

    /// Each plugin and the file it is run from.
    pub(super) fn programs(&self) -> Result<Vec<(String, PathBuf)>> {
        let plugins = self.list.plugins.iter().map(|plugin| &plugin.plugin_type);
        let find = |plugin: &String| {
            let path = exec::find(plugin, &self.runner.plugin_dirs)?;
            // demo-bridge is a link to this program; what runs is more telling.
            Ok((plugin.clone(), path.canonicalize().unwrap_or(path)))
        };
        plugins.map(find).collect()
    }
}

fn newest_common_version(runner: &Runner, stages: &[Stage]) -> Result<CniVersion> {
    let mut common = CniVersion::ALL.to_vec();
    for stage in stages {
        let supported = runner.version(stage.plugin).with_context(|| {
            format!("cannot use plugin {:?}: name its directory with --plugin-dir", stage.plugin)
        })?;
        common.retain(|version| supported.iter().any(|text| text == version.as_str()));
    }
    common.pop().context("the plugins have no protocol version in common")
}

/// Compact JSON with room to read between its values. Nothing in the demo has a quote inside a
/// string.
fn spaced(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let mut in_string = false;
    for character in json.chars() {
        in_string ^= character == '"';
        match character {
            '}' if !in_string => text.push(' '),
            _ => {}
        }
        text.push(character);
        if !in_string && matches!(character, ',' | ':' | '{') {
            text.push(' ');
        }
    }
    text
}

/// As in `portmap 12`, in milliseconds.
impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.took.as_secs_f64() * 1000.0;
        let decimals = usize::from(took < 10.0);
        write!(f, "{} {took:.decimals$}", self.plugin_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_spaced_outside_strings_only() {
        assert_eq!(
            spaced(r#"{"a":["fd00::1/64","b"],"c":{"d":true}}"#),
            r#"{ "a": ["fd00::1/64", "b"], "c": { "d": true } }"#
        );
    }
}
