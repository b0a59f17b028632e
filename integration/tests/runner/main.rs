//! The chain runner against a plugin that records its calls. Needs no privilege.
//!
//! Tests are named after the cases of the conformance list (RS: runtime side).

#![forbid(unsafe_code)]

mod command;
mod execution;
mod loading;
mod restore;
mod spies;
mod state;
