//! A line of what a run has shown.

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) runtime: String,
    /// Two numbers: a patch release is no other version, and is uploaded to a distribution at any time.
    pub(crate) version: String,
    pub(crate) backend: String,
    pub(crate) plugin: String,
    pub(crate) what: String,
    pub(crate) result: String,
}

/// What a command has shown that CI does not run.
#[derive(Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) lines: Vec<Line>,
}

const BEGIN: &str = "compat| ";

/// The lines in a log, wherever in a line of it they begin.
pub(crate) fn all(log: &str) -> Result<Vec<Line>, String> {
    let begun = log.lines().filter_map(|line| line.find(BEGIN).map(|at| &line[at + BEGIN.len()..]));
    begun.map(read).collect()
}

/// Runs, each behind a line `# DATE: COMMAND`.
pub(crate) fn runs(text: &str) -> Result<Vec<Run>, String> {
    let mut runs: Vec<Run> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some((date, command)) =
            line.strip_prefix("# ").and_then(|line| line.split_once(": "))
        {
            runs.push(Run { date: date.into(), command: command.into(), lines: Vec::new() });
        } else {
            let run = runs.last_mut().ok_or_else(|| format!("no command before {line:?}"))?;
            run.lines.extend(all(line)?);
        }
    }
    Ok(runs)
}

fn read(text: &str) -> Result<Line, String> {
    let fields: Vec<&str> = text.split('|').map(str::trim).collect();
    // The kernel is the builder's own, or has a row of its own.
    let [runtime, version, _kernel, backend, plugin, what, result] = fields[..] else {
        return Err(format!("not seven fields: {text:?}"));
    };
    Ok(Line {
        runtime: runtime.into(),
        version: number(version),
        backend: backend.into(),
        plugin: plugin.into(),
        what: what.into(),
        result: result.into(),
    })
}

/// The first two numbers of a version, and what stands before them.
pub(crate) fn number(version: &str) -> String {
    let begin = version.find(|c: char| c.is_ascii_digit()).unwrap_or(version.len());
    let (before, numbers) = version.split_at(begin);
    let end = numbers.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(numbers.len());
    before.to_owned() + &numbers[..end].split('.').take(2).collect::<Vec<_>>().join(".")
}

#[test]
fn a_line_is_found_in_a_log() {
    let log = "PASS x\n    compat| podman | 4.3.1 | 6.18.44 | nftables | tuning | --mac-address | works\nend";
    let [line] = &all(log).expect("seven fields")[..] else { panic!("one line") };
    assert_eq!((&line.version[..], &line.what[..]), ("4.3", "--mac-address"));
    assert!(all("compat| podman | 4.3.1 | works").is_err());
}

#[test]
fn a_version_is_two_numbers() {
    let numbers = ["1.6.20~ds1", "7.2.13+deb14-amd64", "6", "", "CNI 1.0.0"].map(number);
    assert_eq!(numbers, ["1.6", "7.2", "6", "", "CNI 1.0"]);
}

#[test]
fn a_run_has_a_date_and_a_command() {
    let text = "# 2026-11-29: ./dev kernels 6.1\n\ncompat| a | 1 | 2 | b | c | d | works\n";
    let [run] = &runs(text).expect("a run")[..] else { panic!("one run") };
    assert_eq!((&run.date[..], &run.command[..]), ("2026-11-29", "./dev kernels 6.1"));
    assert_eq!(run.lines.len(), 1);
    assert!(runs("compat| a | 1 | 2 | b | c | d | works\n").is_err());
}
