//! What a plugin does about a ruleset that moves while it decides.

use std::time::Duration;

use crate::protocol::{CniError, ErrorCode};

/// From this attempt on, leave the others some time.
const PATIENT_ATTEMPTS: u32 = 5;

/// Waits before the next attempt; the first few follow at once.
pub fn wait(attempt: u32) {
    if attempt >= PATIENT_ATTEMPTS {
        // Processes that collide must not collide again in step.
        let spread = u64::from(std::process::id() % 7);
        std::thread::sleep(Duration::from_millis(u64::from(attempt.min(20)) + spread));
    }
}

/// The error after the last attempt, which a runtime may repeat (code 11).
#[must_use]
pub fn too_busy(doing: &str, attempts: u32) -> CniError {
    CniError::new(
        ErrorCode::TryAgainLater,
        format!("{doing}: the ruleset changed during each of {attempts} attempts; try again"),
    )
}
