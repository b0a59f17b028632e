//! What is told: a line of JSON for each series of numbers, which `integration/report` reads.

use serde_json::json;

/// What a series is of. What does not tell it from another is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Of {
    pub(super) scene: &'static str,
    pub(super) plugin: String,
    /// Whose plugin, or `start`, `kernel`: the floors.
    pub(super) by: String,
    pub(super) backend: String,
    pub(super) command: String,
    /// How many attachments, mappings or calls.
    pub(super) at: usize,
}

impl Of {
    pub(super) fn command(&self, command: &str) -> Self {
        Self { command: command.into(), ..self.clone() }
    }

    pub(super) fn at(&self, at: usize) -> Self {
        Self { at, ..self.clone() }
    }

    pub(super) fn by(&self, by: &str) -> Self {
        Self { by: by.into(), ..self.clone() }
    }

    /// One value for each round, in the order of the rounds.
    pub(super) fn tell(&self, quantity: &str, values: &[f64]) {
        let Self { scene, plugin, by, backend, command, at } = self;
        println!(
            "{}",
            json!({ "scene": scene, "plugin": plugin, "by": by, "backend": backend,
            "command": command, "at": at, "quantity": quantity, "values": values })
        );
    }

    /// Why there are no numbers of this.
    pub(super) fn note(&self, why: &str) {
        let Self { scene, plugin, by, backend, command, at } = self;
        eprintln!("report: {scene}: {plugin} {by} {backend} {command} {at}: {why}");
        println!(
            "{}",
            json!({ "scene": scene, "plugin": plugin, "by": by, "backend": backend,
            "command": command, "at": at, "note": why })
        );
    }
}

/// A scene that broke off.
pub(super) fn failed(scene: &str, why: &str) {
    eprintln!("report: {scene} broke off: {why}");
    println!("{}", json!({ "failed": scene, "why": why }));
}

/// A line of the page's head.
pub(super) fn fact(name: &str, value: &str) {
    println!("{}", json!({ "fact": name, "value": value }));
}
