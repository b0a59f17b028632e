//! What tuning does to a container, read with `ip` and from `/proc/sys/net`. Needs what the test
//! box needs.

#![forbid(unsafe_code)]

mod allowlist;
mod check;
mod faults;
mod hostile;
mod layouts;
mod originals;
mod settings;
#[path = "../support/mod.rs"]
mod support;
