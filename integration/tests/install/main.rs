//! `cni-chain install` and `uninstall`, each case on a host of its own: /opt, /etc and /var are copies that
//! go with the box, /usr cannot be written.

mod binaries;
mod conflist;
mod directory;
mod host;
mod packages;
mod units;
mod watch;
