//! One attachment after the other: what it lacks, and how it gets that back.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use cni_common::cni::OwnerTag;
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::cni::protocol::{CniResult, CniVersion, Command, ErrorCode};

use super::allotment::{Allotment, Moved, of_a_port};
use super::identify::Identifier;
use super::masquerade::{Masquerader, Sources};
use super::part::Part;
use super::ports::Claims;
use super::presence::Presence;
use super::report::{self, Outcome, Report, Step};
use super::{DEFAULT_PARTS, Restorer};
use crate::runner::cache::CacheEntry;
use crate::runner::plugins::MetaPlugin;
use crate::runner::{ExecError, NetworkList, PluginConf, RuntimeConf, exec, request};

/// From which version on plugins know CHECK.
const CHECK_SINCE: CniVersion = CniVersion::V0_4_0;

/// An attachment that may lack something.
pub(super) struct Candidate {
    pub(super) entry: CacheEntry,
    pub(super) name: String,
    pub(super) list: NetworkList,
    pub(super) conf: RuntimeConf,
    pub(super) result: CniResult,
    pub(super) presence: Presence,
}

/// An attachment to which something was restored.
pub(super) struct Touched<'a> {
    pub(super) candidate: &'a Candidate,
    parts: Vec<Restored<'a>>,
}

/// What was restored, as its removal has to know it.
enum Restored<'a> {
    Plugin(MetaPlugin, PathBuf, &'a PluginConf),
    Masquerading(Sources),
}

impl Restored<'_> {
    fn part(&self) -> Part {
        match self {
            Self::Plugin(plugin, ..) => Part::Plugin(*plugin),
            Self::Masquerading(_) => Part::Masquerading,
        }
    }
}

/// One way through the cache, and what all of its attachments have in common.
pub(super) struct Round<'a> {
    restorer: &'a Restorer,
    claims: Claims,
    moved: RefCell<Moved>,
    identifier: Identifier<'a>,
    masquerader: Masquerader<'a>,
}

impl<'a> Round<'a> {
    pub(super) fn new(
        restorer: &'a Restorer,
        claims: Claims,
        identifier: Identifier<'a>,
        masquerader: Masquerader<'a>,
    ) -> Self {
        Self { restorer, claims, moved: RefCell::default(), identifier, masquerader }
    }

    /// Restores what an attachment lacks of what was asked for.
    pub(super) fn restore<'c>(&self, candidate: &'c Candidate) -> (Report, Option<Touched<'c>>) {
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
        let mut touched = Touched { candidate, parts: Vec::new() };
        for conf in &candidate.list.plugins {
            let done = match MetaPlugin::by_type(&conf.plugin_type) {
                Some(plugin) => self.plugin(candidate, plugin, conf),
                None => self.masquerading(candidate, conf),
            };
            let Some((part, step, restored)) = done else { continue };
            steps.push((part, step));
            touched.parts.extend(restored);
        }
        if steps.is_empty() {
            return (report(Outcome::NotConcerned), None);
        }
        let notes = self.claims.notes(&candidate.name);
        let touched = (!touched.parts.is_empty()).then_some(touched);
        (report(Outcome::Looked { steps, notes }), touched)
    }

    fn plugin<'c>(
        &self,
        candidate: &'c Candidate,
        plugin: MetaPlugin,
        conf: &'c PluginConf,
    ) -> Option<(Part, Step, Option<Restored<'c>>)> {
        let part = Part::Plugin(plugin);
        if !self.restorer.parts.contains(&part) {
            let drift = self.drift(candidate, plugin, conf)?;
            return Some((part, Step::Drifted(drift), None));
        }
        let path = match self.identifier.identify(&conf.plugin_type) {
            Ok(path) => path,
            Err(step) => return Some((part, step, None)),
        };
        let step = match plugin {
            MetaPlugin::Portmap => self.restore_ports(candidate, conf, &path),
            _ => self.restore_plugin(candidate, conf, &path),
        };
        let restored = (step == Step::Restored).then_some(Restored::Plugin(plugin, path, conf));
        Some((part, step, restored))
    }

    fn restore_plugin(&self, candidate: &Candidate, conf: &PluginConf, path: &Path) -> Step {
        match self.mismatch(candidate, conf, path) {
            Ok(None) => Step::Sound,
            Ok(Some(missing)) => {
                let missing = report::what_check_found(&missing);
                self.put_back(candidate, conf, missing, |request| {
                    self.call(Command::Add, path, &request, &candidate.conf)
                })
            }
            Err(reason) => Step::Failed(reason),
        }
    }

    /// The same for portmap, which may have to wait for some of its ports.
    fn restore_ports(&self, candidate: &Candidate, conf: &PluginConf, path: &Path) -> Step {
        let allotment = self.claims.allotment(&candidate.name);
        let waits = allotment.waits();
        if allotment.is_nothing() && !waits {
            return Step::Sound;
        }
        let missing = match self.mismatch(candidate, conf, path) {
            Err(reason) => return Step::Failed(reason),
            Ok(missing) => missing.filter(|error| {
                error.cni_error().is_none_or(|error| !allotment.is_explained_by(error))
            }),
        };
        if let Some(step) = missing.as_ref().and_then(|e| self.would_stay(candidate, &allotment, e))
        {
            return step;
        }
        let missing = missing.as_ref().map(report::what_check_found);
        // Nobody asks for what is moved only so that others stay in order.
        let is_behind = !self.restorer.dry_run && self.moved.borrow().concerns(&allotment);
        if missing.is_none() && !is_behind {
            return Step::Sound;
        }
        let has_own = missing.is_some() && !allotment.is_nothing();
        let step = self.put_back(candidate, conf, missing.unwrap_or_default(), |request| {
            let add = |request: &Object| self.call(Command::Add, path, request, &candidate.conf);
            if has_own {
                add(&allotment.apply(request.clone())).or_else(|refusal| {
                    let error = refusal.cni_error();
                    let request = request.clone();
                    let rightfully = error.and_then(|e| allotment.apply_rightfully(request, e));
                    rightfully.map_or(Err(refusal), |request| add(&request))
                })?;
            }
            if waits { add(&Allotment::apply_waiting(request)) } else { Ok(()) }
        });
        if waits && step == Step::Restored {
            self.moved.borrow_mut().add(&allotment);
        }
        step
    }

    /// What ADD would say of a port whose owner the cache does not know, where it is not run (dry run).
    fn would_stay(
        &self,
        candidate: &Candidate,
        allotment: &Allotment,
        missing: &ExecError,
    ) -> Option<Step> {
        let error = missing.cni_error().filter(|_| self.restorer.dry_run)?;
        let is_sibling = |holder: &str| OwnerTag::is_one_container(holder, &candidate.name);
        let mut held = cni_portmap::held_by_others(error).into_iter();
        let (mapping, holder) = held
            .find(|(mapping, holder)| allotment.leaves(mapping, holder) && !is_sibling(holder))?;
        let what = format!("host port mapping {mapping} belongs to attachment {holder}");
        Some(Step::Failed(of_a_stranger(&what)))
    }

    /// Adds what is missing again, unless it is only to be told.
    fn put_back(
        &self,
        candidate: &Candidate,
        conf: &PluginConf,
        missing: Vec<String>,
        add: impl FnOnce(Object) -> Result<(), ExecError>,
    ) -> Step {
        if let Some(step) = self.only_said(candidate, missing) {
            return step;
        }
        match candidate.request(conf, &candidate.list).map(add) {
            Ok(Ok(())) => Step::Restored,
            Ok(Err(error)) => Step::Failed(describe(&error)),
            Err(reason) => Step::Failed(reason),
        }
    }

    /// The masquerade rules that an entry's plugin made, if it made any.
    fn masquerading<'c>(
        &self,
        candidate: &'c Candidate,
        conf: &PluginConf,
    ) -> Option<(Part, Step, Option<Restored<'c>>)> {
        let part = Part::Masquerading;
        let (network, result) = (&candidate.list.name, &candidate.result);
        let sources = Sources::of(network, conf, &candidate.conf, result)
            .filter(|_| self.restorer.parts.contains(&part))?;
        let step = self.masquerade(candidate, &sources);
        let restored = (step == Step::Restored).then_some(Restored::Masquerading(sources));
        Some((part, step, restored))
    }

    fn masquerade(&self, candidate: &Candidate, sources: &Sources) -> Step {
        let missing = match self.masquerader.missing(sources) {
            Ok(missing) if missing.is_empty() => return Step::Sound,
            Ok(missing) => missing,
            Err(error) => return Step::Failed(error.to_string()),
        };
        let addresses: Vec<String> =
            missing.iter().map(|address| address.addr().to_string()).collect();
        let what = format!("what leaves {} is not masqueraded", addresses.join(", "));
        if let Some(step) = self.only_said(candidate, vec![what]) {
            return step;
        }
        match self.masquerader.make(sources, &missing) {
            Ok(()) => Step::Restored,
            Err(error) => Step::Failed(error.to_string()),
        }
    }

    /// The step of something that is missing and cannot or must not be made.
    fn only_said(&self, candidate: &Candidate, missing: Vec<String>) -> Option<Step> {
        if self.restorer.dry_run {
            return Some(Step::Missing(missing));
        }
        // The runtime may have deleted it since.
        let is_current = candidate.entry.is_current();
        let why = || "it was deleted or added again meanwhile".to_owned();
        (!is_current).then(|| Step::Skipped(why()))
    }

    /// CHECK's error.
    fn mismatch(
        &self,
        candidate: &Candidate,
        conf: &PluginConf,
        path: &Path,
    ) -> Result<Option<ExecError>, String> {
        let mut list = candidate.list.clone();
        if !list.at_least(CHECK_SINCE)? {
            // libcni would not ask; our plugins mean the same by every version.
            list = list.raised_to(CHECK_SINCE);
        }
        let request = candidate.request(conf, &list)?;
        Ok(self.call(Command::Check, path, &request, &candidate.conf).err())
    }

    /// What is not restored unless it is asked for, but belongs into an answer to what is amiss.
    fn drift(
        &self,
        candidate: &Candidate,
        plugin: MetaPlugin,
        conf: &PluginConf,
    ) -> Option<Vec<String>> {
        let is_of_interest = self.restorer.dry_run && self.restorer.parts == DEFAULT_PARTS;
        if !is_of_interest || plugin != MetaPlugin::Tuning {
            return None;
        }
        let path = self.identifier.identify(&conf.plugin_type).ok()?;
        let missing = self.mismatch(candidate, conf, &path).ok()??;
        Some(report::what_check_found(&missing))
    }

    fn call(
        &self,
        command: Command,
        path: &Path,
        request: &Object,
        conf: &RuntimeConf,
    ) -> Result<(), ExecError> {
        let runner = &self.restorer.runner;
        let variables = exec::variables(command, conf, &runner.plugin_dirs);
        let stdin = Json::from(request.clone()).to_string();
        exec::run(path, &variables, stdin.as_bytes(), runner.deadline).map(|_| ())
    }

    /// Removes what was restored, in the order of a runtime's DEL.
    pub(super) fn take_back(&self, touched: &Touched<'_>) -> Report {
        let Touched { candidate, parts } = touched;
        let mut failed = Vec::new();
        for restored in parts.iter().rev() {
            let outcome = match restored {
                Restored::Plugin(_, path, conf) => {
                    candidate.request(conf, &candidate.list).and_then(|request| {
                        self.call(Command::Del, path, &request, &candidate.conf)
                            .map_err(|error| describe(&error))
                    })
                }
                Restored::Masquerading(sources) => {
                    self.masquerader.remove(sources).map_err(|error| error.to_string())
                }
            };
            failed.extend(outcome.err().map(|reason| (restored.part(), reason)));
        }
        let parts = parts.iter().map(Restored::part).collect();
        Report { name: candidate.name.clone(), outcome: Outcome::TakenBack { parts, failed } }
    }
}

impl Candidate {
    pub(super) fn is_there(&self) -> bool {
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

/// A plugin's error with its details, and without advice that is none here.
fn describe(error: &ExecError) -> String {
    let Some(error) = error.cni_error() else { return error.to_string() };
    if error.code.number() == ErrorCode::PortConflict.number() {
        return of_a_stranger(of_a_port(&error.msg).unwrap_or(&error.msg));
    }
    error.to_string()
}

/// A port that is not taken from its owner.
fn of_a_stranger(what: &str) -> String {
    let container = what.rsplit_once(" attachment ").and_then(|(_, tag)| tag.split('/').nth(1));
    // A name that is too long is not all there.
    let container = container.filter(|id| !id.contains('~'));
    let remedy = container.map_or("delete that attachment".to_owned(), |id| {
        format!("`cni-chain purge --container-id {id}` removes what it has")
    });
    format!(
        "{what}, which the cache knows nothing of, and stays there: if that container is gone, {remedy}"
    )
}
