//! bandwidth beside the Go plugin (Debian's 1.1.1): its faults, and the attachments that it made.

#![forbid(unsafe_code)]

mod faults;
#[path = "../behaviour/support.rs"]
mod support;
mod takeover;
