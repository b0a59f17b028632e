//! Programs that are run to their end, but not for ever.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What a pipe that can be written takes without blocking (`PIPE_BUF`).
const CHUNK: usize = 4096;
/// How long a killed program has to be gone.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// What a program did.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status and what it printed.
    pub output: Output,
    /// An error if it did not read all of its input.
    pub fed: io::Result<()>,
}

/// Runs a program with this on its stdin. One that is not done by the limit is killed, with what it
/// started, and the error is of the kind `TimedOut`. No thread is needed for that.
pub fn run_within(mut command: Command, input: &[u8], limit: Duration) -> io::Result<Finished> {
    let end = Instant::now() + limit;
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // A wrapper's children are killed with it.
    command.process_group(0);
    let mut child = command.spawn()?;
    let finished = converse(&mut child, input, end).and_then(|(stdout, stderr, fed)| {
        let status = wait(&mut child, end)?;
        Ok(Finished { output: Output { status, stdout, stderr }, fed })
    });
    finished.inspect_err(|_| kill(&mut child)).map_err(|error| {
        if error.kind() != io::ErrorKind::TimedOut {
            return error;
        }
        let text = format!("it did not end within {} seconds and was killed", limit.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    })
}

type Conversation = (Vec<u8>, Vec<u8>, io::Result<()>);

/// Writes and reads until all three pipes are closed.
fn converse(child: &mut Child, mut input: &[u8], end: Instant) -> io::Result<Conversation> {
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut out, mut err, mut fed) = (Vec::new(), Vec::new(), Ok(()));
    // To clear it is most of what a short conversation costs.
    let mut buffer = vec![0; CHUNK];
    while stdin.is_some() || stdout.is_some() || stderr.is_some() {
        let pipes = [
            stdin.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::POLLOUT)),
            stdout.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::POLLIN)),
            stderr.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::POLLIN)),
        ];
        let [may_write, from_out, from_err] = ready(pipes, end)?;
        if may_write && let Some(pipe) = &mut stdin {
            match feed(pipe, input) {
                Ok(rest) => input = rest,
                Err(error) => (fed, input) = (Err(error), &[]),
            }
            stdin = stdin.filter(|_| !input.is_empty());
        }
        if from_out && !read_some(&mut stdout, &mut buffer, &mut out)? {
            stdout = None;
        }
        if from_err && !read_some(&mut stderr, &mut buffer, &mut err)? {
            stderr = None;
        }
    }
    Ok((out, err, fed))
}

/// Which of the pipes can be used without blocking, as soon as one can.
fn ready(pipes: [Option<(BorrowedFd<'_>, PollFlags)>; 3], end: Instant) -> io::Result<[bool; 3]> {
    let mut waiting: Vec<PollFd<'_>> =
        pipes.iter().flatten().map(|(pipe, events)| PollFd::new(*pipe, *events)).collect();
    loop {
        // Rounded up: 0 would be a look, and no wait.
        let left = end.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut waiting, timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Also where the other side is closed: the next call tells.
    let mut found = waiting.iter().map(|fd| fd.revents().is_some_and(|found| !found.is_empty()));
    Ok(pipes.map(|pipe| pipe.is_some() && found.next().unwrap_or(false)))
}

/// What is left to be written.
fn feed<'a>(pipe: &mut ChildStdin, input: &'a [u8]) -> io::Result<&'a [u8]> {
    let written = pipe.write(&input[..input.len().min(CHUNK)])?;
    Ok(&input[written..])
}

/// Whether there can be more.
fn read_some(
    pipe: &mut Option<impl Read>,
    buffer: &mut Vec<u8>,
    text: &mut Vec<u8>,
) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    let count = pipe.read(buffer)?;
    text.extend_from_slice(&buffer[..count]);
    if count == buffer.len() {
        // Who has much to say, is listened to in larger pieces.
        buffer.resize(16 * CHUNK, 0);
    }
    Ok(count > 0)
}

/// A program's pipes close when it ends, so that there is hardly anything to wait for.
fn wait(child: &mut Child, end: Instant) -> io::Result<ExitStatus> {
    let mut pause = Duration::from_micros(50);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Kills the program's group, and waits until the program is gone: what it had begun is done then,
/// or never will be.
fn kill(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    // One that the kernel does not let go of is not waited for.
    let _ = wait(child, Instant::now() + LAST_WAIT);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &[u8], limit: Duration) -> io::Result<Finished> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run_within(command, input, limit)
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn whatever_goes_in_comes_out() {
        // More than pipes hold, in both directions at once.
        let input = vec![b'x'; 300_000];
        let Finished { output, fed } = sh("tee /dev/stderr; exit 3", &input, LONG).expect("sh");
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout == input && output.stderr == input && fed.is_ok());
        let nothing = sh("cat", b"", LONG).expect("sh");
        assert!(nothing.output.status.success() && nothing.output.stdout.is_empty());
    }

    #[test]
    fn input_that_is_not_read_is_an_error() {
        let finished = sh("exec <&-; exit 0", &vec![b'x'; 300_000], LONG).expect("sh");
        assert!(finished.output.status.success() && finished.fed.is_err());
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().expect("tempdir");
        let late = dir.path().join("late");
        let limit = Duration::from_millis(100);
        for script in
            ["sleep 1", "exec >&- 2>&-; sleep 1", "exec <&- >&- 2>&-; sleep 1", "cat; sleep 1"]
        {
            let started = Instant::now();
            let script = format!("({script}; touch {}); exit", late.display());
            let error = sh(&script, b"text", limit).expect_err("it hangs");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
            assert!(error.to_string().contains("did not end"), "{error}");
            assert!(started.elapsed() < Duration::from_millis(900), "{script}");
        }
        sleep(Duration::from_millis(1100));
        assert!(!late.exists());
    }
}
