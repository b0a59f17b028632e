//! What the benchmarks share: the CPU time and the instructions of a call, and the limits that the
//! project promises to keep.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use crate::{Call, sh};

/// Compares each ratio with what the project promises.
#[derive(Debug, Default)]
pub struct Limits {
    missed: u32,
}

impl Limits {
    /// Prints a value beside its limit.
    pub fn line(&mut self, what: &str, value: f64, limit: f64, unit: &str) {
        let verdict = if value <= limit { "ok" } else { "MISSED" };
        self.missed += u32::from(value > limit);
        println!("  {what:<58} {value:>8.3}{unit}  (limit {limit:.3}{unit})  {verdict}");
    }

    /// With `--enforce`, makes a missed limit the exit status.
    pub fn conclude(&self) {
        if self.missed > 0 && std::env::args().any(|argument| argument == "--enforce") {
            std::process::exit(1);
        }
    }
}

/// A call for interface `eth0` of the container namespace `c1`.
pub fn call(plugin: &str, container: &str, stdin: &str) -> Call {
    Call::bare(plugin)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", "/run/netns/c1")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/usr/lib/cni")
        .stdin(stdin)
}

/// Portmap's call for TCP ports that lead to port 80 of this address.
pub fn port_mappings(address: &str, container: &str, ports: impl Iterator<Item = u16>) -> Call {
    let mappings: Vec<String> = ports
        .map(|port| format!(r#"{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}"#))
        .collect();
    let stdin = format!(
        r#"{{"cniVersion":"1.0.0","name":"bench","type":"portmap","runtimeConfig":{{"portMappings":[{}]}},
        "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"br0"}},{{"name":"eth0","sandbox":"/run/netns/c1"}}],
        "ips":[{{"address":"{address}/24","interface":1}}]}}}}"#,
        mappings.join(",")
    );
    call("portmap", container, &stdin)
}

/// Furnishes the host, in namespaces that [`enter_box`](crate::enter_box) led into.
pub fn furnish(commands: &[&str]) {
    for command in commands {
        sh(command);
    }
}

/// A bridge `br0` with 10.71.0.1, and the container `c1` on it with 10.71.0.2.
pub fn furnish_bridge() {
    furnish(&[
        "ip link set lo up",
        "ip netns add c1",
        "ip link add br0 type bridge",
        "ip addr add 10.71.0.1/24 dev br0",
        "ip link set br0 up",
        "ip link add v0 type veth peer name eth0 netns c1",
        "ip link set v0 master br0 up",
        "ip -n c1 addr add 10.71.0.2/24 dev eth0",
        "ip -n c1 link set eth0 up",
        "ip -n c1 link set lo up",
        "ip -n c1 route add default via 10.71.0.1",
    ]);
}

/// What a call took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// User and system time of the plugin and of its children.
    pub cpu: Duration,
    /// From before the process is made until it has been waited for.
    pub wall: Duration,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, wall: self.wall + other.wall }
    }
}

/// Keeps this thread on the last CPU, which has fewest interrupts on most machines; the CPUs that it had before.
pub fn stay_on_one_cpu() -> CpuSet {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).expect("the CPUs of this thread");
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu) == Ok(true));
    let mut one = CpuSet::new();
    one.set(last.expect("a CPU")).expect("its number is in range");
    sched_setaffinity(this_thread, &one).expect("a CPU of this thread's");
    allowed
}

/// What something took that makes children and waits for them.
pub fn cost_of<T>(work: impl FnOnce() -> T) -> (Cost, T) {
    let (before, start) = (children_cpu(), Instant::now());
    let done = work();
    let wall = start.elapsed();
    (Cost { cpu: children_cpu().saturating_sub(before), wall }, done)
}

impl Call {
    /// Runs a plugin with this command: what it took, and what it printed; or its error.
    pub fn cost(&self, plugin: &Path, command: &str) -> Result<(Cost, String), String> {
        let mut process = self.clone().command(command).process(plugin);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let (cost, (status, said)) = cost_of(|| {
            let mut child = self.feed(process.spawn().expect("the plugin starts"));
            let mut said = String::new();
            let stdout = child.stdout.as_mut().expect("a pipe");
            stdout.read_to_string(&mut said).expect("text");
            (child.wait().expect("wait"), said)
        });
        if status.success() {
            return Ok((cost, said));
        }
        Err(format!("{} {command}: {status}: {}", plugin.display(), said.trim()))
    }

    /// Runs a plugin with this command, which must succeed; its CPU time and that of its children.
    pub fn cpu(&self, plugin: &Path, command: &str) -> Duration {
        let mut process = self.clone().command(command).process(plugin);
        process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let (cost, status) = cost_of(|| {
            self.feed(process.spawn().expect("the plugin starts")).wait().expect("wait")
        });
        assert!(status.success(), "{} {command} failed", plugin.display());
        cost.cpu
    }

    /// The CPU time of ADD and DEL together.
    pub fn cpu_of_add_and_delete(&self, plugin: &Path) -> Duration {
        self.cpu(plugin, "ADD") + self.cpu(plugin, "DEL")
    }

    /// Prints how many instructions each command takes in user space. Counted, not timed: the same
    /// on a busy machine.
    pub fn print_instructions(&self, plugin: &Path) {
        println!("Instructions in user space (valgrind)");
        self.cpu_of_add_and_delete(plugin);
        for command in ["VERSION", "ADD", "CHECK", "DEL"] {
            match self.instructions(plugin, command) {
                Some(count) => println!("  {command:<8} {count:>9}"),
                None => println!(
                    "  {command:<8} not counted: valgrind (apt package valgrind) is missing"
                ),
            }
        }
    }

    /// The instructions of one call in user space, which must succeed; none without valgrind.
    pub fn instructions(&self, plugin: &Path, command: &str) -> Option<u64> {
        let text = self.callgrind(plugin, command, "/dev/null")?;
        let line = text.lines().find(|line| line.contains("Collected"))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// The functions that one call runs, by the linker's names; the plugin must have its symbols.
    pub fn functions(&self, plugin: &Path, command: &str) -> Vec<String> {
        const PROFILE: &str = "/run/callgrind.out";
        self.callgrind(plugin, command, PROFILE).expect("valgrind (apt package valgrind)");
        let profile = fs::read_to_string(PROFILE).expect("callgrind writes a profile");
        // As in `fn=(12) name` or `cfn=(12) name'2`, of which only the first of a function has the name.
        let name = |line: &str| {
            let named = line.strip_prefix("fn=(").or_else(|| line.strip_prefix("cfn=("))?;
            let (_, name) = named.split_once(") ")?;
            Some(name.split_once('\'').map_or(name, |(name, _)| name).to_owned())
        };
        profile.lines().filter_map(name).collect()
    }

    /// What callgrind says of one call, which must succeed; none without valgrind.
    fn callgrind(&self, plugin: &Path, command: &str, profile: &str) -> Option<String> {
        let mut process = self.clone().command(command).process(Path::new("valgrind"));
        let out = format!("--callgrind-out-file={profile}");
        process.args(["--tool=callgrind", "--demangle=no", &out]).arg(plugin);
        process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = self.feed(process.spawn().ok()?).wait_with_output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr);
        // A call that fails has nothing to count.
        assert!(output.status.success(), "{command} fails under valgrind: {text}");
        Some(text.into_owned())
    }
}

/// The CPU time of a program and of its children. What it prints is not looked at.
pub fn cpu_of(mut program: Command) -> Duration {
    let (cost, output) =
        cost_of(|| program.stdin(Stdio::null()).output().expect("the program starts"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cost.cpu
}

fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    let micros = |time: TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).expect("CPU time")
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// In microseconds.
pub fn mean(samples: &[Duration]) -> f64 {
    let count = u32::try_from(samples.len()).expect("count");
    (samples.iter().sum::<Duration>() / count).as_secs_f64() * 1e6
}

/// CPU of ADD and DEL together, ours against the Go plugin with the same call.
pub fn against_go(limits: &mut Limits, call: &Call, ours: &Path, go: &Path, limit: f64) {
    let cost = |plugin| call.cpu_of_add_and_delete(plugin);
    compare(limits, || cost(ours), || cost(go), Some(limit));
}

/// The CPU time of what ours does and of what the Go plugin does, turn by turn; without a limit,
/// it is only told.
pub fn compare(
    limits: &mut Limits,
    ours: impl Fn() -> Duration,
    go: impl Fn() -> Duration,
    limit: Option<f64>,
) {
    const ROUNDS: usize = 60;
    println!("ADD+DEL, ours and Debian's Go plugin ({ROUNDS} interleaved rounds)");
    let (mut our_samples, mut go_samples) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        our_samples.push(ours());
        go_samples.push(go());
    }
    let (ours, go) = (mean(&our_samples), mean(&go_samples));
    println!("  ours {ours:.0} us, Go {go:.0} us: Go costs {:.1} times as much", go / ours);
    match limit {
        Some(limit) => limits.line("ours / Go", ours / go, limit, "x"),
        None => println!("  ours / Go {:.3}", ours / go),
    }
}
