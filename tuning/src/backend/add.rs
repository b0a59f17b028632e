//! ADD inside the container's namespace.

use std::path::Path;

use cni_common::cni::Attachment;
use cni_common::cni::protocol::CniError;

use super::originals::Originals;
use super::restore::give_back_all;
use super::store::Store;
use crate::allowlist::Allowlist;
use crate::host::{Host, Namespace};
use crate::plan::Plan;
use crate::setting::Setting;
use crate::value;

/// Makes everything as the plan wants it, or leaves everything as it was. Returns warnings.
pub(crate) fn add(
    host: &mut Host<'_>,
    plan: &Plan<'_>,
    allowlist: &Allowlist,
    attachment: &Attachment,
    data_dir: &Path,
) -> Result<Vec<String>, CniError> {
    let wanted = reachable(host, plan, allowlist)?;
    let store = Store::create(data_dir, attachment)?;
    // All of them before the first write: one sysctl may change another.
    let mut before = Vec::new();
    for setting in &wanted {
        before.extend(host.current(setting)?);
    }
    let earlier = store.load()?.or_refuse()?;
    let mut originals =
        Originals::about(host.namespace()?, host.link.as_ref(), host.ifname, earlier.clone());
    originals.merge(store.load_go()?.or_refuse()?.into_iter().flatten());
    originals.merge(before.iter().cloned());
    if !originals.settings.is_empty() {
        store.save(&originals)?;
    }
    set_all(host, &wanted).map_err(|error| undo(error, host, &before, &store, earlier.as_ref()))
}

/// What is to be set, in order. An error if anything of it cannot be, or may not be.
fn reachable(
    host: &Host<'_>,
    plan: &Plan<'_>,
    allowlist: &Allowlist,
) -> Result<Vec<Setting>, CniError> {
    let settings = plan.settings(|key| {
        let meaning = match host.sysctls.find_writable(key) {
            Ok(meaning) => meaning,
            // Whoever may not set it need not learn whether it exists.
            Err(error) => {
                allowlist.permit(key, key.first_reading())?;
                return Err(error);
            }
        };
        allowlist.permit(key, meaning)?;
        Ok(meaning)
    })?;
    if !plan.link.is_empty() {
        host.require_link()?;
    }
    Ok(settings)
}

/// Sets everything in order, then once more what a later one has reset: writing `ip_forward`,
/// for one, resets a dozen others, and libcni hands sysctls over sorted by name, whatever order
/// the operator wrote.
pub(crate) fn set_all(
    host: &mut impl Namespace,
    wanted: &[Setting],
) -> Result<Vec<String>, CniError> {
    let mut warnings = Vec::new();
    for setting in wanted {
        host.set(setting)?;
    }
    for setting in wanted {
        if drift(host, setting)?.is_none() {
            continue;
        }
        host.set(setting)?;
        if let Some(text) = drift(host, setting)? {
            warnings.push(format!("{text}; CHECK will find fault with it"));
        }
    }
    Ok(warnings)
}

/// What is different about a sysctl. Link attributes are refused or taken, nothing between.
fn drift(host: &impl Namespace, wanted: &Setting) -> Result<Option<String>, CniError> {
    let Setting::Sysctl { path, value } = wanted else { return Ok(None) };
    let found = host.current(wanted)?;
    let Some(Setting::Sysctl { value: found, .. }) = found else { return Ok(None) };
    let same = value::same(value, &found);
    Ok((!same).then(|| format!("{path} is {found:?} instead of {value:?}")))
}

/// Takes back a failed ADD. What could not be taken back is added to its error, and its original
/// stays for DEL.
fn undo(
    mut error: CniError,
    host: &mut Host<'_>,
    before: &[Setting],
    store: &Store<'_>,
    earlier: Option<&Originals>,
) -> CniError {
    let mut failures = match host.look_again() {
        Ok(()) => give_back_all(host, before),
        Err(failure) => vec![failure],
    };
    if failures.is_empty() {
        let kept = earlier.map_or_else(|| store.forget(), |earlier| store.save(earlier));
        failures.extend(kept.err());
    }
    for failure in failures {
        error.details = format!("{}; not taken back: {failure}", error.details);
    }
    error
}
