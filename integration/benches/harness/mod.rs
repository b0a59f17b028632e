//! What the benchmarks share: the box they run in, calls of a plugin and their CPU time, and the
//! limits that the project promises to keep.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

const IN_BOX: &str = "CNI_CHAIN_BENCH_BOX";

/// Executes this program again in namespaces of its own, and returns when it is there.
pub(crate) fn enter_box() {
    if std::env::var_os(IN_BOX).is_some() {
        return;
    }
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["--propagation", "private"])
        .arg(std::env::current_exe().expect("own path"))
        .args(std::env::args().skip(1))
        .env(IN_BOX, "1")
        .exec();
    panic!("cannot run unshare (apt package util-linux): {error}");
}

/// Runs commands that must succeed.
pub(crate) fn furnish(commands: &[&str]) {
    for command in commands {
        let status = Command::new("sh").args(["-c", command]).status().expect("sh");
        assert!(status.success(), "{command}");
    }
}

/// The release binary beside this benchmark: target/<triple>/release/deps/.. .
pub(crate) fn our_plugin(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let release = exe.parent().and_then(Path::parent).expect("target directory");
    let path = release.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --release` first", path.display());
    path
}

/// Debian's Go plugin.
pub(crate) fn go_plugin(name: &str) -> PathBuf {
    let path = Path::new("/usr/lib/cni").join(name);
    let package = "containernetworking-plugins";
    assert!(path.is_file(), "{} is missing: apt-get install {package}", path.display());
    path
}

/// Compares each ratio with what the project promises.
#[derive(Default)]
pub(crate) struct Limits {
    missed: u32,
}

impl Limits {
    pub(crate) fn line(&mut self, what: &str, value: f64, limit: f64, unit: &str) {
        let verdict = if value <= limit { "ok" } else { "MISSED" };
        self.missed += u32::from(value > limit);
        println!("  {what:<58} {value:>8.3}{unit}  (limit {limit:.3}{unit})  {verdict}");
    }

    /// With `--enforce`, makes a missed limit the exit status.
    pub(crate) fn conclude(&self) {
        if self.missed > 0 && std::env::args().any(|argument| argument == "--enforce") {
            std::process::exit(1);
        }
    }
}

/// What a plugin is called with, for interface `eth0` of the container namespace `c1`.
pub(crate) struct Call {
    pub(crate) container: String,
    pub(crate) stdin: String,
}

impl Call {
    fn command(&self, program: &Path, command: &str) -> Command {
        let mut process = Command::new(program);
        process
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", "/run/netns/c1")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        process
    }

    /// Runs the plugin and returns its CPU time and that of its children.
    pub(crate) fn run(&self, plugin: &Path, command: &str) -> Duration {
        let before = children_cpu();
        let mut child =
            self.command(plugin, command).stderr(Stdio::null()).spawn().expect("plugin");
        let mut stdin = child.stdin.take().expect("stdin");
        // VERSION does not read it.
        let _ = stdin.write_all(self.stdin.as_bytes());
        drop(stdin);
        let status = child.wait().expect("wait");
        assert!(status.success(), "{} {command} failed", plugin.display());
        children_cpu().saturating_sub(before)
    }

    /// The CPU time of ADD and DEL together.
    pub(crate) fn add_and_delete(&self, plugin: &Path) -> Duration {
        self.run(plugin, "ADD") + self.run(plugin, "DEL")
    }

    /// Prints how many instructions each command takes in user space. Counted, not timed: the
    /// same on a busy machine.
    pub(crate) fn print_instructions(&self, plugin: &Path) {
        println!("Instructions in user space (valgrind)");
        self.run(plugin, "ADD");
        self.run(plugin, "DEL");
        for command in ["VERSION", "ADD", "CHECK", "DEL"] {
            match self.count_instructions(plugin, command) {
                Some(count) => println!("  {command:<8} {count:>9}"),
                None => println!(
                    "  {command:<8} not counted: valgrind (apt package valgrind) is missing"
                ),
            }
        }
    }

    fn count_instructions(&self, plugin: &Path, command: &str) -> Option<u64> {
        let mut child = self
            .command(Path::new("valgrind"), command)
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(plugin)
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let _ = child.stdin.take()?.write_all(self.stdin.as_bytes());
        let output = child.wait_with_output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr);
        // A call that fails has nothing to count.
        assert!(output.status.success(), "{command} fails under valgrind: {text}");
        let line = text.lines().find(|line| line.contains("Collected"))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).expect("CPU time")
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// In microseconds.
pub(crate) fn mean(samples: &[Duration]) -> f64 {
    let count = u32::try_from(samples.len()).expect("count");
    (samples.iter().sum::<Duration>() / count).as_secs_f64() * 1e6
}

/// CPU of ADD and DEL together, ours against the Go plugin with the same call.
pub(crate) fn against_go(limits: &mut Limits, call: &Call, ours: &Path, go: &Path, limit: f64) {
    compare(limits, || call.add_and_delete(ours), || call.add_and_delete(go), Some(limit));
}

/// The CPU time of what ours does and of what the Go plugin does, turn by turn; without a limit,
/// it is only told.
pub(crate) fn compare(
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
