//! System calls that fail, one after the other.

use crate::{Call, Outcome, TestBox};

/// Runs the call with the first of these system calls failing, then with the second, and so on until
/// there are no more of them, and shows `each` the outcomes. The words are strace's: `sendto,recvfrom` and
/// `error=EIO`. The call itself is followed, not what it starts.
#[track_caller]
pub fn fail_each(
    b: &TestBox,
    call: &Call,
    system_calls: &str,
    failure: &str,
    mut each: impl FnMut(usize, &Outcome),
) {
    const TRACE: &str = "/run/trace";
    for nth in 1..500 {
        let inject = format!("inject={system_calls}:{failure}:when={nth}");
        let outcome = call.clone().under(&["strace", "-o", TRACE, "-e", &inject]).run(b);
        let trace = std::fs::read_to_string(TRACE).expect("strace wrote it");
        if !trace.contains("(INJECTED)") {
            assert!(nth > 1, "there is none of {system_calls}: {trace}");
            return;
        }
        each(nth, &outcome);
    }
    panic!("{system_calls}: there is no end");
}
