//! `cni-chain status`: could the network's plugins serve ADD.

use anyhow::bail;
use cni_common::cni::protocol::CniVersion;

use super::network::load;
use super::privilege::may_administer_network;
use super::{runner, say};
use crate::cli::StatusOptions;
use crate::lint::versions;
use crate::runner::asking::Asked;
use crate::runner::plugins::MetaPlugin;
use crate::runner::{NetworkList, PluginConf, Runner};
use crate::terminal::Terminal;

/// What became of the question.
enum Answer {
    /// ADD could be served; what the plugin said about it, such as its backend.
    Yes(String),
    /// The same, of a plugin that no runtime would ask.
    YesInNewerVersion(String),
    /// The plugin was not asked, and why.
    None(String),
    /// ADD would fail, and why.
    No(String),
}

/// STATUS: a line for each plugin.
pub(super) fn status(options: &StatusOptions) -> anyhow::Result<()> {
    let list = load(&options.network.conf)?;
    let runner = runner(&options.network);
    let terminal = Terminal::stdout();
    let (mut failed, mut is_too_old) = (0, false);
    for plugin in &list.plugins {
        let answer = match ask(&runner, &list, plugin) {
            Answer::Yes(said) => format!("ok{said}"),
            Answer::YesInNewerVersion(said) => {
                is_too_old = true;
                format!("ok{said}")
            }
            Answer::None(why) => format!("not asked: {why}"),
            Answer::No(why) => {
                failed += 1;
                format!("failed: {why}")
            }
        };
        say(&terminal.paragraph(&format!("{}: {answer}", plugin.plugin_type)))?;
    }
    if is_too_old {
        say(&terminal.paragraph(&format!(
            "Runtimes do not ask: the list's cniVersion is {:?}, and STATUS came with {}.",
            list.cni_version,
            CniVersion::V1_1_0
        )))?;
    }
    match failed {
        0 => Ok(()),
        failed => bail!(
            "{failed} of the {} plugins of network {} could not serve add",
            list.plugins.len(),
            list.name
        ),
    }
}

fn ask(runner: &Runner, list: &NetworkList, plugin: &PluginConf) -> Answer {
    let (list, newer) = match Asked::of(plugin, list, CniVersion::V1_1_0, runner) {
        Ok(Asked::As(list)) => (list, false),
        Ok(Asked::AsNewer(list)) => (list, true),
        Ok(Asked::Not(why)) => return Answer::None(why),
        Err(error) => return Answer::No(error.to_string()),
    };
    let needs_privilege = MetaPlugin::by_type(&plugin.plugin_type).is_some();
    if needs_privilege && !may_administer_network() {
        return Answer::No("only root can tell: run this command with sudo".to_owned());
    }
    match runner.ask_status(&list, plugin) {
        Ok(said) if newer => Answer::YesInNewerVersion(remark(&said)),
        Ok(said) => Answer::Yes(remark(&said)),
        Err(error) => {
            // What a plugin says that does not know the command is no help: "missing containerID".
            let unknown = versions::unknown(&list, plugin, &runner.plugin_dirs).ok().flatten();
            Answer::No(unknown.unwrap_or_else(|| error.to_string()))
        }
    }
}

/// What a plugin wrote to stderr, as the end of a line: `, backend nftables: …`.
fn remark(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.flat_map(|line| [", ", line]).collect()
}
