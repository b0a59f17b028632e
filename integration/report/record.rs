//! What the bench printed.

use serde_json::Value;

/// What a series is of. What does not tell it from another is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Of<'a> {
    pub(crate) scene: &'a str,
    pub(crate) plugin: &'a str,
    /// Whose plugin, or one of the floors.
    pub(crate) by: &'a str,
    pub(crate) backend: &'a str,
    pub(crate) command: &'a str,
    /// How many attachments, mappings or calls.
    pub(crate) at: u64,
}

impl<'a> Of<'a> {
    pub(crate) fn scene(scene: &'a str) -> Self {
        Self { scene, ..Self::default() }
    }

    pub(crate) fn plugin(self, plugin: &'a str) -> Self {
        Self { plugin, ..self }
    }

    pub(crate) fn by(self, by: &'a str, backend: &'a str) -> Self {
        Self { by, backend, ..self }
    }

    pub(crate) fn command(self, command: &'a str) -> Self {
        Self { command, ..self }
    }

    pub(crate) fn at(self, at: u64) -> Self {
        Self { at, ..self }
    }
}

#[derive(Debug)]
struct Line {
    scene: String,
    plugin: String,
    by: String,
    backend: String,
    command: String,
    at: u64,
}

impl Line {
    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| Some(value[key].as_str()?.to_owned());
        Some(Self {
            scene: text("scene")?,
            plugin: text("plugin")?,
            by: text("by")?,
            backend: text("backend")?,
            command: text("command")?,
            at: value["at"].as_u64()?,
        })
    }

    fn of(&self) -> Of<'_> {
        Of {
            scene: &self.scene,
            plugin: &self.plugin,
            by: &self.by,
            backend: &self.backend,
            command: &self.command,
            at: self.at,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Record {
    facts: Vec<(String, String)>,
    series: Vec<(Line, String, Vec<f64>)>,
    notes: Vec<(Line, String)>,
    /// Scenes that broke off.
    failed: Vec<(String, String)>,
}

impl Record {
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut record = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            record
                .take(line)
                .ok_or_else(|| format!("line {number} is none of the bench's: {line}"))?;
        }
        Ok(record)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        if let Some(fact) = text("fact") {
            self.facts.push((fact, text("value")?));
        } else if let Some(scene) = text("failed") {
            self.failed.push((scene, text("why")?));
        } else if let Some(note) = text("note") {
            self.notes.push((Line::read(&value)?, note));
        } else {
            let values = value["values"].as_array()?.iter().map(Value::as_f64);
            let series = (Line::read(&value)?, text("quantity")?, values.collect::<Option<_>>()?);
            self.series.push(series);
        }
        Some(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// In the order of the rounds; empty where it was not measured.
    pub(crate) fn values(&self, of: Of<'_>, quantity: &str) -> &[f64] {
        let found = self.series.iter().find(|(line, name, _)| line.of() == of && name == quantity);
        found.map_or(&[], |(_, _, values)| values)
    }

    /// Everybody who was measured in a scene, with the backend, in the order of the record.
    pub(crate) fn measured(&self, scene: &str, plugin: &str) -> Vec<(&str, &str)> {
        let mut all = Vec::new();
        for (line, ..) in &self.series {
            let one = (line.by.as_str(), line.backend.as_str());
            let is_floor = FLOORS.contains(&line.by.as_str());
            if line.scene == scene && line.plugin == plugin && !is_floor && !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }

    pub(crate) fn fact(&self, name: &str) -> &str {
        let found = self.facts.iter().find(|(fact, _)| fact == name);
        found.map_or("not told", |(_, value)| value)
    }

    /// As `Go 1.1.1`; whose plugins they are, and their version.
    pub(crate) fn label(&self, by: &str) -> String {
        let versions = self.facts.iter().filter(|(fact, _)| fact == "implementation");
        let mut versions = versions.filter_map(|(_, value)| value.split_once('\t'));
        match versions.find(|(name, _)| *name == by) {
            Some((_, version)) if by != OURS && !["", "unknown"].contains(&version) => {
                format!("{by} {}", version.trim_start_matches('v'))
            }
            _ => by.to_owned(),
        }
    }

    /// What could not be measured, and why.
    pub(crate) fn missing(&self) -> Vec<[String; 3]> {
        let failed = self.failed.iter().map(|(scene, why)| {
            [scene.clone(), "the rest of it".to_owned(), format!("it broke off: {why}")]
        });
        let notes = self.notes.iter().map(|(line, why)| {
            let at = if line.at > 0 { line.at.to_string() } else { String::new() };
            let by = self.label(&line.by);
            let words = [line.plugin.as_str(), &by, &line.backend, &line.command, &at];
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            [line.scene.clone(), words.join(" "), why.clone()]
        });
        failed.chain(notes).collect()
    }
}

pub(crate) const OURS: &str = "ours";
/// Debian's.
pub(crate) const GO: &str = "Go";
/// An empty program, and a call's messages without the call.
pub(crate) const FLOORS: [&str; 2] = ["start", "kernel"];
pub(crate) const PLUGINS: [&str; 4] = ["portmap", "firewall", "bandwidth", "tuning"];

/// Where ours runs no program.
pub(crate) fn native(plugin: &str) -> &'static str {
    match plugin {
        "bandwidth" => "tc",
        "tuning" => "netns",
        _ => "nftables",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn line(of: Of<'_>, quantity: &str, values: &[f64]) -> String {
        let Of { scene, plugin, by, backend, command, at } = of;
        let line = serde_json::json!({ "scene": scene, "plugin": plugin, "by": by, "backend": backend,
            "command": command, "at": at, "quantity": quantity, "values": values });
        format!("{line}\n")
    }

    #[test]
    fn what_was_printed_is_found() {
        let of = Of::scene("calls").plugin("portmap").by(OURS, "nftables").command("ADD");
        let text = line(of, "cpu", &[1.0, 2.5])
            + "{\"fact\":\"implementation\",\"value\":\"Go\\tv1.1.1\"}\n"
            + "{\"failed\":\"limits\",\"why\":\"no iperf3\"}\n";
        let record = Record::read(&text).expect("lines");
        assert_eq!(record.values(of, "cpu"), [1.0, 2.5]);
        assert!(record.values(of.command("DEL"), "cpu").is_empty());
        assert_eq!(record.label(GO), "Go 1.1.1");
        assert_eq!(record.measured("calls", "portmap"), [(OURS, "nftables")]);
        assert_eq!(record.missing()[0][2], "it broke off: no iperf3");
        assert!(Record::read("{}\n").is_err());
    }
}
