//! What the Go firewall left on a host: found, judged by CHECK, removed.

mod takeover;
