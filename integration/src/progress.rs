//! How far a long work is: a bar on a terminal, and nothing anywhere else.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Work that is done by then needs no bar.
const FIRST: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;
/// Goes to the line's beginning and clears it.
const CLEAR: &str = "\r\x1b[K";

/// Work of a known length.
#[derive(Debug)]
pub(crate) struct Progress {
    total: usize,
    done: usize,
    /// When it may be drawn next; none where nobody looks.
    next: Option<Instant>,
    is_drawn: bool,
}

impl Progress {
    /// So many attachments. It is drawn on stderr, which nobody reads but people.
    pub(crate) fn of(total: usize) -> Self {
        let is_seen = std::io::stderr().is_terminal();
        Self { total, done: 0, next: is_seen.then(|| Instant::now() + FIRST), is_drawn: false }
    }

    /// One more is done.
    pub(crate) fn step(&mut self) {
        self.done += 1;
        let now = Instant::now();
        if self.next.is_some_and(|next| next <= now) {
            self.next = Some(now + PAUSE);
            self.is_drawn = true;
            draw(&format!("{CLEAR}{}", bar(self.done, self.total)));
        }
    }

    /// Makes room for a line on stdout, which may be the same terminal.
    pub(crate) fn hide(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            draw(CLEAR);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.hide();
    }
}

/// Best effort: the work counts.
fn draw(text: &str) {
    let mut stderr = std::io::stderr();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// As in `[###...] 5 of 10 attachments`.
fn bar(done: usize, total: usize) -> String {
    let full = (done * WIDTH).checked_div(total).unwrap_or(WIDTH).min(WIDTH);
    let (full, rest) = ("#".repeat(full), ".".repeat(WIDTH - full));
    format!("[{full}{rest}] {done} of {total} attachments")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        let row = |full: usize, text: &str| {
            format!("[{}{}] {text} attachments", "#".repeat(full), ".".repeat(WIDTH - full))
        };
        assert_eq!(bar(0, 300), row(0, "0 of 300"));
        assert_eq!(bar(150, 300), row(15, "150 of 300"));
        assert_eq!(bar(300, 300), row(30, "300 of 300"));
        assert_eq!(bar(0, 0), row(30, "0 of 0"));
    }
}
