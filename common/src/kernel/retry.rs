//! What is decided on something that others may change meanwhile is decided again.

use std::time::Duration;

/// How often something is tried of which the error says that another try helps.
const ATTEMPTS: u32 = 60;
/// How often something is tried of which nobody knows whether another try helps.
const DOUBTFUL_ATTEMPTS: u32 = 5;
/// From this attempt on, leave the others some time.
const PATIENT_ATTEMPTS: u32 = 5;
/// The longest wait between two attempts, in milliseconds.
const LONGEST_WAIT: u32 = 20;

/// Whether trying again helps after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It would fail in the same way.
    Never,
    /// It may: whoever failed does not say why.
    Perhaps,
    /// The state moved between look and change, and that is all.
    Surely,
}

/// An error of something that may move under a decision.
pub trait Retry {
    /// Whether the decision should be made anew.
    fn again(&self) -> Again;
}

/// Looks and changes until nothing moved in between: about a second at most, apart from what
/// `decide` itself takes. The last error is the outcome if that does not suffice.
///
/// # Errors
/// Those of `decide`.
pub fn retry<T, E: Retry>(decide: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    retry_waiting(decide, wait)
}

fn retry_waiting<T, E: Retry>(
    mut decide: impl FnMut() -> Result<T, E>,
    mut wait: impl FnMut(u32),
) -> Result<T, E> {
    let mut attempt = 1;
    loop {
        let error = match decide() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let attempts = match error.again() {
            Again::Never => 0,
            Again::Perhaps => DOUBTFUL_ATTEMPTS,
            Again::Surely => ATTEMPTS,
        };
        if attempt >= attempts {
            return Err(error);
        }
        wait(attempt);
        attempt += 1;
    }
}

/// The first few attempts follow at once.
fn wait(attempt: u32) {
    if attempt > PATIENT_ATTEMPTS {
        // Processes that collide must not collide again in step.
        let spread = u64::from(std::process::id() % 7);
        std::thread::sleep(Duration::from_millis(u64::from(attempt.min(LONGEST_WAIT)) + spread));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Retry for Again {
        fn again(&self) -> Again {
            *self
        }
    }

    fn attempts(error: Again) -> u32 {
        let mut count = 0;
        let mut waits = 0;
        let outcome: Result<(), _> = retry_waiting(
            || {
                count += 1;
                Err(error)
            },
            |_| waits += 1,
        );
        assert_eq!((outcome, waits + 1), (Err(error), count));
        count
    }

    #[test]
    fn as_often_as_the_error_is_worth() {
        assert_eq!(attempts(Again::Never), 1);
        assert_eq!(attempts(Again::Perhaps), DOUBTFUL_ATTEMPTS);
        assert_eq!(attempts(Again::Surely), ATTEMPTS);
    }

    #[test]
    fn the_first_success_is_the_outcome() {
        let mut count = 0;
        let outcome = retry(|| {
            count += 1;
            if count < 3 { Err(Again::Surely) } else { Ok(count) }
        });
        assert_eq!(outcome, Ok(3));
    }
}
