//! Programs that a plugin runs and that do not do what they should: a script in front of iptables' own
//! programs, which goes wrong at one of their runs.

use std::fs;

use crate::stubs::{IPTABLES_RESTORES, IPTABLES_SAVES, stubs};

/// Counts the runs, and is the real program before one of them, and after it if that goes wrong but once
/// or another program did.
const SCRIPT: &str = "cd /run/stubs
read -r count <count
echo $((count + 1)) >count
echo ${0##*/} >>runs
read -r at program until <at
[ $count -ge $at ] && [ $count -le $until ] && [ $program = ${0##*/} ] || exec $real \"$@\"
. ./misdeed";
/// More than any plugin runs.
const FOR_GOOD: usize = 1000;

/// What a program does wrong, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Misdeed {
    pub(super) what: &'static str,
    script: &'static str,
    of: Of,
    /// Whether the next run of the program is as it should be.
    once: bool,
    /// Whether trying again helps; none where nobody can say.
    pub(super) passes: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Any,
    Save,
    Restore,
}

const fn once(what: &'static str, of: Of, script: &'static str) -> Misdeed {
    Misdeed { what, script, of, once: true, passes: None }
}

const fn for_good(what: &'static str, of: Of, script: &'static str) -> Misdeed {
    Misdeed { what, script, of, once: false, passes: None }
}

const MISDEEDS: [Misdeed; 11] = [
    once("fails once", Of::Any, "echo refused >&2; exit 1"),
    once("is killed", Of::Any, "kill -KILL $$"),
    for_good("fails", Of::Any, "echo refused >&2; exit 1"),
    for_good("lacks something", Of::Any, "echo memory >&2; exit 4"),
    for_good("prints garbage", Of::Save, "echo garbage"),
    for_good("prints nothing", Of::Save, "exit 0"),
    for_good(
        "prints half",
        Of::Save,
        "text=$($real \"$@\"); printf %s \"$text\" | head -c $((${#text} / 2))",
    ),
    for_good("prints all and fails", Of::Save, "$real \"$@\"; exit 1"),
    for_good("does not read", Of::Restore, "exec <&-; exit 1"),
    once("does it and fails", Of::Restore, "$real \"$@\"; exit 1"),
    once("does it and is killed", Of::Restore, "$real \"$@\"; kill -KILL $$"),
];

/// Takes as long as a plugin bears with it, so it is only tried where all is.
pub(super) const HANGS: Misdeed =
    Misdeed { passes: Some(true), ..once("hangs", Of::Any, "sleep 100") };

/// What a program of this name can do wrong.
pub(super) fn misdeeds(program: &str) -> impl Iterator<Item = Misdeed> {
    let of = if program.ends_with("save") { Of::Save } else { Of::Restore };
    MISDEEDS.into_iter().filter(move |misdeed| misdeed.of == Of::Any || misdeed.of == of)
}

/// Makes the n-th run, which is one of `program`, go wrong, and returns the `PATH` for that.
pub(super) fn prepare(at: usize, program: &str, misdeed: &Misdeed) -> String {
    let until = if misdeed.once { at } else { FOR_GOOD };
    put_in_place(&format!("{at} {program} {until}"), misdeed.script)
}

/// Only counts.
pub(super) fn prepare_to_count() -> String {
    put_in_place("0 none 0", "")
}

fn put_in_place(at: &str, script: &str) -> String {
    let path = stubs(&[IPTABLES_SAVES, IPTABLES_RESTORES].concat(), SCRIPT);
    for (name, text) in [("count", "0"), ("at", at), ("misdeed", script), ("runs", "")] {
        let text = if text.is_empty() { String::new() } else { format!("{text}\n") };
        fs::write(format!("/run/stubs/{name}"), text).expect("a file of the box");
    }
    path
}

/// The names of the programs that ran.
pub(super) fn runs() -> Vec<String> {
    let text = fs::read_to_string("/run/stubs/runs").expect("a file of the box");
    text.lines().map(str::to_owned).collect()
}
