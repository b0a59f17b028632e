//! CHECK: what is not as the plan wants it.

use std::io;

use crate::config::WantedSysctl;
use crate::host::Host;
use crate::plan::Plan;
use crate::setting::LinkSetting;
use crate::value;

/// All mismatches, in words.
pub(crate) fn check(host: &Host<'_>, plan: &Plan<'_>) -> Vec<String> {
    let sysctls = plan.sysctls.iter().filter_map(|wanted| sysctl_mismatch(host, wanted));
    let link = plan.link.iter().filter_map(|wanted| link_mismatch(host, *wanted));
    sysctls.chain(link).collect()
}

fn sysctl_mismatch(host: &Host<'_>, wanted: &WantedSysctl) -> Option<String> {
    let Some(meaning) = host.sysctls.find_any(&wanted.key) else {
        return Some(format!("sysctl {:?} does not exist", wanted.key.text()));
    };
    let path = meaning.path();
    match host.sysctls.read(path) {
        Ok(found) => {
            let same = value::same(&wanted.value, &found);
            (!same).then(|| format!("{path} is {found:?} instead of {:?}", wanted.value))
        }
        // net.ipv4.route.flush and its like can be written only.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => Some(format!("{path} cannot be read: {error}")),
    }
}

fn link_mismatch(host: &Host<'_>, wanted: LinkSetting) -> Option<String> {
    let (name, ifname) = (wanted.name(), host.ifname);
    let Some(link) = &host.link else {
        return Some(format!("there is no interface {ifname}, so its {name} is not {wanted}"));
    };
    match wanted.on(link) {
        Some(found) if found == wanted => None,
        Some(found) => Some(format!("{name} of {ifname} is {found} instead of {wanted}")),
        None => Some(format!("{name} of {ifname} cannot be read")),
    }
}
