//! `show`: what these plugins have on this host, and whose it is.
//!
//! `survey` reads the kernel by owner and compares with the cache; `listeners`,
//! `translations` and `native` look for who else has a port; `subject` is what is asked about, `report` the answer.

mod listeners;
mod native;
mod report;
mod subject;
mod survey;
mod translations;

use crate::runner::{Cache, CacheError};

pub(crate) use listeners::{Listener, on as listeners_on};
pub(crate) use report::Report;
pub(crate) use subject::port;
pub(crate) use survey::{Attached, Container, Mapped, Owner, Standing, Survey};

use subject::Subject;

/// All owners of anything on this host.
pub(crate) fn owners(cache: &Cache) -> Result<Vec<Owner>, CacheError> {
    Ok(Survey::of(cache)?.owners())
}

/// Looks, and keeps what is about `text`.
pub(crate) fn look(cache: &Cache, text: Option<&str>) -> anyhow::Result<Report> {
    let mut survey = Survey::of(cache)?;
    let subject = Subject::parse(text, &survey.owners())?;
    subject.narrow(&mut survey);
    let (mut found, mut others) = (Vec::new(), Vec::new());
    if let Some((port, protocol)) = subject.port() {
        found = listeners::on(port, protocol);
        let (translations, unreadable) = translations::of(port, protocol);
        others = translations;
        survey.unreadable.extend(unreadable);
        match native::of(port, protocol) {
            Ok(translations) => others.extend(translations),
            Err(error) => survey.unreadable.push(format!("rules of nftables: {error}")),
        }
    }
    Ok(Report { subject, survey, listeners: found, translations: others })
}
