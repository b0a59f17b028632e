//! What is measured, one subject each.

mod at_once;
mod attachments;
mod calls;
mod chain;
mod limits;
mod mappings;
mod packets;

use std::path::PathBuf;
use std::time::Duration;

use cni_testbox::bench::Cost;
use cni_testbox::{GO_PLUGINS, Implementation as Known};

use crate::record::Of;
use crate::subject::{GO, Implementation, OURS};

pub(super) type Scene = fn(&Setup) -> Result<(), String>;

pub(super) const SCENES: [(&str, Scene); 7] = [
    ("calls", calls::run),
    ("chain", chain::run),
    ("attachments", attachments::run),
    ("mappings", mappings::run),
    ("at once", at_once::run),
    ("packets", packets::run),
    ("limits", limits::run),
];

/// What the command line asks for.
pub(super) struct Setup {
    /// A minute, to see that it works.
    pub(super) quick: bool,
    pub(super) only: Option<String>,
    pub(super) implementations: Vec<Implementation>,
}

impl Setup {
    pub(super) fn read(words: &[String]) -> Self {
        let ours = Known::Ours.plugin("portmap");
        let ours = ours.parent().expect("a directory").to_owned();
        let mut setup = Self {
            quick: false,
            only: None,
            implementations: vec![
                Implementation { name: OURS.into(), directory: ours },
                Implementation { name: GO.into(), directory: GO_PLUGINS.into() },
            ],
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => setup.quick = true,
                "--only" => setup.only = Some(words.next().expect("--only SCENE").clone()),
                "--plugins" => {
                    let named = words.next().and_then(|named| named.split_once('='));
                    let (name, directory) = named.expect("--plugins NAME=DIRECTORY");
                    let directory = PathBuf::from(directory);
                    assert!(directory.join("portmap").is_file(), "no portmap in {named:?}");
                    setup.implementations.push(Implementation { name: name.into(), directory });
                }
                // cargo's.
                "--bench" => {}
                other => {
                    panic!("{other} is no option: --quick, --only SCENE, --plugins NAME=DIRECTORY")
                }
            }
        }
        setup
    }

    pub(super) fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// How long making a state may take, until its level is left out.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(if self.quick { 2 } else { 40 })
    }
}

/// One that breaks off is told, and the others go on; if there are any.
fn each_plugin(
    scene: &'static str,
    plugins: &[&'static str],
    work: impl Fn(&'static str) -> Result<(), String>,
) -> Result<(), String> {
    let mut broken = 0;
    for plugin in plugins {
        if let Err(why) = work(plugin) {
            let of = Of { scene, plugin: (*plugin).into(), ..Of::default() };
            of.note(&format!("it broke off: {why}"));
            broken += 1;
        }
    }
    if broken == plugins.len() { Err("no plugin got through it".into()) } else { Ok(()) }
}

/// In the order of the rounds.
#[derive(Default)]
struct Series(Vec<Cost>);

impl Series {
    fn push(&mut self, cost: Cost) {
        self.0.push(cost);
    }

    /// In microseconds.
    fn tell(&self, of: &Of) {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        of.tell("cpu", &self.0.iter().map(|cost| micros(cost.cpu)).collect::<Vec<_>>());
        of.tell("wall", &self.0.iter().map(|cost| micros(cost.wall)).collect::<Vec<_>>());
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn number(count: usize) -> f64 {
    count as f64
}
