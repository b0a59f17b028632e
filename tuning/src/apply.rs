//! ADD, CHECK and DEL inside the container's namespace.

use cni_common::cni::protocol::CniError;

use crate::allowlist::Allowlist;
use crate::backup::{Backup, Found, Store};
use crate::config::Config;
use crate::key::{Key, Reading};
use crate::setting::{LinkSetting, Setting};
use crate::target::Target;
use crate::value;

/// Makes everything as the configuration wants it, or leaves everything as it was. Returns
/// warnings.
pub fn add(
    config: &Config,
    allowlist: Option<&Allowlist>,
    store: &Store<'_>,
    namespace: (u64, u64),
    ifname: &str,
) -> Result<Vec<String>, CniError> {
    let mut target = Target::open(ifname)?;
    let wanted = wanted(config, allowlist, &target)?;
    let mut warnings = Vec::new();
    let _lock = store.create_and_lock()?;
    // All of them before the first write: one sysctl may change another.
    let before: Vec<Setting> =
        wanted.iter().filter_map(|setting| target.current(setting)).collect();
    let earlier = store.load().or_warn(&mut warnings);
    let mut backup = usable(earlier.clone(), namespace, &target, ifname);
    backup.merge(store.load_go().or_warn(&mut warnings).into_iter().flatten());
    backup.merge(before.iter().cloned());
    if earlier.as_ref() != Some(&backup) && !backup.originals.is_empty() {
        store.save(&backup)?;
    }
    set_all(&mut target, &wanted, &mut warnings)
        .map_err(|error| undo(error, &mut target, &before, store, earlier.as_ref()))?;
    Ok(warnings)
}

/// Takes back a failed ADD. What could not be taken back is added to its error.
fn undo(
    mut error: CniError,
    target: &mut Target,
    before: &[Setting],
    store: &Store<'_>,
    earlier: Option<&Backup>,
) -> CniError {
    target.look_again();
    let mut failures = restore(target, before);
    let kept = earlier.map_or_else(|| store.remove(), |earlier| store.save(earlier));
    failures.extend(kept.err().map(|failure| failure.to_string()));
    for failure in failures {
        error.details = format!("{}; {failure}", error.details);
    }
    error
}

/// What is to be set, in order. An error if anything of it cannot be.
fn wanted(
    config: &Config,
    allowlist: Option<&Allowlist>,
    target: &Target,
) -> Result<Vec<Setting>, CniError> {
    let mut wanted = Vec::new();
    for sysctl in &config.sysctls {
        let meaning = match target.sysctls.find_writable(&sysctl.key) {
            Ok(meaning) => meaning,
            // Whoever may not set it need not learn whether it exists.
            Err(error) => {
                permit(allowlist, config, &sysctl.key, &sysctl.key.readings()[0])?;
                return Err(error);
            }
        };
        permit(allowlist, config, &sysctl.key, meaning)?;
        wanted.push(Setting::Sysctl { path: meaning.path().clone(), value: sysctl.value.clone() });
    }
    let link = LinkSetting::wanted(config);
    if !link.is_empty() {
        target.require_link()?;
    }
    wanted.extend(link.into_iter().map(Setting::Link));
    Ok(wanted)
}

fn permit(
    allowlist: Option<&Allowlist>,
    config: &Config,
    key: &Key,
    meaning: &Reading,
) -> Result<(), CniError> {
    match allowlist {
        Some(list) if list.allows(key, meaning) => Ok(()),
        Some(_) => Err(Allowlist::denial(key)),
        None if config.allowlist_strict => Err(Allowlist::missing(key)),
        None => Ok(()),
    }
}

/// What of an earlier backup is about this namespace and this interface.
fn usable(earlier: Option<Backup>, namespace: (u64, u64), target: &Target, ifname: &str) -> Backup {
    let interface = target.link.as_ref().map(|link| link.index);
    let mut backup = Backup { namespace, interface, originals: Vec::new() };
    if let Some(earlier) = earlier.filter(|earlier| earlier.namespace == namespace) {
        let same_interface = earlier.interface == interface;
        let keep = |setting: &Setting| same_interface || !setting.is_of_interface(ifname);
        backup.originals = earlier.originals.into_iter().filter(keep).collect();
    }
    backup
}

/// Sets everything in order, then once more what a later one has reset: writing `ip_forward`,
/// for one, resets a dozen others, and libcni hands sysctls over sorted by name, whatever order
/// the operator wrote.
fn set_all(
    target: &mut Target,
    wanted: &[Setting],
    warnings: &mut Vec<String>,
) -> Result<(), CniError> {
    for setting in wanted {
        target.set(setting)?;
    }
    for setting in wanted {
        if drift(target, setting).is_none() {
            continue;
        }
        target.set(setting)?;
        if let Some(text) = drift(target, setting) {
            warnings.push(format!("{text}; CHECK will find fault with it"));
        }
    }
    Ok(())
}

/// What is different about a sysctl. Link attributes are refused or taken, nothing between.
fn drift(target: &Target, wanted: &Setting) -> Option<String> {
    let Setting::Sysctl { path, value } = wanted else { return None };
    let found = target.sysctls.read(path).ok()?;
    (!value::same(value, &found)).then(|| format!("{path} is {found:?} instead of {value:?}"))
}

/// Gives back the originals, the last one first; returns what could not be.
fn restore(target: &mut Target, originals: &[Setting]) -> Vec<String> {
    let mut failures = give_back(target, originals.iter().rev());
    // Again, because giving back one may have changed another.
    target.look_again();
    for failure in give_back(target, originals.iter()) {
        if !failures.contains(&failure) {
            failures.push(failure);
        }
    }
    failures
}

fn give_back<'a>(target: &mut Target, originals: impl Iterator<Item = &'a Setting>) -> Vec<String> {
    let mut failures = Vec::new();
    for original in originals {
        // A property that is gone is as good as given back.
        let changed = target.current(original).is_some_and(|current| current != *original);
        if changed && let Err(error) = target.set(original) {
            failures.push(format!("not restored: {error}"));
        }
    }
    failures
}

/// DEL, where the namespace is still there: restores what is kept and forgets it. Returns
/// warnings.
pub fn del(
    store: &Store<'_>,
    namespace: (u64, u64),
    own_namespace: bool,
    ifname: &str,
) -> Result<Vec<String>, CniError> {
    let mut warnings = Vec::new();
    let ours = store.load();
    let theirs = store.load_go();
    if matches!((&ours, &theirs), (Found::Nothing, Found::Nothing)) {
        return Ok(warnings);
    }
    let ours = ours.or_warn(&mut warnings);
    let theirs = theirs.or_warn(&mut warnings);
    let mut target = Target::open(ifname)?;
    let mut backup = usable(ours, namespace, &target, ifname);
    // The Go plugin does not say which namespace it means; a path that by now leads to the
    // host must not change the host.
    if !own_namespace {
        backup.merge(theirs.into_iter().flatten());
    }
    warnings.extend(restore(&mut target, &backup.originals));
    Ok(warnings)
}

/// Everything that is not as the configuration wants it.
pub fn check(config: &Config, ifname: &str) -> Result<Vec<String>, CniError> {
    let target = Target::open(ifname)?;
    let mut faults = Vec::new();
    for sysctl in &config.sysctls {
        let Some(meaning) = target.sysctls.find_any(&sysctl.key) else {
            faults.push(format!("sysctl {:?} does not exist", sysctl.key.text()));
            continue;
        };
        match target.sysctls.read(meaning.path()) {
            Ok(found) if value::same(&sysctl.value, &found) => {}
            Ok(found) => faults.push(format!(
                "{} is {found:?} instead of {:?}",
                meaning.path(),
                sysctl.value
            )),
            // net.ipv4.route.flush and its like can be written only.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(error) => faults.push(format!("{} cannot be read: {error}", meaning.path())),
        }
    }
    for wanted in LinkSetting::wanted(config) {
        let name = wanted.name();
        let Some(link) = &target.link else {
            faults.push(format!("there is no interface {ifname}, so its {name} is not {wanted}"));
            continue;
        };
        match wanted.on(link) {
            Some(found) if found == wanted => {}
            Some(found) => {
                faults.push(format!("{name} of {ifname} is {found} instead of {wanted}"));
            }
            None => faults.push(format!("{name} of {ifname} cannot be read")),
        }
    }
    Ok(faults)
}
