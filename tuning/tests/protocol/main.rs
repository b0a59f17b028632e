//! tuning as a runtime sees it: what a call needs, and how it is refused.

#![forbid(unsafe_code)]

mod calls;
#[path = "../support/mod.rs"]
mod support;
