//! A plugin under `ptrace(2)`: its system calls are counted from its first one on, and at one of them it
//! is killed, or told that the call failed.
//!
//! All threads count, in the order in which their calls arrive; programs that the plugin runs do not,
//! and go on when it is killed, as they would on a real host. `x86_64` only: the registers are its own.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::user_regs_struct;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::system_calls;
use crate::tracee::{STOPPED, seize};
use crate::{Call, Outcome};

/// Where stdout and stderr go: a program that outlives the plugin must not keep us from reading.
const OUTPUT: &str = "/run/stepper";
/// Longer than every bounded wait of a plugin.
const PATIENCE: Duration = Duration::from_mins(1);

/// What happens at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The whole process ends before the call is made.
    Kill,
    /// The call is not made, and returns the error of this index in the table.
    Fail(usize),
}

/// A fault that happened.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    /// `killed`, or the error.
    pub(super) what: String,
    /// Which call it was.
    pub(super) name: String,
    /// What it was about: a path, what a descriptor is.
    pub(super) about: String,
    /// Whether trying again helps; none where nobody can say.
    pub(super) passes: Option<bool>,
}

/// A run under the stepper.
#[derive(Debug)]
pub(super) struct Stepped {
    /// How it ended.
    pub(super) outcome: Outcome,
    /// The names of its calls, up to the fault.
    pub(super) calls: Vec<String>,
    /// The fault, if the run got there.
    pub(super) hit: Option<Hit>,
    /// Whether it had to be ended.
    pub(super) hung: bool,
}

/// Runs a call of a plugin, with a fault at its n-th system call (counted from 0).
pub(super) fn step(call: &Call, binary: &Path, fault: Option<(usize, Fault)>) -> Stepped {
    fs::create_dir_all(OUTPUT).expect("a directory on the box's own file system");
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| Path::new(OUTPUT).join(name));
    let create = |path| File::create(path).expect("a file of the box");
    let mut process = call.clone().under(&STOPPED).process(binary);
    process.stdin(Stdio::piped()).stdout(create(&stdout)).stderr(create(&stderr));
    let (started, pid) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let (tracer, hung) = std::thread::scope(|scope| {
        // A tracee belongs to the thread that seized it.
        let tracing = scope.spawn(move || {
            let mut child = process.spawn().expect("start the plugin");
            feed(&mut child, &call.input());
            let mut tracer = Tracer::seize(&child, fault);
            started.send(tracer.leader).expect("the other thread waits");
            tracer.follow();
            let _ = ended.send(());
            tracer
        });
        let leader = pid.recv().expect("the plugin started");
        let hung = end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
        if hung {
            let _ = kill(leader, Signal::SIGKILL);
        }
        (tracing.join().expect("the tracing thread"), hung)
    });
    let read = |path| fs::read(path).expect("a file of the box");
    let output = Output {
        status: ExitStatus::from_raw(tracer.status),
        stdout: read(&stdout),
        stderr: read(&stderr),
    };
    let what = binary.display().to_string();
    let outcome = Outcome::new(what, &call.input(), output);
    Stepped { outcome, calls: tracer.calls, hit: tracer.hit, hung }
}

/// A configuration fits into the pipe.
fn feed(child: &mut Child, input: &[u8]) {
    let mut stdin = child.stdin.take().expect("a piped stdin");
    stdin.write_all(input).expect("the shell before the plugin keeps it open");
}

struct Tracer {
    leader: Pid,
    fault: Option<(usize, Fault)>,
    calls: Vec<String>,
    hit: Option<Hit>,
    /// Threads that are within a call.
    inside: HashSet<Pid>,
    /// What a thread's call will return instead.
    failing: HashMap<Pid, Errno>,
    /// Nothing is counted before the plugin itself runs, or after the fault.
    counting: bool,
    /// As `wait(2)` has it.
    status: i32,
}

impl Tracer {
    fn seize(child: &Child, fault: Option<(usize, Fault)>) -> Self {
        let options = Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD;
        Self {
            leader: seize(child, options),
            fault,
            calls: Vec::new(),
            hit: None,
            inside: HashSet::new(),
            failing: HashMap::new(),
            counting: false,
            status: 0,
        }
    }

    /// Until the plugin has ended.
    fn follow(&mut self) {
        loop {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let status = waitpid(None, Some(flags)).expect("wait for the plugin");
            match status {
                WaitStatus::Exited(pid, code) if pid == self.leader => {
                    self.status = code << 8;
                    return;
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.leader => {
                    self.status = signal as i32;
                    return;
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    if event == Event::PTRACE_EVENT_EXEC as i32 {
                        self.counting = true;
                        self.inside.insert(pid);
                    }
                    self.resume(pid, None);
                }
                WaitStatus::PtraceSyscall(pid) => {
                    if self.inside.remove(&pid) {
                        self.leaves(pid);
                    } else {
                        self.inside.insert(pid);
                        self.enters(pid);
                    }
                    self.resume(pid, None);
                }
                WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal)),
                _ => {}
            }
        }
    }

    /// One that was killed meanwhile is not there to be resumed.
    fn resume(&self, pid: Pid, signal: Option<Signal>) {
        let _ =
            if self.counting { ptrace::syscall(pid, signal) } else { ptrace::cont(pid, signal) };
    }

    fn enters(&mut self, pid: Pid) {
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        let name = system_calls::name(registers.orig_rax);
        let number = self.calls.len();
        self.calls.push(name.clone());
        let Some((_, fault)) = self.fault.filter(|(at, _)| *at == number) else { return };
        let error = match fault {
            Fault::Kill => None,
            Fault::Fail(index) => match system_calls::errors(&name).get(index) {
                Some(error) => Some(*error),
                None => return,
            },
        };
        let about = describe(pid, &name, &registers);
        let what = error.map_or("killed".to_owned(), |error| format!("{error:?}"));
        let passes = error.map(system_calls::passes);
        self.hit = Some(Hit { what, name, about, passes });
        match error {
            None => {
                self.counting = false;
                kill(self.leader, Signal::SIGKILL).expect("kill the plugin");
            }
            Some(error) => {
                // No call has this number: the kernel does nothing.
                registers.orig_rax = u64::MAX;
                ptrace::setregs(pid, registers).expect("take the call away");
                self.failing.insert(pid, error);
            }
        }
    }

    fn leaves(&mut self, pid: Pid) {
        let Some(error) = self.failing.remove(&pid) else { return };
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        registers.rax = i64::from(-(error as i32)).cast_unsigned();
        ptrace::setregs(pid, registers).expect("tell the error");
        self.counting = false;
    }
}

/// What a call is about, as far as that is cheap to find out.
fn describe(pid: Pid, name: &str, registers: &user_regs_struct) -> String {
    let arguments = [registers.rdi, registers.rsi, registers.rdx];
    if let Some(index) = system_calls::path_argument(name) {
        return text_at(pid, arguments[index]);
    }
    let descriptor = format!("/proc/{pid}/fd/{}", arguments[0].cast_signed());
    let Ok(target) = fs::read_link(descriptor) else { return String::new() };
    let target = target.display();
    if name.starts_with("send") {
        // The type is behind the length of a netlink message.
        let message = memory(pid, arguments[1]);
        let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok());
        return format!("{target}, netlink {:#x}", kind.map_or(0, u16::from_ne_bytes));
    }
    format!("{target}")
}

fn text_at(pid: Pid, address: u64) -> String {
    let bytes = memory(pid, address);
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Some of what is there.
fn memory(pid: Pid, address: u64) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    let read = File::open(format!("/proc/{pid}/mem"))
        .and_then(|memory| memory.read_at(&mut bytes, address));
    bytes.truncate(read.unwrap_or(0));
    bytes
}
