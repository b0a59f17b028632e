//! The `portmap` CNI meta plugin.

#![forbid(unsafe_code)]
