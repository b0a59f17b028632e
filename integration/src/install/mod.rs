//! `install` and `uninstall`: the programs on a host, its networks and its systemd.
//!
//! `directory` finds where runtimes look for plugins (`runtime_config` reads what they are told),
//! `package` knows whose files are not to be replaced, `binaries` puts the programs there and out again
//! (`elf` tells a whole one from half of one),
//! `entries` is the text of a conflist and `conflist` its file, `record` what uninstall has to know,
//! `units` systemd's, and `watch` hears of other installers. `durable` writes files for all of them.

pub(crate) mod binaries;
pub(crate) mod conflist;
pub(crate) mod directory;
mod durable;
mod elf;
mod entries;
pub(crate) mod package;
pub(crate) mod record;
mod runtime_config;
pub(crate) mod units;
pub(crate) mod watch;
