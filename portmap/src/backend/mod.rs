//! The places that can carry out a plan, and the choice between them.

pub(crate) mod conflict;
pub(crate) mod iptables;
pub(crate) mod nftables;

use cni_common::cni::failure::unreachable_nft;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Backend, Failure as _, Holder};
use cni_common::kernel::nft::NftError;

use crate::config::{BackendName, Config, OnConflict};
use crate::host::Host;
use crate::plan::{Held, Plan};
use iptables::Iptables;
use nftables::Nftables;
use nftables::guard::Guard;

pub(crate) use nftables::whole_table;

/// A place where our mappings may be.
pub(crate) trait Place<'a>: Holder<Host<'a>, Plan> {
    /// Every mapping that is in force there, whose ever it is.
    fn mappings(&self, host: &mut Host<'a>) -> Result<Vec<Held>, CniError>;

    /// Whether something of the entry may be there, as far as a look tells that is cheap.
    fn may_hold(&self, host: &mut Host<'a>, plan: &Plan) -> Result<bool, CniError>;

    /// Removes what an earlier ADD of the same entry of the attachment's list made there.
    fn remove_entry(&self, host: &mut Host<'a>, plan: &Plan) -> Result<(), CniError>;
}

/// Where ADD makes the mappings, and why there.
pub(crate) struct Choice<'a> {
    pub(crate) backend: &'a dyn Backend<Host<'a>, Plan>,
    /// Where else an earlier ADD may have made some.
    others: Vec<&'a dyn Place<'a>>,
    name: BackendName,
    reason: String,
}

impl<'a> Choice<'a> {
    /// Makes the mappings. If the configuration asks for that, a port that another attachment holds
    /// anywhere is an error; the backend itself looks at what it has.
    pub(crate) fn add(&self, host: &mut Host<'a>, plan: &Plan) -> Result<(), CniError> {
        if plan.on_conflict == OnConflict::Fail {
            for other in &self.others {
                conflict::refuse(plan, other.mappings(host)?)?;
            }
        }
        self.backend.add(host, plan)
    }

    /// Where else there may be something of the entry. Asked before anything is changed, so that a failure
    /// to look is none of an ADD that is in force.
    pub(crate) fn others_with(
        &self,
        host: &mut Host<'a>,
        plan: &Plan,
    ) -> Result<Vec<&'a dyn Place<'a>>, CniError> {
        let mut found = Vec::new();
        for other in &self.others {
            if other.may_hold(host, plan)? {
                found.push(*other);
            }
        }
        Ok(found)
    }

    /// Removes what [`Choice::add`] made in the place of nothing.
    pub(crate) fn take_back(&self, host: &mut Host<'a>, plan: &Plan) -> Result<(), CniError> {
        match self.name {
            BackendName::Nftables => Nftables.remove_entry(host, plan),
            BackendName::Iptables => Iptables::EVERYWHERE.remove_entry(host, plan),
        }
    }
}

/// As in `backend nftables: the kernel has nf_tables`.
impl std::fmt::Display for Choice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "backend {}: {}", self.name.as_str(), self.reason)
    }
}

/// All backends.
pub(crate) fn all<'a>() -> [&'a dyn Place<'a>; 2] {
    [&Nftables, &Iptables::EVERYWHERE]
}

/// nftables where the kernel has `nf_tables`, iptables where it has not; what the configuration names,
/// or needs, before either. That the kernel cannot be asked now is no reason to go elsewhere.
pub(crate) fn choose<'a>(config: &Config, host: &mut Host<'a>) -> Result<Choice<'a>, CniError> {
    let (name, reason) = decide(config.backend, || host.ask_nft()).map_err(unreachable_nft)?;
    let choice = match name {
        BackendName::Nftables => {
            Choice { backend: &Nftables, others: vec![&Iptables::EVERYWHERE], name, reason }
        }
        BackendName::Iptables => Choice {
            backend: &Iptables::EVERYWHERE,
            others: vec![&Nftables, &Iptables::WHERE_ADD_DOES_NOT],
            name,
            reason,
        },
    };
    host.log.debug(|| choice.to_string());
    Ok(choice)
}

/// How closely one looks at what netlink does not show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Quick,
    Exact,
}

/// Before DEL: looks at the guard, which is needed in the end, and which tells whose layout our table has. A
/// newer version's is refused, and an older one's taken over; any other error is the removal's to tell.
pub(crate) fn know_layout(host: &mut Host<'_>) -> Result<(), CniError> {
    const DOING: &str = "cannot remove the port mappings";
    let log = host.log;
    let Ok(Some(nft)) = host.nft_if_any() else { return Ok(()) };
    match nftables::guard::find(nft) {
        Ok(Guard::Stands) => host.nft_guarded = Some(true),
        Ok(Guard::Absent) => host.nft_guarded = Some(false),
        Ok(Guard::Differs) => {
            let outcome = nftables::take_over(nft, log);
            let is_taken = outcome.map_err(|error| error.into_cni(DOING))?;
            host.nft_guarded = (!is_taken).then_some(false);
        }
        Err(NftError::Newer(newer)) => return Err(newer.into_cni(DOING)),
        Err(_) => {}
    }
    Ok(())
}

/// Whether something keeps others out of 127.0.0.0/8 where `is_open` says that `route_localnet` lets
/// them in. What cannot be asked is taken to be there: ADD and CHECK have their own errors for that.
pub(crate) fn is_guarded(host: &mut Host<'_>, look: Look, is_open: impl FnOnce() -> bool) -> bool {
    let seen = host.guarded;
    if seen == Some(true) {
        return true;
    }
    let known = host.nft_guarded.filter(|_| look == Look::Quick);
    let Ok(mut nft) = host.nft_if_any() else { return true };
    let in_nftables = match &mut nft {
        None => false,
        Some(nft) => known.unwrap_or_else(|| nftables::guard::stands(*nft, look).unwrap_or(true)),
    };
    in_nftables || !is_open() || iptables::guard::stands(nft, look, seen).unwrap_or(true)
}

/// Puts the guard where this host's mappings would be.
pub(crate) fn build_guard(config: &Config, host: &mut Host<'_>) -> Result<(), CniError> {
    const DOING: &str = "cannot keep others out of 127.0.0.0/8";
    match choose(config, host)?.name {
        BackendName::Nftables => nftables::guard::build(host.nft()?).map_err(|e| e.into_cni(DOING)),
        BackendName::Iptables => iptables::guard::build().map_err(|e| e.into_cni(DOING)),
    }
}

fn decide(
    named: Option<BackendName>,
    ask_nft: impl FnOnce() -> Result<(), NftError>,
) -> Result<(BackendName, String), NftError> {
    if let Some(name) = named {
        let reason = "the configuration names it, or has options that only it can honour";
        return Ok((name, reason.to_owned()));
    }
    match ask_nft() {
        Ok(()) => Ok((BackendName::Nftables, "the kernel has nf_tables".to_owned())),
        Err(error) if error.is_unsupported() => {
            Ok((BackendName::Iptables, format!("nf_tables does not work here: {error}")))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_common::cni::protocol::NetworkConfig;

    #[test]
    fn the_configuration_first_then_the_kernel() {
        let chosen = |keys: &str, works: bool| {
            let text = format!(r#"{{"name":"n","cniVersion":"1.0.0"{keys}}}"#);
            let network = NetworkConfig::from_stdin(text.as_bytes()).expect("envelope");
            let config = Config::read(&network).expect("valid");
            let none = || std::io::Error::from_raw_os_error(93);
            let ask = || if works { Ok(()) } else { Err(NftError::Socket(none())) };
            decide(config.backend, ask).expect("an answer").0
        };
        assert_eq!(chosen("", true), BackendName::Nftables);
        assert_eq!(chosen("", false), BackendName::Iptables);
        assert_eq!(chosen(r#","backend":"nftables""#, false), BackendName::Nftables);
        assert_eq!(chosen(r#","externalSetMarkChain":"X""#, true), BackendName::Iptables);
    }
}
