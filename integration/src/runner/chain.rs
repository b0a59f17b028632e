//! Operations on a whole list: order, which versions have them, what is passed on, what an error ends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use cni_common::cni::protocol::environment::{
    validate_container_id, validate_ifname, validate_network_name,
};
use cni_common::cni::protocol::json::Json;
use cni_common::cni::protocol::{CniError, CniVersion, Command, ErrorCode, ValidAttachment};

use super::cache::{Cache, CachedAttachment};
use super::conflist::{NetworkList, PluginConf};
use super::error::RunError;
use super::exec::{self, ExecError};
use super::request::{self, RuntimeConf};

/// Runs the plugins of a list as a container runtime does.
#[derive(Clone, Debug)]
pub struct Runner {
    /// Where plugins are looked for, in order; they get it as `CNI_PATH`.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where attachments are remembered, usually `/var/lib/cni`.
    pub cache_dir: PathBuf,
    /// How long each plugin may run before it is killed; `None` waits for as long as it takes.
    pub deadline: Option<Duration>,
    /// Hears of every plugin's turn as it ends.
    pub turns: Option<Sender<Turn>>,
}

/// One plugin's turn in an operation on a list.
#[derive(Clone, Debug)]
pub struct Turn {
    /// What it was asked to do.
    pub command: Command,
    /// The plugin's `type`.
    pub plugin_type: String,
    /// How long it ran.
    pub took: Duration,
}

impl Runner {
    /// A runner that gives every plugin as long as it takes.
    #[must_use]
    pub fn new(plugin_dirs: Vec<PathBuf>, cache_dir: PathBuf) -> Self {
        Self { plugin_dirs, cache_dir, deadline: None, turns: None }
    }

    /// The attachments that this runner, or another libcni, remembers.
    #[must_use]
    pub fn cache(&self) -> Cache {
        Cache::new(&self.cache_dir)
    }

    /// ADD: forward through the list, each plugin with its predecessor's result; the last one's
    /// is returned, and remembered.
    ///
    /// The first failure ends it. Nothing is undone: as the spec has it, the caller deletes the
    /// attachment.
    pub fn add(&self, list: &NetworkList, conf: &RuntimeConf) -> Result<Json, RunError> {
        let mut result = None;
        for plugin in &list.plugins {
            let added = self
                .add_plugin(list, plugin, result.as_ref(), conf)
                .map_err(|error| RunError::in_chain(plugin, "add", error))?;
            result = Some(added);
        }
        let result = result.ok_or(RunError::NoPlugins)?;
        match self.cache().write(list, conf, &result) {
            Ok(()) => Ok(result),
            Err(error) => Err(RunError::WriteCache(list.name.clone(), error)),
        }
    }

    /// ADD of one plugin of a list.
    pub(crate) fn add_plugin(
        &self,
        list: &NetworkList,
        plugin: &PluginConf,
        prev_result: Option<&Json>,
        conf: &RuntimeConf,
    ) -> Result<Json, ExecError> {
        let path = exec::find(&plugin.plugin_type, &self.plugin_dirs)?;
        validate_input(list, conf).map_err(ExecError::Input)?;
        let stdin = request::for_attachment(list, plugin, prev_result, conf);
        let stdout = self.run(Command::Add, plugin, &path, &stdin, conf)?;
        exec::decode_result(&stdout, &list.cni_version)
    }

    /// DEL of one plugin of a list.
    pub(crate) fn del_plugin(
        &self,
        list: &NetworkList,
        plugin: &PluginConf,
        prev_result: Option<&Json>,
        conf: &RuntimeConf,
    ) -> Result<(), ExecError> {
        let stdin = request::for_attachment(list, plugin, prev_result, conf);
        self.call(Command::Del, plugin, &stdin, conf)
    }

    /// DEL: backward through the list, each plugin with the remembered result (from 0.4.0 on).
    ///
    /// The first failure ends it, and the attachment stays remembered for another try. A result
    /// that cannot be read or converted does not: the plugins then do without.
    pub fn del(&self, list: &NetworkList, conf: &RuntimeConf) -> Result<(), RunError> {
        let cache = self.cache();
        let mut prev_result = None;
        if list.at_least(CniVersion::V0_4_0).map_err(RunError::Version)? {
            prev_result = cache.result(&list.name, conf, &list.cni_version).unwrap_or_else(|_| {
                // As libcni: what cannot be read now never will be.
                let _ = cache.remove(&list.name, conf);
                None
            });
        }
        for plugin in list.plugins.iter().rev() {
            self.del_plugin(list, plugin, prev_result.as_ref(), conf)
                .map_err(|error| RunError::in_chain(plugin, "delete", error))?;
        }
        // The attachment is gone; that it is still remembered only costs the next GC a DEL.
        let _ = cache.remove(&list.name, conf);
        Ok(())
    }

    /// CHECK: forward through the list, each plugin with the remembered result.
    pub fn check(&self, list: &NetworkList, conf: &RuntimeConf) -> Result<(), RunError> {
        if !list.at_least(CniVersion::V0_4_0).map_err(RunError::Version)? {
            return Err(RunError::CheckUnsupported(list.cni_version.clone()));
        }
        if list.disable_check {
            return Ok(());
        }
        let prev_result = self
            .cache()
            .result(&list.name, conf, &list.cni_version)
            .map_err(|error| RunError::ReadCache(list.name.clone(), error))?;
        for plugin in &list.plugins {
            let stdin = request::for_attachment(list, plugin, prev_result.as_ref(), conf);
            self.call(Command::Check, plugin, &stdin, conf).map_err(RunError::Exec)?;
        }
        Ok(())
    }

    /// GC: deletes every remembered attachment of this network that is not valid, then asks each
    /// plugin (from 1.1.0 on) to remove what nobody remembers. Goes on after failures and
    /// reports all of them.
    ///
    /// Without `valid` no attachment is, and the plugins are not told which are.
    pub fn gc(
        &self,
        list: &NetworkList,
        valid: Option<&[ValidAttachment]>,
    ) -> Result<(), RunError> {
        if list.disable_gc {
            return Ok(());
        }
        // As libcni: with an unreadable cache there is nothing to say about any attachment.
        let Ok(cached) = self.cache().attachments(None) else { return Ok(()) };
        let is_valid = |conf: &RuntimeConf| {
            valid
                .unwrap_or_default()
                .iter()
                .any(|valid| valid.container_id == conf.container_id && valid.ifname == conf.ifname)
        };
        let mut errors: Vec<RunError> = cached
            .into_iter()
            .filter(|found| found.network == list.name && !is_valid(&found.conf))
            .filter_map(|stale| self.delete_stale(list, stale).err())
            .collect();
        if list.at_least(CniVersion::V1_1_0) == Ok(true) {
            errors.extend(list.plugins.iter().filter_map(|plugin| {
                let failed = |error| RunError::Gc(plugin.plugin_type.clone(), error);
                self.ask_gc(list, plugin, valid).map_err(failed).err()
            }));
        }
        RunError::all(errors)
    }

    /// Asks one plugin to remove what no valid attachment owns.
    pub(crate) fn ask_gc(
        &self,
        list: &NetworkList,
        plugin: &PluginConf,
        valid: Option<&[ValidAttachment]>,
    ) -> Result<(), ExecError> {
        let stdin = request::for_gc(list, plugin, valid);
        self.call(Command::Gc, plugin, &stdin, &RuntimeConf::default())
    }

    fn delete_stale(&self, list: &NetworkList, stale: CachedAttachment) -> Result<(), RunError> {
        self.del(list, &stale.conf).map_err(|error| {
            let RuntimeConf { container_id, ifname, .. } = stale.conf;
            RunError::StaleAttachment(container_id, ifname, Box::new(error))
        })
    }

    /// STATUS: forward through the list (from 1.1.0 on; before, success); the first failure is
    /// the answer.
    pub fn status(&self, list: &NetworkList) -> Result<(), RunError> {
        if list.at_least(CniVersion::V1_1_0) != Ok(true) {
            return Ok(());
        }
        list.plugins
            .iter()
            .try_for_each(|plugin| self.ask_status(list, plugin).map(drop).map_err(RunError::Exec))
    }

    /// Asks one plugin whether it could serve ADD. Returns what it said about that on stderr.
    pub(crate) fn ask_status(
        &self,
        list: &NetworkList,
        plugin: &PluginConf,
    ) -> Result<String, ExecError> {
        let path = exec::find(&plugin.plugin_type, &self.plugin_dirs)?;
        let variables =
            exec::variables(Command::Status, &RuntimeConf::default(), &self.plugin_dirs);
        let stdin = request::for_status(list, plugin).to_string();
        let (_, said) = exec::run_heard(&path, &variables, stdin.as_bytes(), self.deadline)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// Whether every plugin is there and supports the list's version. Returns the capabilities
    /// that any of them declares.
    pub fn validate(&self, list: &NetworkList) -> Result<BTreeSet<String>, RunError> {
        let errors = list
            .plugins
            .iter()
            .filter_map(|plugin| self.validate_plugin(&plugin.plugin_type, list).err())
            .collect();
        RunError::all(errors)?;
        Ok(list.plugins.iter().flat_map(|plugin| plugin.capabilities.iter().cloned()).collect())
    }

    fn validate_plugin(&self, plugin_type: &str, list: &NetworkList) -> Result<(), RunError> {
        let version = match list.cni_version.as_str() {
            "" => CniVersion::V0_1_0.as_str(),
            version => version,
        };
        if self.version(plugin_type)?.iter().any(|supported| supported == version) {
            return Ok(());
        }
        Err(RunError::Unsupported(plugin_type.to_owned(), version.to_owned()))
    }

    /// VERSION: the protocol versions that a plugin supports.
    pub fn version(&self, plugin_type: &str) -> Result<Vec<String>, RunError> {
        // The values libcni sends; no plugin looks at them.
        let dummy = RuntimeConf {
            netns: "dummy".to_owned(),
            ifname: "dummy".to_owned(),
            ..RuntimeConf::default()
        };
        let variables = exec::variables(Command::Version, &dummy, &["dummy".into()]);
        let stdin = format!(r#"{{"cniVersion":"{}"}}"#, CniVersion::CURRENT);
        exec::find(plugin_type, &self.plugin_dirs)
            .and_then(|path| {
                let answer = exec::run(&path, &variables, stdin.as_bytes(), self.deadline);
                exec::decode_versions(answer)
            })
            .map_err(RunError::Exec)
    }

    fn call(
        &self,
        command: Command,
        plugin: &PluginConf,
        stdin: &Json,
        conf: &RuntimeConf,
    ) -> Result<(), ExecError> {
        let path = exec::find(&plugin.plugin_type, &self.plugin_dirs)?;
        self.run(command, plugin, &path, stdin, conf).map(|_| ())
    }

    fn run(
        &self,
        command: Command,
        plugin: &PluginConf,
        path: &Path,
        stdin: &Json,
        conf: &RuntimeConf,
    ) -> Result<Vec<u8>, ExecError> {
        let variables = exec::variables(command, conf, &self.plugin_dirs);
        let started = Instant::now();
        let outcome = exec::run(path, &variables, stdin.to_string().as_bytes(), self.deadline);
        if let Some(turns) = &self.turns {
            let plugin_type = plugin.plugin_type.clone();
            // Nobody listening any more is the listener's business.
            let _ = turns.send(Turn { command, plugin_type, took: started.elapsed() });
        }
        outcome
    }
}

fn validate_input(list: &NetworkList, conf: &RuntimeConf) -> Result<(), CniError> {
    if conf.container_id.is_empty() {
        return Err(CniError::new(ErrorCode::UnknownContainer, "missing containerID"));
    }
    validate_container_id(&conf.container_id)?;
    validate_network_name(&list.name)?;
    validate_ifname(&conf.ifname)
}
