//! A command with `--watch` that goes on, and says what it does line by line.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A running `cni-chain … --watch`.
pub struct RunningWatch {
    /// The process; how it has to end is its test's matter.
    pub child: Child,
    /// What it said that nobody waited for yet.
    pub lines: Receiver<String>,
    patience: Duration,
}

impl RunningWatch {
    /// Starts it, and prints its lines. `patience` is how long it may take for each that is waited for.
    pub fn start(command: &mut Command, patience: Duration) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("watch: {line}");
                let _ = sender.send(line);
            }
        });
        Self { child, lines, patience }
    }

    /// Waits for a line of this beginning.
    #[track_caller]
    pub fn says(&self, beginning: &str) {
        loop {
            match self.lines.recv_timeout(self.patience) {
                Ok(line) if line.starts_with(beginning) => return,
                Ok(_) => {}
                Err(error) => panic!("the watch never said {beginning:?}: {error}"),
            }
        }
    }
}
