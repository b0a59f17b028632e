//! The iptables backend: upstream's chains, order and rules, plus an owner's tag on each rule that
//! belongs to one attachment.
//!
//! A call reads the `filter` table once, works out what has to change, and changes it with one
//! restore per IP version, under a lock that keeps our own processes apart. What ADD would change
//! is also what CHECK complains about.

mod changes;
mod isolation;
mod removal;

use std::cell::{Cell, OnceCell};

use cni_common::cni::failure::{not_available, not_available_beside};
use cni_common::cni::holder::on_all;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Attachment, Backend, Failure as _, Finding, Holder, OwnerTag, Stale, Step};
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::{IptablesError, TableDump, Variant, script};

use crate::filter::{FORWARD, Filter, FilterRule, MEMBERS, TABLE};
use crate::held::Held;
use crate::host::{Before, Host};
use crate::plan::{Isolation, Plan};
use changes::changes;
use removal::Removal;

/// The admitted addresses with their owners, and the owners that are kept apart.
pub(crate) fn installed(filter: &Filter) -> Held {
    let admission = |rule: &FilterRule| {
        let source = rule.option("-s").filter(|_| rule.leads_to("ACCEPT"))?;
        let address = source.split('/').next()?.parse().ok()?;
        Some((address, rule.comment()?.to_owned()))
    };
    let membership = |rule: &FilterRule| {
        let (bridge, policy) = isolation::membership(rule)?;
        Some((rule.comment()?.to_owned(), (bridge, policy.as_str().to_owned())))
    };
    Held {
        admitted: filter.rules_of(FORWARD).filter_map(admission).collect(),
        members: filter.rules_of(MEMBERS).filter_map(membership).collect(),
    }
}

/// Chains in iptables' table `filter`.
pub(crate) struct Iptables;

impl<'a> Holder<Host<'a>, Plan> for Iptables {
    fn name(&self) -> &'static str {
        "iptables' table filter"
    }

    fn check(&self, host: &mut Host<'a>, plan: &Plan) -> Result<Finding, CniError> {
        if host.filters().map_err(|error| error.into_cni(READING))?.is_empty() {
            return Ok(Finding::Absent);
        }
        let (mut is_there, mut mismatches) = (false, Vec::new());
        for (version, variant) in entered(host, plan).map_err(|error| error.into_cni(READING))? {
            let dump = host.filter.read_ours(version, variant);
            let filter = Filter::of_plugins(dump.map_err(|error| error.into_cni(READING))?);
            let filter = filter.named_by(&plan.tag);
            is_there |= filter.rules.iter().any(|rule| rule.is_of(&plan.tag));
            let lines = changes(&filter, version, Some(plan), &Removal::Nothing);
            let name = match (variant, version) {
                (Variant::Default, IpVersion::V4) => "iptables".to_owned(),
                (Variant::Default, IpVersion::V6) => "ip6tables".to_owned(),
                _ => format!("{variant} ({version})"),
            };
            let wanted = lines.iter().filter(|line| !line.starts_with(':'));
            mismatches.extend(wanted.map(|line| format!("{name} needs: {line}")));
        }
        Ok(if is_there { Finding::of(mismatches) } else { Finding::Absent })
    }

    fn remove(
        &self,
        host: &mut Host<'a>,
        attachment: &Attachment,
        _known: Option<&Plan>,
    ) -> Result<(), CniError> {
        remove(host, &Removal::Attachment(&attachment.tag()))
    }

    fn collect_garbage(&self, host: &mut Host<'a>, stale: &Stale) -> Result<(), CniError> {
        remove(host, &Removal::Stale(stale))
    }
}

impl<'a> Backend<Host<'a>, Plan> for Iptables {
    /// The Go plugin's rules of the same addresses are replaced in the same restore.
    fn add(&self, host: &mut Host<'a>, plan: &Plan) -> Result<(), CniError> {
        const DOING: &str = "cannot install the firewall rules";
        refuse_native_chains(plan)?;
        let entered = entered(host, plan).map_err(|error| error.into_cni(DOING))?;
        let mut looked = Vec::new();
        let outcome = enter(host, &entered, plan, &mut looked)
            .and_then(|()| leave_others(host, &entered, &Removal::Attachment(&plan.tag)));
        if let Err(error) = outcome {
            put_back(host, &looked, &plan.tag);
            return Err(error.into_cni(DOING));
        }
        let earlier = together(looked, plan);
        host.removed.isolated |= earlier.as_ref().is_some_and(Plan::isolates_ports);
        host.before = Before::of(earlier);
        Ok(())
    }

    /// Can the table be read? A host without IPv6 may lack the other tool.
    fn status(&self, host: &mut Host<'a>, _sample: &Plan) -> Result<(), CniError> {
        match host.filter.read_ours(IpVersion::V4, Variant::Default) {
            Ok(_) => Ok(()),
            Err(IptablesError::Newer(newer)) => Err(not_available_beside(newer)),
            Err(error) => Err(not_available(error.into_cni("firewall cannot use iptables"))),
        }
    }
}

/// What ADD has `iptables-restore` read on a host that has nothing of iptables.
pub(crate) fn explain(plan: &Plan) -> Result<Vec<Step>, CniError> {
    refuse_native_chains(plan)?;
    let empty = Filter::of_plugins(&TableDump::default());
    let step = |version| {
        let lines = changes(&empty, version, Some(plan), &Removal::Nothing);
        Step::Restore(version, script(&[(TABLE, lines)]))
    };
    Ok(plan.versions().map(step).collect())
}

fn refuse_native_chains(plan: &Plan) -> Result<(), CniError> {
    if plan.forward_chains.is_empty() {
        return Ok(());
    }
    Err(CniError::config(
        "nftablesForwardChains is for backend nftables, and this host's is iptables: set \
         \"backend\":\"nftables\", or remove the list",
    ))
}

/// The tables that a plan's rules go into: an accept counts where the drop is, and where several
/// FORWARD chains drop, in each of them. Where none does, the host's own iptables is as good as any.
fn entered(host: &mut Host<'_>, plan: &Plan) -> Result<Vec<(IpVersion, Variant)>, IptablesError> {
    let forwards = host.forwards()?;
    let mut entered = Vec::new();
    for version in plan.versions() {
        let dropping =
            forwards.iter().filter(|forward| forward.drops && forward.version == version);
        let before = entered.len();
        entered.extend(dropping.map(|forward| (version, forward.variant)));
        if entered.len() == before {
            entered.push((version, Variant::Default));
        }
    }
    Ok(entered)
}

/// A table, and what the attachment had there before its ADD.
type Looked = ((IpVersion, Variant), Option<Plan>);

/// Makes the rules in each table, and hands out what the attachment had in those that it came to.
fn enter(
    host: &mut Host<'_>,
    entered: &[(IpVersion, Variant)],
    plan: &Plan,
    looked: &mut Vec<Looked>,
) -> Result<(), IptablesError> {
    entered.iter().try_for_each(|(version, variant)| {
        // The first look counts: what is seen after a refusal may be our own.
        let first = OnceCell::new();
        let outcome = host.filter.change(*version, *variant, |dump| {
            let filter = Filter::of_plugins(dump);
            first.get_or_init(|| had(&filter, plan));
            changes(&filter, *version, Some(plan), &Removal::Nothing)
        });
        looked.extend(first.into_inner().map(|earlier| ((*version, *variant), earlier)));
        outcome
    })
}

/// The plan of what the attachment has in a table.
fn had(filter: &Filter, plan: &Plan) -> Option<Plan> {
    let held = installed(filter);
    let own = |owner: &str| plan.tag.is_same_attachment(owner);
    let addresses = held.admitted.into_iter().filter(|(_, owner)| own(owner));
    let isolation = isolation::of_owner(filter, &plan.tag);
    plan.earlier(addresses.map(|(address, _)| address).collect(), isolation)
}

/// The plan of what the attachment had in several tables.
fn together(looked: Vec<Looked>, plan: &Plan) -> Option<Plan> {
    let (mut addresses, mut isolation) = (Vec::new(), None::<Isolation>);
    for earlier in looked.into_iter().filter_map(|(_, earlier)| earlier) {
        addresses.extend(earlier.addresses);
        match (&mut isolation, earlier.isolation) {
            (Some(first), Some(other)) => first.gateways.extend(other.gateways),
            (first, other) => *first = first.take().or(other),
        }
    }
    plan.earlier(addresses, isolation)
}

/// After an ADD that failed: each table has of the attachment what it had. Best effort: it would fail for
/// the same reason, which that error tells.
fn put_back(host: &mut Host<'_>, looked: &[Looked], tag: &OwnerTag) {
    for ((version, variant), earlier) in looked {
        let _ = host.filter.change(*version, *variant, |dump| {
            let filter = Filter::of_plugins(dump);
            changes(&filter, *version, earlier.as_ref(), &Removal::Attachment(tag))
        });
    }
}

/// Takes the attachment out of the tables that it is not in by now, so that it is in none twice.
fn leave_others(
    host: &mut Host<'_>,
    entered: &[(IpVersion, Variant)],
    removal: &Removal<'_>,
) -> Result<(), IptablesError> {
    for (version, variant) in host.filters()? {
        // The host's own is one of the two.
        let is_entered =
            entered.contains(&(version, variant)) || entered.contains(&(version, Variant::Default));
        if is_entered {
            continue;
        }
        match take_out(host, version, variant, removal) {
            Ok(()) | Err(IptablesError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

const READING: &str = "cannot read the firewall rules";

/// Removes what goes, wherever it can be. Where the programs are gone, what they made stays: that
/// is a warning.
fn remove(host: &mut Host<'_>, removal: &Removal<'_>) -> Result<(), CniError> {
    const DOING: &str = "cannot remove the firewall rules";
    let filters = host.settled_filters(DOING)?;
    on_all(filters, |(version, variant)| match take_out(host, version, variant, removal) {
        Err(error @ IptablesError::Missing(_)) => {
            host.log.warn(format!(
                "rules of {variant} ({version}) may be left in table {TABLE}: {error}; delete them from \
                 chains {FORWARD} and CNI-ISOLATION-* by hand if they are"
            ));
            Ok(())
        }
        outcome => outcome.map_err(|error| error.into_cni(DOING)),
    })
}

fn take_out(
    host: &mut Host<'_>,
    version: IpVersion,
    variant: Variant,
    removal: &Removal<'_>,
) -> Result<(), IptablesError> {
    let (was_isolated, was_there) = (Cell::new(false), Cell::new(false));
    let outcome = host.filter.change(version, variant, |dump| {
        let filter = Filter::of_plugins(dump);
        if let Removal::Attachment(tag) = removal {
            was_isolated.set(was_isolated.get() || isolation::isolates(&filter, tag));
        }
        let lines = changes(&filter, version, None, removal);
        was_there.set(was_there.get() || !lines.is_empty());
        lines
    });
    host.removed.isolated |= was_isolated.get();
    host.removed.from_iptables |= was_there.get();
    outcome
}
