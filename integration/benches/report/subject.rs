//! Whose plugin, and on which backend.

use std::path::{Path, PathBuf};

use cni_testbox::{GO_PLUGINS, trace};

use crate::attachment::Attachment;
use crate::host::Host;
use crate::record::Of;
use crate::scenes::Setup;

pub(super) const OURS: &str = "ours";
pub(super) const GO: &str = "Go";
pub(super) const PLUGINS: [&str; 4] = ["portmap", "bandwidth", "firewall", "tuning"];
const IPTABLES: &str = "iptables";

/// A directory of plugins.
#[derive(Clone, Debug)]
pub(super) struct Implementation {
    pub(super) name: String,
    pub(super) directory: PathBuf,
}

impl Implementation {
    pub(super) fn is_ours(&self) -> bool {
        self.name == OURS
    }

    /// The only backend that Debian's version of the Go plugins has.
    fn is_debians(&self) -> bool {
        self.directory == Path::new(GO_PLUGINS)
    }
}

/// One plugin of a directory on one backend, on a host of its own: what one implementation leaves, another would look
/// into.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) by: Implementation,
    /// Or what it is called for: see [`program_of`].
    pub(super) plugin: &'static str,
    pub(super) backend: &'static str,
    pub(super) program: PathBuf,
    pub(super) host: Host,
}

impl Subject {
    /// Every implementation of a plugin on each of its backends, each host furnished for so many attachments.
    pub(super) fn all(
        setup: &Setup,
        scene: &'static str,
        plugin: &'static str,
        many: usize,
    ) -> Vec<Self> {
        let mut subjects = Vec::new();
        for by in &setup.implementations {
            for backend in backends(plugin, by) {
                let subject = Self::new(by, plugin, backend, many);
                match subject.is_what_it_says() {
                    Ok(()) => subjects.push(subject),
                    Err(why) => subject.of(scene).note(&why),
                }
            }
        }
        subjects
    }

    pub(super) fn new(
        by: &Implementation,
        plugin: &'static str,
        backend: &'static str,
        many: usize,
    ) -> Self {
        let program = by.directory.join(program_of(plugin));
        let host = Host::furnish(&format!("{}-{backend}-{plugin}", by.name), many);
        Self { by: by.clone(), plugin, backend, program, host }
    }

    pub(super) fn of(&self, scene: &'static str) -> Of {
        Of {
            scene,
            plugin: self.plugin.into(),
            by: self.by.name.clone(),
            backend: self.backend.into(),
            ..Of::default()
        }
    }

    /// The number of an attachment is its place on the host.
    pub(super) fn attachment(&self, number: usize) -> Attachment {
        Attachment::new(&self.host, number)
    }

    /// ADD and DEL succeed. A plugin that does not know the key `backend` would go on with iptables.
    fn is_what_it_says(&self) -> Result<(), String> {
        let first = self.attachment(0);
        let call = first.call(self.plugin, self.backend);
        let seen = self.host.inside(|| {
            let seen = trace::run(&call, &self.program, "ADD")?;
            call.cost(&self.program, "DEL")?;
            Ok::<_, String>(seen)
        })?;
        self.clean();
        let ran_iptables = seen.ran.iter().any(|program| program.contains(IPTABLES));
        if ran_iptables && self.backend == "nftables" {
            return Err("it has no such backend: it runs iptables".into());
        }
        Ok(())
    }

    /// The same at `v0` only, where others are there.
    pub(super) fn clean_first(&self) {
        if self.plugin == "bandwidth" && !self.by.is_ours() {
            self.host.shell("tc qdisc del dev v0 root; tc qdisc del dev v0 ingress");
        }
    }

    /// The Go bandwidth's DEL leaves the bucket and the redirect, on which its next ADD fails.
    pub(super) fn clean(&self) {
        if self.plugin == "bandwidth" && !self.by.is_ours() {
            self.host.clean_bandwidth();
        }
    }
}

/// `portmap+udp` is portmap, called for a UDP port, too.
pub(super) fn program_of(case: &str) -> &str {
    case.split_once('+').map_or(case, |(program, _)| program)
}

fn backends(plugin: &str, by: &Implementation) -> Vec<&'static str> {
    match plugin {
        "bandwidth" => vec!["tc"],
        "tuning" => vec!["netns"],
        _ if by.is_debians() => vec![IPTABLES],
        _ => vec!["nftables", IPTABLES],
    }
}
