//! Restoring what attachments lost when something flushed the tables.
//!
//! For every attachment that the cache remembers, the chained plugins of this collection are asked
//! by CHECK whether all is there, and only those that miss something run ADD again, with what the
//! cache says they were given. The main plugin never runs, but the masquerade rules that it made
//! are made again. The cache stays as it is.
//!
//! `round` goes from one attachment to the next. `identify` knows which binaries may run again,
//! [`presence`] whether a container is still the one that was attached, `ports` whose a host port
//! is and `allotment` how it is asked for, `masquerade` what `ipMasq` means; `report` is the outcome in words. `watch` does it whenever
//! something was flushed.

mod allotment;
mod identify;
mod masquerade;
mod part;
mod ports;
pub mod presence;
mod report;
mod round;
pub(crate) mod watch;

use std::collections::HashMap;
use std::time::Duration;

use cni_common::cni::protocol::{CniResult, CniVersion};

use crate::progress::Progress;
use crate::runner::cache::{CacheEntry, Remembered};
use crate::runner::plugins::MetaPlugin;
use crate::runner::{CacheError, CachedAttachment, NetworkList, PluginConf, Runner, RuntimeConf};

use identify::Identifier;
use masquerade::{Masquerader, asks_for_masquerading};
pub use part::Part;
pub(crate) use ports::wanted as claimed_mappings;
use ports::{Applicant, Claims};
use presence::{NamedNamespaces, Presence};
pub use report::{Outcome, Report, Step, Summary};
use round::{Candidate, Round, Touched};

/// What restores.
#[derive(Debug)]
pub struct Restorer {
    /// Where plugins and cache are, and how long a plugin may take.
    pub runner: Runner,
    /// Only attachments to this network.
    pub network: Option<String>,
    /// Only attachments of this container.
    pub container_id: Option<String>,
    /// Only this of each attachment.
    pub parts: Vec<Part>,
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
pub const DEFAULT_PARTS: [Part; 4] = [
    Part::Masquerading,
    Part::Plugin(MetaPlugin::Portmap),
    Part::Plugin(MetaPlugin::Bandwidth),
    Part::Plugin(MetaPlugin::Firewall),
];

/// A plugin that hangs must not keep other attachments from being restored.
const DEADLINE: Duration = Duration::from_mins(1);

impl Restorer {
    /// Restores everything; the fields are there to ask for less.
    #[must_use]
    pub fn new(runner: Runner) -> Self {
        Self {
            runner: Runner { deadline: Some(DEADLINE), ..runner },
            network: None,
            container_id: None,
            parts: DEFAULT_PARTS.to_vec(),
            dry_run: false,
            grace: Duration::from_secs(1),
            look: presence::look,
        }
    }

    /// Goes through the cache once and tells about each attachment: the oldest first, but behind all
    /// others those that have lost a host port, and of these the newest first.
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
            let Candidate { name, list, conf, result, .. } = candidate;
            let is_asked_for = self.is_asked_for(&candidate.entry);
            Applicant { name, list, conf, result, is_asked_for }
        }));
        let losers = claims.losers().into_iter().enumerate();
        let turns: HashMap<&str, usize> = losers.map(|(turn, name)| (name, turn)).collect();
        let mut in_turn: Vec<&Candidate> =
            candidates.iter().filter(|candidate| self.is_asked_for(&candidate.entry)).collect();
        in_turn.sort_by_key(|candidate| turns.get(candidate.name.as_str()));
        let dirs = &self.runner.plugin_dirs;
        let (identifier, masquerader) = (Identifier::new(dirs), Masquerader::new(dirs));
        let round = Round::new(self, claims, identifier, masquerader);
        let mut touched = Vec::new();
        let mut progress = Progress::of(in_turn.len());
        for candidate in in_turn {
            let (report, restored) = round.restore(candidate);
            progress.hide();
            say(report);
            progress.step();
            touched.extend(restored);
        }
        drop(progress);
        for report in self.look_again(&round, &touched) {
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
        if !list.plugins.iter().any(|plugin| self.concerns(plugin)) {
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

    /// Whether an entry's plugin has to do with what is to be restored.
    fn concerns(&self, plugin: &PluginConf) -> bool {
        match MetaPlugin::by_type(&plugin.plugin_type) {
            // Which others there are decides about host ports, too.
            Some(MetaPlugin::Portmap) => true,
            Some(meta) => self.parts.contains(&Part::Plugin(meta)),
            None => self.parts.contains(&Part::Masquerading) && asks_for_masquerading(plugin),
        }
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

    /// Takes back what was restored to attachments that are gone by now.
    ///
    /// A runtime knows nothing of us. If its DEL was under way, its plugins may have removed what
    /// we then found missing and added again, and nobody would remove it any more. DEL ends with
    /// the interface and the cache file, so a moment later those tell.
    fn look_again(&self, round: &Round<'_>, touched: &[Touched<'_>]) -> Vec<Report> {
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
        left.map(|touched| round.take_back(touched)).collect()
    }

    fn is_there_still(&self, candidate: &Candidate) -> bool {
        // Its path is known by now.
        let named = NamedNamespaces::default();
        let presence = (self.look)(&candidate.conf, &candidate.result, &named);
        matches!(presence, Presence::There(_))
    }
}
