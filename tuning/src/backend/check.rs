//! CHECK: what is not as the plan wants it.

use std::io;

use cni_common::cni::protocol::CniError;

use crate::config::WantedSysctl;
use crate::host::{Host, is_absence};
use crate::plan::Plan;
use crate::setting::LinkSetting;
use crate::sysctls::kernel_failure;
use crate::value;

/// All mismatches, in words.
pub(crate) fn check(host: &Host<'_>, plan: &Plan<'_>) -> Result<Vec<String>, CniError> {
    let mut mismatches = Vec::new();
    for wanted in plan.sysctls {
        mismatches.extend(sysctl_mismatch(host, wanted)?);
    }
    mismatches.extend(plan.link.iter().filter_map(|wanted| link_mismatch(host, *wanted)));
    Ok(mismatches)
}

fn sysctl_mismatch(host: &Host<'_>, wanted: &WantedSysctl) -> Result<Option<String>, CniError> {
    let key = wanted.key.text();
    let failed = |error: io::Error| {
        kernel_failure(
            &error,
            &format!("cannot look at sysctl {key:?}"),
            "is /proc/sys/net readable?",
        )
    };
    let Some(meaning) = host.sysctls.find_any(&wanted.key).map_err(failed)? else {
        return Ok(Some(format!("sysctl {key:?} does not exist")));
    };
    let path = meaning.path();
    match host.sysctls.read(path) {
        Ok(Some(found)) => {
            let same = value::same(&wanted.value, &found);
            Ok((!same).then(|| format!("{path} is {found:?} instead of {:?}", wanted.value)))
        }
        // What can only be written cannot be compared.
        Ok(None) => Ok(None),
        Err(error) if is_absence(path, &error) => {
            Ok(Some(format!("{path} has no value instead of {:?}", wanted.value)))
        }
        Err(error) => Err(failed(error)),
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
