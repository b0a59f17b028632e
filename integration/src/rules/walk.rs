//! The way of a packet through the chains of one hook.

use std::collections::HashMap;
use std::rc::Rc;

use cni_common::kernel::nft::{
    BaseChain, Hook, InstalledChain, InstalledRule, NetlinkNft, Nft as _, NftError, Priority, Table,
};

use super::packet::Packet;
use super::rule::{self, Outcome, Unreadable, Verdict};

/// Jumps nest no deeper (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// All rules that this namespace's IP packets may meet, read when they are asked for.
pub(crate) struct Rules {
    nft: NetlinkNft,
    chains: Vec<(Table, InstalledChain)>,
    by_table: HashMap<Table, Chains>,
}

/// A table's rules by chain, shared with whoever walks through them.
type Chains = HashMap<String, Rc<[InstalledRule]>>;

/// What becomes of a packet in a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on behind the chain.
    Passes,
    Dropped,
    /// It gets another destination.
    Translated,
}

/// A base chain and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) table: Table,
    /// The base chain.
    pub(crate) chain: String,
    pub(crate) priority: i32,
    pub(crate) fate: Fate,
    /// The rule that decides, as chain and handle; none for the policy.
    pub(crate) rule: Option<(String, u64)>,
    /// A rule before it that may decide otherwise: a condition of it is not understood.
    pub(crate) possibly: Option<(Fate, String, u64)>,
}

/// What a chain, base or not, decides.
#[derive(Default)]
struct Way {
    decided: Option<(Verdict, String, u64)>,
    possible: Option<(Verdict, String, u64)>,
}

impl Rules {
    pub(crate) fn read() -> Result<Self, NftError> {
        let mut nft = NetlinkNft::open()?;
        let chains = nft.all_chains()?;
        Ok(Self { nft, chains, by_table: HashMap::new() })
    }

    /// What each base chain of a hook does with the packet, in the order in which it meets them.
    pub(crate) fn at(
        &mut self,
        hook: Hook,
        packet: &Packet,
        is_asked: &dyn Fn(&Table, BaseChain) -> bool,
    ) -> Result<Vec<Decision>, NftError> {
        let mut bases: Vec<(Priority, Table, InstalledChain)> = Vec::new();
        for (table, chain) in &self.chains {
            if let Some(base) = chain.chain.base
                && base.hook == hook
                && table.family.sees(packet.version())
                && is_asked(table, base)
            {
                bases.push((base.priority, table.clone(), chain.clone()));
            }
        }
        bases.sort_by_key(|(priority, ..)| *priority);
        bases.into_iter().map(|(_, table, chain)| self.decision(table, &chain, packet)).collect()
    }

    fn decision(
        &mut self,
        table: Table,
        base: &InstalledChain,
        packet: &Packet,
    ) -> Result<Decision, NftError> {
        let name = base.chain.name.clone();
        let way = self.walk(&table, &name, packet, DEEPEST)?;
        let policy = if base.drops { Fate::Dropped } else { Fate::Passes };
        let (fate, rule) = match way.decided {
            Some((verdict, chain, handle)) => (fate_of(&verdict), Some((chain, handle))),
            None => (policy, None),
        };
        let possibly =
            way.possible.map(|(verdict, chain, handle)| (fate_of(&verdict), chain, handle));
        Ok(Decision {
            table,
            chain: name,
            priority: base.chain.base.map_or(0, |base| base.priority.0),
            fate,
            rule,
            possibly: possibly.filter(|(possible, ..)| *possible != fate),
        })
    }

    fn walk(
        &mut self,
        table: &Table,
        chain: &str,
        packet: &Packet,
        depth: usize,
    ) -> Result<Way, NftError> {
        let mut way = Way::default();
        if depth == 0 {
            return Ok(way);
        }
        for rule in self.rules_of(table, chain)?.iter() {
            let Outcome { verdict, is_possible_only } = self.outcome(table, rule, packet);
            let beyond = match &verdict {
                Verdict::Next => continue,
                Verdict::Return if is_possible_only => continue,
                Verdict::Return => break,
                Verdict::Jump(to) | Verdict::Goto(to) => self.walk(table, to, packet, depth - 1)?,
                _ => Way {
                    decided: Some((verdict.clone(), chain.to_owned(), rule.handle)),
                    possible: None,
                },
            };
            way.possible = way.possible.or(beyond.possible);
            match (beyond.decided, is_possible_only) {
                (Some(decided), true) => way.possible = way.possible.or(Some(decided)),
                (Some(decided), false) => {
                    way.decided = Some(decided);
                    break;
                }
                (None, false) if matches!(verdict, Verdict::Goto(_)) => break,
                (None, _) => {}
            }
        }
        Ok(way)
    }

    fn rules_of(&mut self, table: &Table, chain: &str) -> Result<Rc<[InstalledRule]>, NftError> {
        if !self.by_table.contains_key(table) {
            let rules = self.nft.rules(table)?;
            self.by_table.insert(table.clone(), by_chain(rules));
        }
        let rules = self.by_table.get(table).and_then(|chains| chains.get(chain));
        Ok(rules.cloned().unwrap_or_default())
    }

    fn outcome(&mut self, table: &Table, rule: &InstalledRule, packet: &Packet) -> Outcome {
        let nft = &mut self.nft;
        rule::run(&rule.expressions, packet, &mut |set, key| {
            nft.find(table, set, key).map_err(|_| Unreadable)
        })
    }
}

/// The kernel lists them chain by chain, in order.
fn by_chain(rules: Vec<InstalledRule>) -> Chains {
    let mut chains: HashMap<String, Vec<InstalledRule>> = HashMap::new();
    for rule in rules {
        chains.entry(rule.chain.clone()).or_default().push(rule);
    }
    chains.into_iter().map(|(chain, rules)| (chain, rules.into())).collect()
}

fn fate_of(verdict: &Verdict) -> Fate {
    match verdict {
        Verdict::Drop => Fate::Dropped,
        Verdict::Translate => Fate::Translated,
        _ => Fate::Passes,
    }
}
