//! Commands that a page names in passing, or that cannot be run in a box: the real program knows them.

use std::fs;
use std::path::Path;

use super::session::bash;
use super::top;

/// What a page leaves out of a command that it only names.
const COMPLETED: [(&str, &str); 8] = [
    ("nft list", "nft list ruleset"),
    ("nft -f", "nft -f /dev/null"),
    ("nft -j", "nft -j list ruleset"),
    ("nft -j -f", "nft -j -f - <<<'{\"nftables\": []}'"),
    ("nft flush table …", "nft flush table inet filter"),
    ("nft flush map …", "nft flush map inet filter m"),
    ("tc qdisc del …", "tc qdisc del dev lo root"),
    ("tc qdisc replace …", "tc qdisc replace dev lo root noqueue"),
];

/// A host on which named commands find what they are about.
const HOST: &str = "nft 'table inet filter { map m { type inet_service : ipv4_addr; }; \
    chain forward { type filter hook forward priority 0; }; }
    table inet cni_firewall { }; table inet cni_portmap { }'; \
    tc qdisc replace dev lo root pfifo_fast";

/// Values for what stands in capitals.
const PLACEHOLDERS: [(&str, &str); 12] = [
    ("ADDRESS", "192.0.2.1"),
    ("COMMAND", "add"),
    ("CONTAINER", "web"),
    ("DIR", "/tmp"),
    ("FILE", "file"),
    ("ID", "web"),
    ("NAME", "podnet"),
    ("NETNS", "web"),
    ("NETWORK", "podnet"),
    ("PLUGIN", "portmap"),
    ("PORT", "8080"),
    ("SECONDS", "10"),
];

/// Programs that a case fails without, so that no command of theirs is passed over.
const PROGRAMS: [&str; 15] = [
    "cni-chain",
    "conntrack",
    "firewall-cmd",
    "ip",
    "ip6tables",
    "iptables",
    "iptables-restore",
    "iptables-save",
    "jq",
    "kubectl",
    "nft",
    "sysctl",
    "systemctl",
    "systemd-analyze",
    "tc",
];

/// What follows a family in nft's words, where a program has the family's name.
const NOT_OF_PROGRAMS: [&str; 5] = ["filter", "saddr", "daddr", "cni_firewall", "cni_hostport"];

/// Whether a span in the text is a command, rather than words of something else.
pub(super) fn is_command(page: &str, span: &str) -> bool {
    let mut words = span.split(' ');
    let (Some(program), Some(second)) = (words.next(), words.next()) else { return false };
    match program {
        "ip" | "bridge" if NOT_OF_PROGRAMS.contains(&second) => false,
        // Errors begin with the plugin's name, too.
        "portmap" | "bandwidth" | "tuning" | "firewall" => second.starts_with('-'),
        _ => span != "file exists" && (PROGRAMS.contains(&program) || exists(page, program)),
    }
}

fn exists(page: &str, program: &str) -> bool {
    if program.starts_with("./") {
        return script(page, program).is_some();
    }
    let name =
        !program.is_empty() && program.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    name && bash(&format!("type -P {program} >/dev/null")).status().expect("bash").success()
}

/// A script that a page names is beside it, or at the top.
fn script(page: &str, name: &str) -> Option<String> {
    let beside = top().join(page).parent().expect("a directory").join(name);
    let path = [beside, top().join(name)].into_iter().find(|path| path.is_file())?;
    Some(path.display().to_string())
}

/// Fails unless the program that it is for knows the command.
#[track_caller]
pub(super) fn command(page: &str, command: &str) {
    let mut words: Vec<&str> =
        command.split_whitespace().skip_while(|word| *word == "sudo").collect();
    if words.first().is_some_and(|program| program.ends_with("/cni-chain")) {
        // The same, where it was built or installed.
        words[0] = "cni-chain";
    }
    let [program, rest @ ..] = words.as_slice() else { panic!("{page}: no command: {command}") };
    let verb = *rest.first().unwrap_or(&"");
    match *program {
        "cni-chain" if verb == "help" => succeeds(page, &filled_in(&words)),
        "cni-chain" => succeeds(page, &format!("{} --help", filled_in(&words))),
        "portmap" | "bandwidth" | "tuning" | "firewall" => succeeds(page, command),
        "podman" => succeeds(page, &format!("{command} --help")),
        "nft" | "tc" | "ip" | "iptables" | "ip6tables" | "iptables-save" | "iptables-restore"
        | "sysctl" | "conntrack" => {
            let completed = COMPLETED.iter().find(|(named, _)| *named == command);
            let command = completed.map_or(command, |(_, completed)| completed);
            let command = filled_in(&command.split(' ').collect::<Vec<_>>());
            // A command that does not end is one that was understood.
            succeeds(page, &format!("{HOST}; timeout 1 {command} || [ $? = 124 ]"));
        }
        "systemctl" | "systemd-analyze" | "firewall-cmd" => {
            is_in(page, command, verb, &printed(&format!("{program} --help")));
            units(page, rest);
        }
        "kubectl" => kubectl(page, command, rest),
        "./dev" => is_in(page, command, verb, &printed("$CHECKOUT/dev help")),
        "cargo" => packages(page, rest),
        "apt" | "dnf" | "tar" => packed(page, rest),
        // Asked on a clean Debian, by `./dev dist --check`.
        "dpkg" | "rpm" => {
            let asked = fs::read_to_string(top().join("deploy/package/check-inside"));
            let asks = asked.expect("the script").contains(&format!("$({program} {verb} "));
            assert!(asks, "{page}: check-inside asks no {program} {verb}");
        }
        // deploy/try-image builds in a box what the Dockerfile says.
        "buildah" => {
            let file = fs::read_to_string(top().join("deploy/Dockerfile")).expect("the file");
            let told = file.lines().find(|line| line.contains(&format!("buildah {verb} ")));
            let told = told.unwrap_or_else(|| panic!("{page}: the Dockerfile has no {command}"));
            let options = rest.iter().filter(|word| word.starts_with('-'));
            options.for_each(|option| is_in(page, command, option, told));
        }
        "mv" | "cp" | "ln" | "install" => assert!(exists(page, program), "{page}: {command}"),
        _ => {
            let path = if program.starts_with("./") {
                script(page, program)
            } else {
                Some(top().join(program).display().to_string())
            };
            let options = rest.iter().filter(|word| word.starts_with("--") && **word != "--help");
            let path = path.filter(|path| Path::new(path).is_file());
            let path = path.unwrap_or_else(|| panic!("{page}: no rule tries {command:?}"));
            let help = printed(&format!("{path} --help"));
            options.for_each(|option| is_in(page, command, option, &help));
        }
    }
}

/// Fails unless kubectl knows the command and its options, and the directories of `-k` give manifests.
#[track_caller]
fn kubectl(page: &str, command: &str, words: &[&str]) {
    let words = words.strip_prefix(&["-n", "kube-system"]).unwrap_or(words);
    let verbs: Vec<&str> = words.iter().copied().take_while(|word| is_verb(word)).collect();
    let help = printed(&format!("kubectl {} --help", verbs.join(" ")));
    let known = help.contains(&format!("\n  kubectl {} ", verbs.join(" ")));
    assert!(known, "{page}: {command}: kubectl knows no {verbs:?}");
    words.iter().filter(|word| word.starts_with("--")).for_each(|option| {
        assert!(help.contains(&format!(" {option}=")), "{page}: {command}: there is no {option}");
    });
    if let Some(at) = words.iter().position(|word| *word == "-k") {
        succeeds(page, &format!("kubectl kustomize {}", words[at + 1]));
    }
}

fn is_verb(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase())
}

/// Fails unless `./dev dist` makes the file that a command installs.
#[track_caller]
fn packed(page: &str, words: &[&str]) {
    let made = fs::read_to_string(top().join("deploy/package/build")).expect("the script");
    let pattern = words.iter().find_map(|word| word.split_once("dist/"));
    let (_, pattern) = pattern.unwrap_or_else(|| panic!("{page}: no file of dist/ in {words:?}"));
    let is_made = |line: &str| pattern.split('*').all(|part| line.contains(part));
    assert!(made.lines().any(is_made), "{page}: deploy/package/build makes no {pattern}");
}

/// Fails unless a synopsis is of what the command accepts, and of each of its commands.
#[track_caller]
pub(super) fn usage(synopsis: &str) {
    let known = printed("cni-chain --help");
    let known = known.lines().skip_while(|line| *line != "Commands:").skip(1);
    let known = known.take_while(|line| !line.is_empty());
    let known = known
        .filter_map(|line| line.split_whitespace().next().filter(|_| !line.starts_with("   ")));
    for name in known.filter(|name| *name != "help") {
        let line = synopsis.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
        assert!(line, "the synopsis lacks {name}");
    }
    for line in synopsis.lines() {
        let name = line.split_whitespace().nth(1).expect("a command");
        let help = printed(&format!("cni-chain {name} --help"));
        for word in line.split([' ', '[', ']', '…', '|']).filter(|word| word.starts_with("--")) {
            is_in("docs/cni-chain.md", line, word, &help);
        }
    }
}

fn filled_in(words: &[&str]) -> String {
    let value = |word: &&str| {
        let of = PLACEHOLDERS.iter().find(|(name, _)| name == word);
        of.map_or(*word, |(_, value)| value).to_owned()
    };
    words.iter().map(value).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn succeeds(page: &str, script: &str) {
    let output = bash(script).output().expect("bash");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{page}: {script}: {error}");
}

fn printed(script: &str) -> String {
    let output = bash(script).output().expect("bash");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn is_in(page: &str, command: &str, word: &str, help: &str) {
    let there =
        help.split(|c: char| c.is_whitespace() || ",=[]".contains(c)).any(|one| one == word);
    assert!(there, "{page}: {command}: there is no {word} in {help}");
}

/// Units of ours that are named exist.
#[track_caller]
fn units(page: &str, words: &[&str]) {
    for unit in words.iter().filter(|word| word.starts_with("cni-chain")) {
        let file = top().join("deploy/systemd").join(unit.trim_end_matches(".service"));
        assert!(file.with_extension("service").is_file(), "{page}: there is no unit {unit}");
    }
}

/// Packages of ours that are named exist, and so do their tests.
#[track_caller]
fn packages(page: &str, words: &[&str]) {
    let after = |option: &str| words.iter().skip_while(|word| **word != option).nth(1).copied();
    let Some(package) = after("-p") else { return };
    let manifests = [
        "common",
        "portmap",
        "bandwidth",
        "tuning",
        "firewall",
        "integration",
        "integration/testbox",
    ];
    let named = format!("name = \"{package}\"");
    let directory = manifests.iter().map(|directory| top().join(directory)).find(|directory| {
        fs::read_to_string(directory.join("Cargo.toml")).is_ok_and(|text| text.contains(&named))
    });
    let directory = directory.unwrap_or_else(|| panic!("{page}: there is no package {package}"));
    let cases = words.iter().filter_map(|word| word.rsplit_once("::")).map(|(_, name)| name);
    for name in cases.filter(|name| !name.is_empty()) {
        let tests = directory.join("tests");
        succeeds(page, &format!("grep -rq 'fn {name}' {}", tests.display()));
    }
    if let Some(test) = after("--test").or_else(|| after("--bench")) {
        let files = ["tests", "benches"].map(|place| directory.join(place).join(test));
        let there = files.iter().any(|file| file.is_dir() || file.with_extension("rs").is_file());
        assert!(there, "{page}: {package} has no test {test}");
    }
}
