//! The systemd units that restore containers' rules, with the path of the installed command.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cni_common::kernel::program;

use super::durable::{Draft, sync_directory};

const DIRECTORY: &str = "/etc/systemd/system";
/// Where the command is in the units as they are written.
const WRITTEN_PATH: &str = "/opt/cni/bin/cni-chain";
/// There while systemd runs (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";
const DEADLINE: Duration = Duration::from_mins(1);

/// Their names, and their texts.
const UNITS: [(&str, &str); 2] = [
    (
        "cni-chain-restore-watch.service",
        include_str!("../../../deploy/systemd/cni-chain-restore-watch.service"),
    ),
    (
        "cni-chain-restore.service",
        include_str!("../../../deploy/systemd/cni-chain-restore.service"),
    ),
];

/// The names.
pub(crate) fn names() -> [&'static str; 2] {
    UNITS.map(|(name, _)| name)
}

/// Whether all of them are there as they would be installed.
pub(crate) fn are_installed(command: &Path) -> bool {
    UNITS.iter().all(|(name, text)| {
        fs::read_to_string(Path::new(DIRECTORY).join(name))
            .is_ok_and(|there| there == text_for(text, command))
    })
}

/// Whether one of them is there.
pub(crate) fn is_any_installed() -> bool {
    UNITS.iter().any(|(name, _)| Path::new(DIRECTORY).join(name).exists())
}

/// Writes them, and has systemd enable and start them.
pub(crate) fn install(command: &Path) -> anyhow::Result<()> {
    if !Path::new(BOOTED).exists() {
        bail!("systemd does not run on this host: leave out --systemd");
    }
    for (name, text) in UNITS {
        let path = Path::new(DIRECTORY).join(name);
        Draft::write(&path, text_for(text, command).as_bytes(), 0o644)
            .and_then(Draft::place)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    sync_directory(Path::new(DIRECTORY)).context(DIRECTORY)?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", UNITS[0].0, UNITS[1].0])?;
    // It restores what is missing at its start; the other one follows other services.
    systemctl(&["restart", UNITS[0].0])
}

/// Has systemd stop and disable them, and deletes them.
pub(crate) fn remove() -> anyhow::Result<()> {
    if !is_any_installed() {
        return Ok(());
    }
    let is_booted = Path::new(BOOTED).exists();
    if is_booted {
        systemctl(&["disable", "--now", UNITS[0].0, UNITS[1].0])?;
    }
    for (name, _) in UNITS {
        let path = Path::new(DIRECTORY).join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    if is_booted { systemctl(&["daemon-reload"]) } else { Ok(()) }
}

fn text_for(text: &str, command: &Path) -> String {
    text.replace(WRITTEN_PATH, &command.display().to_string())
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let line = format!("systemctl {}", arguments.join(" "));
    let mut systemctl = Command::new("systemctl");
    systemctl.args(arguments);
    let output =
        program::run_within(systemctl, b"", DEADLINE).with_context(|| line.clone())?.output;
    if output.status.success() {
        return Ok(());
    }
    bail!("{line}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_run_the_command_that_was_installed() {
        for (name, text) in UNITS {
            assert!(text.contains(&format!("ExecStart={WRITTEN_PATH} restore")), "{name}");
            let text = text_for(text, Path::new("/usr/libexec/cni/cni-chain"));
            assert!(text.contains("ExecStart=/usr/libexec/cni/cni-chain restore"), "{name}");
            assert!(!text.contains("/opt/cni/bin"), "{name}: {text}");
        }
    }
}
