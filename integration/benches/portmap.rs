//! What portmap costs: against its own start-up, against Debian's Go portmap in the same
//! interleaved run, and with 10,000 mappings present.
//!
//! `./dev bench`, or `cargo bench -p cni-chain --bench portmap`. Needs root and Debian's
//! `containernetworking-plugins`. CPU is user plus system time of the plugin process and its
//! children; wall time is shown for connects only. Numbers move with the machine, ratios less.
//! `--enforce` makes the exit status say whether every ratio is within its limit.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cni_common::netns::Netns;
use nix::sys::resource::{UsageWho, getrusage};

const IN_BOX: &str = "CNI_CHAIN_BENCH_BOX";
const GO: &str = "/usr/lib/cni/portmap";
const MANY: u16 = 10_000;
const CONTAINER: &str = "10.71.0.2";

fn main() {
    if std::env::var_os(IN_BOX).is_none() {
        let error = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private"])
            .arg(std::env::current_exe().expect("own path"))
            .args(std::env::args().skip(1))
            .env(IN_BOX, "1")
            .exec();
        panic!("cannot run unshare (apt package util-linux): {error}");
    }
    let enforce = std::env::args().any(|argument| argument == "--enforce");
    furnish();
    let bench = Bench { ours: our_portmap(), go: PathBuf::from(GO) };
    let mut limits = Limits::default();
    bench.against_start_up(&mut limits);
    bench.against_go(&mut limits);
    bench.at_scale(&mut limits);
    bench.many_at_once(&mut limits);
    bench.connects(&mut limits);
    bench.instructions();
    if enforce && limits.missed > 0 {
        std::process::exit(1);
    }
}

/// A host with a bridge and one container, in namespaces of its own.
fn furnish() {
    for command in [
        "mount -t tmpfs tmpfs /run",
        "mkdir -p /run/netns",
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
    ] {
        let status = Command::new("sh").args(["-c", command]).status().expect("sh");
        assert!(status.success(), "{command}");
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("ip_forward");
}

/// The release binary beside this benchmark: target/<triple>/release/deps/.. .
fn our_portmap() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let release = exe.parent().and_then(Path::parent).expect("target directory");
    let path = release.join("portmap");
    assert!(path.is_file(), "{} is missing: run `cargo build --release` first", path.display());
    path
}

/// Compares each ratio with what the project promises.
#[derive(Default)]
struct Limits {
    missed: u32,
}

impl Limits {
    fn line(&mut self, what: &str, value: f64, limit: f64, unit: &str) {
        let verdict = if value <= limit { "ok" } else { "MISSED" };
        self.missed += u32::from(value > limit);
        println!("  {what:<58} {value:>8.2}{unit}  (limit {limit}{unit})  {verdict}");
    }
}

struct Bench {
    ours: PathBuf,
    go: PathBuf,
}

fn config(container: &str, ports: impl Iterator<Item = u16>) -> Call {
    let mappings: Vec<String> = ports
        .map(|port| format!(r#"{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}"#))
        .collect();
    let stdin = format!(
        r#"{{"cniVersion":"1.0.0","name":"bench","type":"portmap","runtimeConfig":{{"portMappings":[{}]}},
        "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"br0"}},{{"name":"eth0","sandbox":"/run/netns/c1"}}],
        "ips":[{{"address":"{CONTAINER}/24","interface":1}}]}}}}"#,
        mappings.join(",")
    );
    Call { container: container.to_owned(), stdin }
}

struct Call {
    container: String,
    stdin: String,
}

impl Call {
    /// Runs the plugin and returns its CPU time and that of its children.
    fn run(&self, plugin: &Path, command: &str) -> Duration {
        let before = children_cpu();
        let mut child = Command::new(plugin)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", "/run/netns/c1")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("plugin");
        let mut stdin = child.stdin.take().expect("stdin");
        // VERSION does not read it.
        let _ = stdin.write_all(self.stdin.as_bytes());
        drop(stdin);
        let status = child.wait().expect("wait");
        assert!(status.success(), "{} {command} failed", plugin.display());
        children_cpu().saturating_sub(before)
    }
}

fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).expect("CPU time")
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

fn mean(samples: &[Duration]) -> f64 {
    let count = u32::try_from(samples.len()).expect("count");
    (samples.iter().sum::<Duration>() / count).as_secs_f64() * 1e6
}

impl Bench {
    fn against_start_up(&self, limits: &mut Limits) {
        const ROUNDS: usize = 400;
        println!("One mapping, CPU of our portmap ({ROUNDS} interleaved rounds)");
        let call = config("one", [8080].into_iter());
        let commands = ["VERSION", "ADD", "CHECK", "DEL"];
        let mut samples: [Vec<Duration>; 4] = Default::default();
        for _ in 0..ROUNDS {
            for (command, samples) in commands.iter().zip(&mut samples) {
                samples.push(call.run(&self.ours, command));
            }
        }
        let version = mean(&samples[0]);
        for (command, samples) in commands.iter().zip(&samples) {
            println!("  {command:<8} {:>7.0} us", mean(samples));
        }
        limits.line("ADD / VERSION", mean(&samples[1]) / version, 2.0, "x");
    }

    fn against_go(&self, limits: &mut Limits) {
        const ROUNDS: usize = 60;
        println!(
            "One mapping, ADD+DEL, ours and Debian's Go portmap ({ROUNDS} interleaved rounds)"
        );
        let call = config("pair", [8080].into_iter());
        let (mut ours, mut go) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(call.run(&self.ours, "ADD") + call.run(&self.ours, "DEL"));
            go.push(call.run(&self.go, "ADD") + call.run(&self.go, "DEL"));
        }
        let (ours, go) = (mean(&ours), mean(&go));
        println!("  ours {ours:.0} us, Go {go:.0} us: Go costs {:.1} times as much", go / ours);
        limits.line("ours / Go", ours / go, 0.05, "x");
    }

    fn at_scale(&self, limits: &mut Limits) {
        const ROUNDS: usize = 200;
        println!("One more mapping beside {MANY}, CPU ({ROUNDS} rounds each)");
        let call = config("more", [8080].into_iter());
        let measure = || {
            let mut samples: [Vec<Duration>; 3] = Default::default();
            for _ in 0..ROUNDS {
                for (command, samples) in ["ADD", "CHECK", "DEL"].iter().zip(&mut samples) {
                    samples.push(call.run(&self.ours, command));
                }
            }
            samples.map(|samples| mean(&samples))
        };
        let fill = Self::fill();
        // Empty, full, full, empty: drift of the machine cancels out.
        self.run_all(&fill, "DEL");
        let first_empty = measure();
        self.run_all(&fill, "ADD");
        let (first_full, second_full) = (measure(), measure());
        self.run_all(&fill, "DEL");
        let second_empty = measure();
        for (index, command) in ["ADD", "CHECK", "DEL"].iter().enumerate() {
            let empty = f64::midpoint(first_empty[index], second_empty[index]);
            let crowded = f64::midpoint(first_full[index], second_full[index]);
            limits.line(
                &format!("{command}: {crowded:.0} us / {empty:.0} us when empty"),
                crowded / empty,
                1.5,
                "x",
            );
        }
    }

    /// 10,000 mappings of a hundred containers.
    fn fill() -> Vec<Call> {
        (0..100)
            .map(|index| {
                config(
                    &format!("fill{index}"),
                    (0..100).map(move |port| 20_000 + index * 100 + port),
                )
            })
            .collect()
    }

    fn run_all(&self, calls: &[Call], command: &str) {
        for call in calls {
            call.run(&self.ours, command);
        }
    }

    fn many_at_once(&self, limits: &mut Limits) {
        println!("{MANY} mappings in one ADD, CPU (5 rounds)");
        let call = config("many", 20_000..20_000 + MANY);
        let mut samples: [Vec<Duration>; 3] = Default::default();
        for _ in 0..5 {
            for (command, samples) in ["ADD", "CHECK", "DEL"].iter().zip(&mut samples) {
                samples.push(call.run(&self.ours, command));
            }
        }
        limits.line("ADD", mean(&samples[0]) / 1000.0, 250.0, " ms");
        println!(
            "  CHECK {:.1} ms, DEL {:.1} ms",
            mean(&samples[1]) / 1000.0,
            mean(&samples[2]) / 1000.0
        );
    }

    fn connects(&self, limits: &mut Limits) {
        const CONNECTS: usize = 3000;
        println!("TCP connect through the mapped port, wall clock median of {CONNECTS}");
        let netns = Netns::open(Path::new("/run/netns/c1")).expect("netns");
        let listener = netns.run(|| TcpListener::bind("0.0.0.0:80").expect("bind")).expect("setns");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let call = config("one", [8080].into_iter());
        call.run(&self.ours, "ADD");
        let median = || {
            let mut samples: Vec<Duration> = (0..CONNECTS)
                .map(|_| {
                    let start = Instant::now();
                    let stream = TcpStream::connect("10.71.0.1:8080").expect("connect");
                    let elapsed = start.elapsed();
                    drop(stream);
                    elapsed
                })
                .collect();
            samples.sort();
            samples[CONNECTS / 2].as_secs_f64() * 1e6
        };
        median();
        let fill = Self::fill();
        let first_one = median();
        self.run_all(&fill, "ADD");
        let (first_many, second_many) = (median(), median());
        self.run_all(&fill, "DEL");
        let second_one = median();
        let (one, many) =
            (f64::midpoint(first_one, second_one), f64::midpoint(first_many, second_many));
        limits.line(
            &format!("{many:.1} us beside {MANY} / {one:.1} us alone"),
            many / one,
            1.3,
            "x",
        );
        call.run(&self.ours, "DEL");
    }

    /// Counted, not timed: the same on a busy machine.
    fn instructions(&self) {
        println!("Instructions in user space (valgrind)");
        let call = config("counted", [8080].into_iter());
        call.run(&self.ours, "ADD");
        call.run(&self.ours, "DEL");
        for command in ["VERSION", "ADD", "CHECK", "DEL"] {
            match count_instructions(&self.ours, &call, command) {
                Some(count) => println!("  {command:<8} {count:>9}"),
                None => println!(
                    "  {command:<8} not counted: valgrind (apt package valgrind) is missing"
                ),
            }
        }
    }
}

fn count_instructions(plugin: &Path, call: &Call, command: &str) -> Option<u64> {
    let mut child = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(plugin)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &call.container)
        .env("CNI_NETNS", "/run/netns/c1")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/usr/lib/cni")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let _ = child.stdin.take()?.write_all(call.stdin.as_bytes());
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(' ').next()?.parse().ok()
}
