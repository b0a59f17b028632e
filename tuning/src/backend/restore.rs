//! Giving back what was there before ADD.

use cni_common::cni::protocol::CniError;

use super::originals::{Originals, Store};
use crate::host::{Container, Host};
use crate::kept::Kept;
use crate::setting::Setting;

/// DEL, where the namespace is still there: gives back what is kept of it. Returns warnings.
pub(crate) fn restore(
    container: &Container<'_>,
    store: &Store<'_>,
) -> Result<Vec<String>, CniError> {
    let (ours, gos) = (store.load(), store.go.load());
    if matches!((&ours, &gos), (Kept::Nothing, Kept::Nothing)) {
        return Ok(Vec::new());
    }
    let mut warnings = Vec::new();
    let ours = ours.or_warn(&mut warnings);
    let gos = gos.or_warn(&mut warnings);
    let own_namespace = container.is_own();
    container.inside(|host| {
        let mut originals = Originals::about(host, ours);
        // The Go plugin does not say which namespace it means; a path that by now leads to the
        // host must not change the host.
        if !own_namespace {
            originals.merge(gos.into_iter().flatten());
        }
        warnings.extend(give_back_all(host, &originals.settings));
        Ok(warnings)
    })
}

/// Gives back the originals, the last one first; returns what could not be.
pub(super) fn give_back_all(host: &mut Host<'_>, originals: &[Setting]) -> Vec<String> {
    let mut failures = give_back(host, originals.iter().rev());
    // Again, because giving back one may have changed another.
    host.look_again();
    for failure in give_back(host, originals.iter()) {
        if !failures.contains(&failure) {
            failures.push(failure);
        }
    }
    failures
}

fn give_back<'a>(host: &mut Host<'_>, originals: impl Iterator<Item = &'a Setting>) -> Vec<String> {
    let mut failures = Vec::new();
    for original in originals {
        // A property that is gone is as good as given back.
        let changed = host.current(original).is_some_and(|current| current != *original);
        if changed && let Err(error) = host.set(original) {
            failures.push(format!("not restored: {error}"));
        }
    }
    failures
}
