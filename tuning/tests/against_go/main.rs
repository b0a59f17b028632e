//! tuning beside the Go plugin (Debian's 1.1.1): its faults, and what it kept of its attachments.

#![forbid(unsafe_code)]

mod faults;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
