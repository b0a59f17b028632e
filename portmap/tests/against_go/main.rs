//! What the Go portmap left on a host, or our other backend: found, judged by CHECK, removed.

mod conflicts;
mod takeover;
mod takeover_check;
