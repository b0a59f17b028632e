//! Restoring what attachments lost when something flushed the tables.
//!
//! For every attachment that the cache remembers, the chained plugins of this collection are asked
//! by CHECK whether all is there, and only those that miss something run ADD again, with what the
//! cache says they were given. The main plugin never runs, and the cache stays as it is.
//!
//! `identify` knows which binaries may run again, [`presence`] whether a container is still the
//! one that was attached, `ports` whose a host port is; `report` is the outcome in words.
//! `watch` does it whenever something was flushed.

mod identify;
mod ports;
pub mod presence;
mod report;
pub(crate) mod watch;

use std::path::PathBuf;
use std::time::Duration;

use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::protocol::{CniResult, CniVersion, Command, ErrorCode};

use crate::runner::cache::{CacheEntry, Remembered};
use crate::runner::plugins::MetaPlugin;
use crate::runner::{
    CacheError, CachedAttachment, ExecError, NetworkList, PluginConf, Runner, RuntimeConf, exec,
    request,
};

use identify::Identifier;
pub(crate) use ports::wanted as claimed_mappings;
use ports::{Allotment, Claims};
use presence::{NamedNamespaces, Presence};
pub use report::{Outcome, Report, Step, Summary};

/// What restores.
#[derive(Debug)]
pub struct Restorer {
    /// Where plugins and cache are, and how long a plugin may take.
    pub runner: Runner,
    /// Only attachments to this network.
    pub network: Option<String>,
    /// Only attachments of this container.
    pub container_id: Option<String>,
    /// Only these plugins.
    pub plugins: Vec<MetaPlugin>,
    /// Say what would be restored and change nothing.
    pub dry_run: bool,
    /// How long a runtime's DEL may be under way without a sign of it. What was restored to an
    /// attachment that is gone by then is taken back.
    pub grace: Duration,
    /// Looks whether a container is there.
    pub look: fn(&RuntimeConf, &CniResult, &NamedNamespaces) -> Presence,
}

/// What is restored unless somebody says otherwise. A flush does not reach tuning's settings:
/// they are inside containers, and what changed there was changed on purpose.
pub const DEFAULT_PLUGINS: [MetaPlugin; 3] =
    [MetaPlugin::Portmap, MetaPlugin::Bandwidth, MetaPlugin::Firewall];

/// A plugin that hangs must not keep other attachments from being restored.
const DEADLINE: Duration = Duration::from_mins(1);

/// From which version on plugins know CHECK.
const CHECK_SINCE: CniVersion = CniVersion::V0_4_0;

/// An attachment that may lack something.
struct Candidate {
    entry: CacheEntry,
    name: String,
    list: NetworkList,
    conf: RuntimeConf,
    result: CniResult,
    presence: Presence,
}

/// An attachment to which plugins were added again.
struct Touched<'a> {
    candidate: &'a Candidate,
    plugins: Vec<(MetaPlugin, PathBuf, &'a PluginConf)>,
}

impl Restorer {
    /// Restores everything; the fields are there to ask for less.
    #[must_use]
    pub fn new(runner: Runner) -> Self {
        Self {
            runner: Runner { deadline: Some(DEADLINE), ..runner },
            network: None,
            container_id: None,
            plugins: DEFAULT_PLUGINS.to_vec(),
            dry_run: false,
            grace: Duration::from_secs(1),
            look: presence::look,
        }
    }

    /// Goes through the cache once, the oldest attachment first, and tells about each.
    pub fn run(&self, mut tell: impl FnMut(&Report)) -> Result<Summary, CacheError> {
        let mut summary = Summary::default();
        let mut say = |report: Report| {
            summary.count(&report);
            tell(&report);
        };
        let mut candidates = Vec::new();
        let named = NamedNamespaces::default();
        for entry in self.runner.cache().entries()? {
            match self.judge(entry, &named) {
                Ok(candidate) => candidates.push(candidate),
                Err(report) if self.is_asked_for_file(&report.name) => say(report),
                Err(_) => {}
            }
        }
        // Those that are not asked for own ports as well.
        let claims = Claims::new(candidates.iter().filter(|c| c.is_there()).map(|candidate| {
            (candidate.name.as_str(), &candidate.list, &candidate.conf, &candidate.result)
        }));
        let identifier = Identifier::new(&self.runner.plugin_dirs);
        let mut touched = Vec::new();
        for candidate in candidates.iter().filter(|candidate| self.is_asked_for(&candidate.entry)) {
            let (report, added) = self.restore(candidate, &claims, &identifier);
            say(report);
            touched.extend(added);
        }
        for report in self.look_again(&touched) {
            say(report);
        }
        Ok(summary)
    }

    /// Makes a candidate of a cache file, or the report that says why it is none.
    fn judge(&self, entry: CacheEntry, named: &NamedNamespaces) -> Result<Candidate, Report> {
        let file = || entry.path.display().to_string();
        let Remembered { attachment, result } = match &entry.content {
            Ok(Some(remembered)) => remembered.clone(),
            Ok(None) => return Err(Report { name: file(), outcome: Outcome::Foreign }),
            Err(error) => {
                let outcome = Outcome::Unusable(error.to_string());
                return Err(Report { name: file(), outcome });
            }
        };
        let CachedAttachment { network, mut conf, config } = attachment;
        let name = format!("{network}/{}/{}", conf.container_id, conf.ifname);
        let unusable = |reason: String| Report {
            name: name.clone(),
            outcome: Outcome::Unusable(format!("{}: {reason}", entry.path.display())),
        };
        let list = NetworkList::from_bytes(&config).map_err(|error| unusable(error.to_string()))?;
        let concerned =
            list.plugins.iter().filter_map(|plugin| MetaPlugin::by_type(&plugin.plugin_type));
        // Which others there are decides about host ports, too.
        if !concerned
            .clone()
            .any(|plugin| plugin == MetaPlugin::Portmap || self.plugins.contains(&plugin))
        {
            return Err(Report { name, outcome: Outcome::NotConcerned });
        }
        let result = result.ok_or_else(|| unusable("it holds no result of ADD".to_owned()))?;
        let result = CniResult::from_json(&result, CniVersion::V0_1_0)
            .map_err(|error| unusable(error.to_string()))?;
        let presence = (self.look)(&conf, &result, named);
        if let Presence::There(netns) = &presence {
            conf.netns.clone_from(netns);
        }
        Ok(Candidate { entry, name, list, conf, result, presence })
    }

    fn is_asked_for(&self, entry: &CacheEntry) -> bool {
        let Ok(Some(Remembered { attachment, .. })) = &entry.content else { return true };
        self.network.as_ref().is_none_or(|network| *network == attachment.network)
            && self.container_id.as_ref().is_none_or(|id| *id == attachment.conf.container_id)
    }

    /// Whether a file that cannot be read, or an attachment without our plugins, may be meant.
    fn is_asked_for_file(&self, name: &str) -> bool {
        let file = name.rsplit_once("/results/").map_or(name, |(_, file)| file).replace('/', "-");
        self.network.as_ref().is_none_or(|network| file.starts_with(&format!("{network}-")))
            && self.container_id.as_ref().is_none_or(|id| file.contains(&format!("-{id}-")))
    }

    fn restore<'a>(
        &self,
        candidate: &'a Candidate,
        claims: &Claims,
        identifier: &Identifier,
    ) -> (Report, Option<Touched<'a>>) {
        let report = |outcome| Report { name: candidate.name.clone(), outcome };
        match &candidate.presence {
            Presence::There(_) => {}
            Presence::Gone(why) => {
                let RuntimeConf { container_id, ifname, .. } = &candidate.conf;
                // Not GC, which would delete every other attachment to the network as well.
                let remedy = format!(
                    "cni-chain del {} \"\" --container-id {container_id} --ifname {ifname}",
                    candidate.list.name
                );
                return (report(Outcome::Gone { why: why.clone(), remedy }), None);
            }
            Presence::Unknown(why) => return (report(Outcome::Unusable(why.clone())), None),
        }
        let mut steps = Vec::new();
        let mut touched = Touched { candidate, plugins: Vec::new() };
        for conf in &candidate.list.plugins {
            let Some(plugin) = MetaPlugin::by_type(&conf.plugin_type) else { continue };
            if !self.plugins.contains(&plugin) {
                if let Some(what) = self.drift(candidate, plugin, conf, identifier) {
                    steps.push((plugin, Step::Drifted(what)));
                }
                continue;
            }
            let (step, path) = match identifier.identify(&conf.plugin_type) {
                Ok(path) => (self.restore_plugin(candidate, plugin, conf, &path, claims), path),
                Err(step) => (step, PathBuf::new()),
            };
            if step == Step::Restored {
                touched.plugins.push((plugin, path, conf));
            }
            steps.push((plugin, step));
        }
        let notes = claims.notes(&candidate.name);
        if steps.is_empty() {
            return (report(Outcome::NotConcerned), None);
        }
        let masquerade = candidate.list.plugins.iter().any(makes_masquerade_rules);
        let network = candidate.list.name.clone();
        let outcome = Outcome::Looked { steps, notes, network, masquerade };
        let touched = (!touched.plugins.is_empty()).then_some(touched);
        (report(outcome), touched)
    }

    fn restore_plugin(
        &self,
        candidate: &Candidate,
        plugin: MetaPlugin,
        conf: &PluginConf,
        path: &std::path::Path,
        claims: &Claims,
    ) -> Step {
        let allotment = (plugin == MetaPlugin::Portmap).then(|| claims.allotment(&candidate.name));
        let missing = match self.mismatch(candidate, conf, path, allotment.as_ref()) {
            Ok(None) => return Step::Sound,
            Ok(Some(missing)) => missing,
            Err(reason) => return Step::Failed(reason),
        };
        if self.dry_run {
            return Step::Missing(missing);
        }
        // The runtime may have deleted it since.
        if !candidate.entry.is_current() {
            return Step::Skipped("it was deleted or added again meanwhile".to_owned());
        }
        let request = match candidate.request(conf, &candidate.list) {
            Ok(request) => request,
            Err(reason) => return Step::Failed(reason),
        };
        let request = allotment.map_or(request.clone(), |allotment| allotment.apply(request));
        match self.call(Command::Add, path, &request, &candidate.conf) {
            Ok(()) => Step::Restored,
            Err(error) => Step::Failed(describe(&error)),
        }
    }

    /// What CHECK finds, of what was asked for, or else of what others left of it.
    fn mismatch(
        &self,
        candidate: &Candidate,
        conf: &PluginConf,
        path: &std::path::Path,
        allotment: Option<&Allotment>,
    ) -> Result<Option<Vec<String>>, String> {
        let mut list = candidate.list.clone();
        if !list.at_least(CHECK_SINCE)? {
            // libcni would not ask; our plugins mean the same by every version.
            list = list.raised_to(CHECK_SINCE);
        }
        let request = candidate.request(conf, &list)?;
        let check = |request: &Object| {
            let outcome = self.call(Command::Check, path, request, &candidate.conf);
            outcome.err().map(|error| report::what_check_found(&error))
        };
        let partial = allotment.filter(|allotment| allotment.is_partial());
        if partial.is_some_and(Allotment::is_nothing) {
            return Ok(None);
        }
        Ok(check(&request).and_then(|found| match partial {
            Some(allotment) => check(&allotment.apply(request)),
            None => Some(found),
        }))
    }

    /// What is not restored unless it is asked for, but belongs into an answer to what is amiss.
    fn drift(
        &self,
        candidate: &Candidate,
        plugin: MetaPlugin,
        conf: &PluginConf,
        identifier: &Identifier,
    ) -> Option<Vec<String>> {
        let is_of_interest = self.dry_run && self.plugins == DEFAULT_PLUGINS;
        if !is_of_interest || plugin != MetaPlugin::Tuning {
            return None;
        }
        let path = identifier.identify(&conf.plugin_type).ok()?;
        self.mismatch(candidate, conf, &path, None).ok()?
    }

    fn call(
        &self,
        command: Command,
        path: &std::path::Path,
        request: &Object,
        conf: &RuntimeConf,
    ) -> Result<(), ExecError> {
        let variables = exec::variables(command, conf, &self.runner.plugin_dirs);
        let stdin = Json::from(request.clone()).to_string();
        exec::run(path, &variables, stdin.as_bytes(), self.runner.deadline).map(|_| ())
    }

    /// Takes back what was restored to attachments that are gone by now.
    ///
    /// A runtime knows nothing of us. If its DEL was under way, its plugins may have removed what
    /// we then found missing and added again, and nobody would remove it any more. DEL ends with
    /// the interface and the cache file, so a moment later those tell.
    fn look_again(&self, touched: &[Touched<'_>]) -> Vec<Report> {
        if touched.is_empty() {
            return Vec::new();
        }
        std::thread::sleep(self.grace);
        let left = touched.iter().filter(|touched| {
            let candidate = touched.candidate;
            // One that was added again has what its own ADD made.
            let deleted = !candidate.entry.path.exists();
            let is_gone = || !self.is_there_still(candidate);
            deleted || candidate.entry.is_current() && is_gone()
        });
        left.map(|touched| self.take_back(touched)).collect()
    }

    fn is_there_still(&self, candidate: &Candidate) -> bool {
        // Its path is known by now.
        let named = NamedNamespaces::default();
        let presence = (self.look)(&candidate.conf, &candidate.result, &named);
        matches!(presence, Presence::There(_))
    }

    fn take_back(&self, touched: &Touched<'_>) -> Report {
        let Touched { candidate, plugins } = touched;
        let mut failed = Vec::new();
        for (plugin, path, conf) in plugins.iter().rev() {
            let outcome = candidate.request(conf, &candidate.list).and_then(|request| {
                self.call(Command::Del, path, &request, &candidate.conf)
                    .map_err(|error| describe(&error))
            });
            failed.extend(outcome.err().map(|reason| (*plugin, reason)));
        }
        let plugins = plugins.iter().map(|(plugin, ..)| *plugin).collect();
        let outcome = Outcome::TakenBack { plugins, failed };
        Report { name: candidate.name.clone(), outcome }
    }
}

impl Candidate {
    fn is_there(&self) -> bool {
        matches!(self.presence, Presence::There(_))
    }

    /// What libcni would write to the plugin, in the list's version.
    fn request(&self, plugin: &PluginConf, list: &NetworkList) -> Result<Object, String> {
        let version = match list.cni_version.as_str() {
            "" => CniVersion::V0_1_0,
            text => CniVersion::from_text(text).ok_or_else(|| {
                format!("the network's cniVersion {text:?} is none that plugins know")
            })?,
        };
        let prev_result = self.result.to_json(version).map_err(|error| error.to_string())?;
        let request = request::for_attachment(list, plugin, Some(&prev_result), &self.conf);
        request.as_object().cloned().ok_or_else(|| "its entry is no object".to_owned())
    }
}

/// Whether an entry's plugin writes rules of its own that only its ADD makes.
fn makes_masquerade_rules(plugin: &PluginConf) -> bool {
    plugin.object.get("ipMasq") == Some(&Json::Bool(true))
}

/// A plugin's error with its details, and without advice that is none here.
fn describe(error: &ExecError) -> String {
    let Some(error) = error.cni_error() else { return error.to_string() };
    if error.code.number() == ErrorCode::PortConflict.number() {
        let (what, _) =
            error.msg.split_once(": delete that attachment").unwrap_or((&error.msg, ""));
        return format!(
            "{what}, which the cache knows nothing of, and stays there: delete that attachment if \
             its container is gone"
        );
    }
    error.to_string()
}
