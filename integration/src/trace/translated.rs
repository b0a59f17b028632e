//! Who gives the connection another destination before our mapping does.

use cni_common::kernel::nft::{BaseChain, ChainKind, Hook, NftError, Table};

use super::step::{Finding, Step};
use super::way::{Origin, Way};
use crate::rules::{Decision, Fate, Packet, Rules, is_of_a_portmap, program};

const SUBJECT: &str = "translation";

/// portmap's own table.
const OURS: &str = "cni_portmap";

/// The first rule that translates it is to be our mapping's.
pub(super) fn first(way: &Way<'_>, rules: &mut Rules) -> Step {
    match of_nft(way, rules) {
        Ok(Some(step)) => step,
        Ok(None) => Step::ok(SUBJECT, "no other program's rule translates it first"),
        Err(error) => Step::unknown(SUBJECT, &error),
    }
}

fn of_nft(way: &Way<'_>, rules: &mut Rules) -> Result<Option<Step>, NftError> {
    let Some(came) = way.as_it_came() else { return Ok(None) };
    let input = if way.origin == Origin::Host { None } else { way.arrival.clone() };
    let packet = Packet { input, ..came };
    let hook = if way.origin == Origin::Host { Hook::Output } else { Hook::Prerouting };
    let is_nat = |_: &Table, base: BaseChain| base.kind == ChainKind::Nat;
    let decisions = rules.at(hook, &packet, &is_nat)?;
    // What comes behind our mapping does not see it any more; our guard lets it pass.
    let is_ours = |decision: &&Decision| decision.table.name == OURS && may_translate(decision);
    let mut before = decisions.iter().take_while(|decision| !is_ours(decision));
    Ok(before.find_map(|decision| step(decision, way)))
}

fn may_translate(decision: &Decision) -> bool {
    let possible = decision.possibly.as_ref().map(|(fate, ..)| fate);
    [Some(&decision.fate), possible].contains(&Some(&Fate::Translated))
}

fn step(decision: &Decision, way: &Way<'_>) -> Option<Step> {
    let certain = decision.rule.as_ref().filter(|_| decision.fate == Fate::Translated);
    let possible = decision.possibly.as_ref().filter(|(fate, ..)| *fate == Fate::Translated);
    let (finding, chain, handle) = match (certain, possible) {
        (Some((chain, handle)), _) => (Finding::Stop, chain, handle),
        (None, Some((_, chain, handle))) => (Finding::Doubt, chain, handle),
        (None, None) => return None,
    };
    if is_of_a_portmap(chain) {
        return None;
    }
    let whose = program(chain).map(|program| format!(" of {program}")).unwrap_or_default();
    let verb = if finding == Finding::Stop { "gives" } else { "may give" };
    let table = &decision.table;
    Some(Step::new(
        SUBJECT,
        finding,
        format!(
            "a rule{whose} {verb} the connection another destination first: table {table}, chain {chain}, \
             handle {handle}"
        ),
        format!(
            "nft -a list chain {table} {chain} shows it; give the container or that program another port \
             than {}",
            way.mapping.host_port
        ),
    ))
}
