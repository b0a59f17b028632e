//! Giving back what was there before ADD.

use cni_common::cni::AttachmentRequest;
use cni_common::cni::protocol::{CniError, ErrorCode};

use super::originals::Originals;
use super::store::{Kept, Store};
use crate::host::{Container, Host, Namespace as _};
use crate::setting::Setting;

/// DEL: gives back what is kept and then forgets it. Returns warnings. Where another try may
/// help, an error leaves everything that DEL needs for it.
pub(crate) fn restore(
    request: &AttachmentRequest,
    store: &Store<'_>,
) -> Result<Vec<String>, CniError> {
    let (ours, gos) = (store.load()?, store.load_go()?);
    let is_gos = gos != Kept::Nothing;
    if matches!((&ours, &gos), (Kept::Nothing, Kept::Nothing)) {
        store.forget()?;
        return Ok(Vec::new());
    }
    let mut warnings = Vec::new();
    let ours = ours.or_warn(&mut warnings);
    let gos = gos.or_warn(&mut warnings).unwrap_or_default();
    // A namespace that is gone took its sysctls and interfaces with it.
    if let Some(container) = Container::open_if_there(request)? {
        for failure in give_back_kept(&container, ours, gos)? {
            warnings.push(format!("not restored: {failure}"));
        }
    }
    store.forget()?;
    if is_gos {
        store.forget_go()?;
    }
    Ok(warnings)
}

/// What the kernel refused for good.
fn give_back_kept(
    container: &Container<'_>,
    ours: Option<Originals>,
    gos: Vec<Setting>,
) -> Result<Vec<CniError>, CniError> {
    let own_namespace = container.is_own()?;
    container.inside(|host| {
        let mut originals =
            Originals::about(host.namespace()?, host.link.as_ref(), host.ifname, ours);
        if own_namespace {
            // Whatever a file says, the host's sysctls are not for containers to change. Nor are
            // its interfaces, on the word of the Go plugin, which does not say which namespace
            // it means.
            originals.settings.retain(|setting| matches!(setting, Setting::Link(_)));
        } else {
            originals.merge(gos);
        }
        let failures = give_back_all(host, &originals.settings);
        match failures.iter().find(|failure| failure.code == ErrorCode::TryAgainLater) {
            Some(failure) => Err(failure.clone()),
            None => Ok(failures),
        }
    })
}

/// Gives back the originals, the last one first; returns what could not be.
pub(super) fn give_back_all(host: &mut Host<'_>, originals: &[Setting]) -> Vec<CniError> {
    let mut failures = give_back(host, originals.iter().rev());
    // Again, because giving back one may have changed another.
    let second = match host.look_again() {
        Ok(()) => give_back(host, originals.iter()),
        Err(error) => vec![error],
    };
    for failure in second {
        if !failures.contains(&failure) {
            failures.push(failure);
        }
    }
    failures
}

fn give_back<'a>(
    host: &mut Host<'_>,
    originals: impl Iterator<Item = &'a Setting>,
) -> Vec<CniError> {
    let mut failures = Vec::new();
    for original in originals {
        let outcome = match host.current(original) {
            Ok(Some(current)) if current != *original => host.set(original),
            // A property that is gone is as good as given back.
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        failures.extend(outcome.err());
    }
    failures
}
