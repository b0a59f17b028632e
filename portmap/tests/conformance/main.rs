//! The `portmap` binary from outside: the CNI protocol, and input that nobody should send.
//!
//! What is refused before the plugin acts runs as it is. Everything else runs on a [`host::Host`],
//! namespaces of its own that end with the test, and needs root, `unshare`, `nsenter`, `ip` and
//! `nft`.

mod host;
mod hostile;
mod protocol;
