//! The machine, its kernel, and the versions of what is measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use cni_testbox::GO_PLUGINS;

use crate::record::fact;
use crate::scenes::Setup;

pub(super) fn tell(setup: &Setup) {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let values = |key: &str| {
        let lines = cpuinfo.lines().filter(|line| line.starts_with(key));
        lines.filter_map(|line| Some(line.split_once(": ")?.1.to_owned())).collect::<Vec<_>>()
    };
    let is_guest = cpuinfo.contains(" hypervisor");
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let model = values("model name").first().cloned().unwrap_or_else(|| "a processor".into());
    let kind = if is_guest { "a virtual machine with " } else { "" };
    fact("machine", &format!("{kind}{processors} × {model}, {}", memory()));
    fact("kernel", &said("uname", &["-srm"]));
    fact("date", &said("date", &["+%F"]));
    fact("commit", &said("git", &["-c", "safe.directory=*", "describe", "--always", "--dirty"]));
    fact("nft", &said("nft", &["--version"]));
    fact("iptables", &said("iptables", &["--version"]));
    fact("rounds", if setup.quick { "quick" } else { "full" });
    for implementation in &setup.implementations {
        if implementation.directory == Path::new(GO_PLUGINS) {
            // Its banner says nothing.
            let version =
                said("dpkg-query", &["-W", "-f", "${Version}", "containernetworking-plugins"]);
            let upstream = version.split(['+', '-']).next().unwrap_or_default();
            fact("implementation", &format!("{}\t{upstream}", implementation.name));
            continue;
        }
        let banner = Command::new(implementation.directory.join("portmap")).env_clear().output();
        let banner = banner.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        let banner = banner.unwrap_or_default();
        let first = banner.lines().next().unwrap_or_default();
        let version = first.rsplit(' ').next().unwrap_or_default();
        fact("implementation", &format!("{}\t{version}", implementation.name));
    }
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    format!("{} GiB", total.unwrap_or(0).div_ceil(1 << 20))
}

fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|error| format!("{program}: {error}"))
}
