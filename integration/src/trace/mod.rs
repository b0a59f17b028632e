//! `trace`: follows one connection attempt through the host and says where it stops.
//!
//! It reads and changes nothing. `question` is what is asked, `way` the connection and its ends, and
//! each further module looks at one part of its way and answers with steps.

mod container;
mod filtered;
mod flows;
mod host;
pub(crate) mod live;
mod mapped;
mod path;
mod question;
mod report;
mod step;
mod translated;
mod way;

use cni_common::kernel::netns::Netns;
use cni_common::kernel::nft::NftError;

use crate::rules::Rules;
use crate::runner::Cache;
use crate::show::{Attached, Container, Listener, Mapped, Survey, listeners_on};

pub(crate) use question::Question;
pub(crate) use report::{json, packet_text, text};
pub(crate) use step::Trace;

use step::Step;
use way::Way;

/// Follows the connection by each mapping that has the port: one of each protocol and family.
pub(crate) fn follow(cache: &Cache, question: &Question) -> anyhow::Result<Vec<Trace>> {
    let survey = Survey::of(cache)?;
    let listeners = listeners_on(question.port, question.protocol);
    let mappings = question.mappings(&survey.ports);
    if mappings.is_empty() {
        let steps = mapped::nothing(question.port, &survey.ports, &listeners);
        return Ok(vec![Trace {
            port: question.port,
            protocol: question.protocol.unwrap_or(cni_common::kernel::nft::L4Protocol::Tcp),
            to: question.to,
            from: question.from,
            steps,
        }]);
    }
    let mut rules = Rules::read();
    let trace = |mapped| one(question, mapped, &survey, &listeners, &mut rules);
    mappings.into_iter().map(trace).collect()
}

fn one(
    question: &Question,
    mapped: &Mapped,
    survey: &Survey,
    listeners: &[Listener],
    rules: &mut Result<Rules, NftError>,
) -> anyhow::Result<Trace> {
    let way = Way::find(mapped, question.to, question.from)?;
    let attached = survey.attachments.iter().find(|attached| attached.owner == mapped.owner);
    let netns = attached.and_then(namespace);

    let mut steps = vec![mapped::mapping(mapped, &survey.ports), host::address(&way)];
    match rules {
        Err(error) => steps.push(Step::unknown("rules", error)),
        Ok(rules) => {
            steps.push(translated::first(&way, rules));
            steps.extend(host::loopback(&way));
            steps.extend(host::reverse_path(&way));
            steps.extend(host::forwarding(&way));
            steps.extend(path::links(&way, netns.as_ref()));
            steps.push(path::route(&way));
            steps.extend(filtered::all(&way, rules));
        }
    }
    steps.push(container::presence(attached));
    if let Some(netns) = &netns {
        steps.extend(container::inside(&way, netns));
    }
    steps.push(flows::stale(&way));
    steps.push(mapped::listeners(&way, listeners));
    Ok(Trace {
        port: question.port,
        protocol: mapped.mapping.protocol,
        to: way.to,
        from: way.from,
        steps,
    })
}

/// The container's namespace, if it is still the container's.
fn namespace(attached: &Attached) -> Option<Netns> {
    let is_there = attached.container == Container::There;
    way::open(&attached.netns).ok().filter(|_| is_there)
}
