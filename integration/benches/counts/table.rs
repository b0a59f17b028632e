//! `counts.txt`: what each call took when it was last written, and why it took more than before.

use std::fmt;

/// Rises and falls up to this part of the written number are not told from chance and from the
/// linker's mood.
const TOLERANCE: f64 = 0.02;
/// What stands in the file until somebody has written why a number rose.
const UNEXPLAINED: &str = "REASON?";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/counts.txt");

/// A line of the file.
#[derive(Clone)]
pub(super) struct Count {
    pub(super) plugin: String,
    pub(super) backend: String,
    pub(super) command: String,
    pub(super) instructions: u64,
    /// Why it rose, where it did.
    pub(super) reason: String,
}

impl Count {
    fn parse(line: &str) -> Option<Self> {
        let (words, reason) = line.split_once("  # ").unwrap_or((line, ""));
        let [plugin, backend, command, instructions] =
            *words.split_whitespace().collect::<Vec<_>>()
        else {
            return None;
        };
        Some(Self {
            plugin: plugin.to_owned(),
            backend: backend.to_owned(),
            command: command.to_owned(),
            instructions: instructions.parse().ok()?,
            reason: reason.to_owned(),
        })
    }

    fn is_of(&self, other: &Self) -> bool {
        (&self.plugin, &self.backend, &self.command)
            == (&other.plugin, &other.backend, &other.command)
    }

    /// 0.01 is one per cent more than `before`.
    fn rise(&self, before: &Self) -> f64 {
        let [now, before] = [self, before]
            .map(|count| f64::from(u32::try_from(count.instructions).expect("a short call")));
        now / before - 1.0
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugin, backend, command, instructions, reason } = self;
        write!(f, "{plugin:<10} {backend:<9} {command:<8} {instructions:>8}")?;
        if reason.is_empty() { Ok(()) } else { write!(f, "  # {reason}") }
    }
}

/// `counts.txt`: a heading, and then the counts.
pub(super) struct Table {
    heading: Vec<String>,
    counts: Vec<Count>,
}

impl Table {
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string(FILE).expect(FILE);
        let (heading, counts): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.is_empty() || line.starts_with('#'));
        let count = |line: &&str| Count::parse(line).unwrap_or_else(|| panic!("{FILE}: {line}"));
        Self {
            heading: heading.into_iter().map(str::to_owned).collect(),
            counts: counts.iter().map(count).collect(),
        }
    }

    fn before(&self, now: &Count) -> Option<&Count> {
        self.counts.iter().find(|before| before.is_of(now))
    }

    /// With the numbers of today, where they are others. A number within the tolerance stays: many
    /// small rises shall not add up unseen.
    pub(super) fn updated(&self, counted: &[Count]) -> Self {
        let update = |now: &Count| -> Count {
            match self.before(now) {
                Some(before) if now.rise(before).abs() <= TOLERANCE => before.clone(),
                Some(before) if now.rise(before) > TOLERANCE => {
                    let rise = now.rise(before) * 100.0;
                    let reason =
                        format!("{UNEXPLAINED} (+{rise:.1} % from {})", before.instructions);
                    Count { reason, ..now.clone() }
                }
                _ => now.clone(),
            }
        };
        Self { heading: self.heading.clone(), counts: counted.iter().map(update).collect() }
    }

    /// Prints one line for each count, and says whether none is too high and each rise has its
    /// reason.
    pub(super) fn compare(&self, counted: &[Count]) -> bool {
        println!("{:<10} {:<9} {:<8} {:>8}", "plugin", "backend", "command", "count");
        let mut good = true;
        for now in counted {
            let (change, verdict) = match self.before(now) {
                None => ("new".to_owned(), "NOT IN THE FILE"),
                Some(before) => {
                    let rise = now.rise(before);
                    let verdict = if rise > TOLERANCE {
                        "TOO HIGH"
                    } else if before.reason.starts_with(UNEXPLAINED) {
                        "NO REASON GIVEN"
                    } else {
                        ""
                    };
                    (format!("{:+.1} %", rise * 100.0), verdict)
                }
            };
            println!("{now}  {change:>7}  {verdict}");
            good &= verdict.is_empty();
        }
        if !good {
            println!(
                "\nIf it has to cost more, run `./dev counts --update` and write the reason into \
                 integration/benches/counts.txt"
            );
        }
        good
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.heading.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.counts.iter().try_for_each(|count| writeln!(f, "{count}"))
    }
}
