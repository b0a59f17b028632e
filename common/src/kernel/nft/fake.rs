//! `nf_tables` in memory, with the kernel's semantics as far as plugins can tell.

use std::collections::{BTreeMap, VecDeque};

use super::Nft;
use super::error::{FakeErrno, NftError, Refusal, refusal};
use super::expressions::rule_expressions;
use super::object::{Chain, Element, InstalledChain, InstalledRule, Rule, Set, Table, Value};
use super::statement::Statement;
use super::transaction::{Generation, Object, Operation, Transaction, Verb};

/// A ruleset that lives in this process.
#[derive(Clone, Debug, Default)]
pub struct FakeNft {
    tables: BTreeMap<Table, FakeTable>,
    generation: u32,
    next_handle: u64,
    /// Errors for the next commits, first one first; `None` lets a commit through.
    failures: Vec<Option<Refusal>>,
    /// Transactions that were committed.
    log: Vec<Transaction>,
    /// What others commit, one after each time that a generation is read.
    rivals: VecDeque<Transaction>,
    /// How many times all elements of a set were listed.
    listings: usize,
    /// How many times elements were asked for by their keys.
    queries: usize,
    /// How many commits were refused for what they hold.
    refused: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct FakeTable {
    chains: Vec<(Chain, Vec<(u64, Rule)>)>,
    sets: Vec<(Set, Vec<Element>)>,
}

impl FakeNft {
    /// An empty ruleset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the commit after `skip` others fail with this errno.
    pub fn fail_commit(&mut self, skip: usize, errno: i32) {
        self.failures = vec![None; skip];
        let object = "injected".to_owned();
        self.failures.push(Some(Refusal { operation: None, object, errno, message: None }));
    }

    /// What another program's commit does to the generation.
    pub fn disturb(&mut self) {
        self.generation += 1;
    }

    /// Lets another program commit this right after the next time that a generation is read; an
    /// empty transaction only moves the generation. Several take one turn each.
    pub fn interpose(&mut self, transaction: Transaction) {
        self.rivals.push_back(transaction);
    }

    /// How many times all elements of a set were listed, which costs in proportion to its size.
    #[must_use]
    pub fn listings(&self) -> usize {
        self.listings
    }

    /// How many times elements were asked for by their keys: each is a round trip.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// How many commits were refused for what they hold. The kernel takes a grace period for each.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.refused
    }

    /// Transactions committed so far.
    #[must_use]
    pub fn committed(&self) -> &[Transaction] {
        &self.log
    }

    /// The whole ruleset in a comparable form.
    #[must_use]
    pub fn dump(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for (table, content) in &self.tables {
            let _ = writeln!(text, "table {table}");
            for (set, elements) in &content.sets {
                let _ = writeln!(text, "  {} {}", set.keyword(), set.name);
                let mut lines: Vec<_> =
                    elements.iter().map(|e| super::text::render_element(e, true)).collect();
                lines.sort();
                for line in lines {
                    let _ = writeln!(text, "    {line}");
                }
            }
            for (chain, rules) in &content.chains {
                let _ = writeln!(
                    text,
                    "  chain {} {}",
                    chain.name,
                    super::text::render_chain(table.family, chain)
                );
                for (_, rule) in rules {
                    let _ = writeln!(text, "    {}", super::text::render_rule(rule));
                }
            }
        }
        text
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        let stale = transaction.generation.is_some_and(|g| g.0 != self.generation);
        if stale {
            return Err(NftError::Refused(vec![refusal(
                0,
                "the transaction".into(),
                FakeErrno::Stale,
            )]));
        }
        let mut refusals = Vec::new();
        for (index, operation) in transaction.operations.iter().enumerate() {
            if let Err(errno) = self.apply_operation(operation) {
                refusals.push(refusal(index, operation.to_string(), errno));
            }
        }
        if refusals.is_empty() { Ok(()) } else { Err(NftError::Refused(refusals)) }
    }

    fn apply_operation(&mut self, operation: &Operation) -> Result<(), FakeErrno> {
        let Operation { verb, table, object } = operation;
        if let Object::Table(_) | Object::OwnedTable = object {
            return self.apply_table(*verb, table);
        }
        let handle = self.next_handle;
        self.next_handle += 1;
        let Some(content) = self.tables.get_mut(table) else {
            return Err(FakeErrno::NotFound);
        };
        match object {
            Object::Table(_) | Object::OwnedTable => Ok(()),
            Object::Chain(chain) => content.chain(*verb, chain),
            Object::Rule(rule) => {
                content.rules_of(&rule.chain).map(|rules| rules.push((handle, rule.clone())))
            }
            Object::FirstRule(rule) => {
                content.rules_of(&rule.chain).map(|rules| rules.insert(0, (handle, rule.clone())))
            }
            Object::RuleHandle(chain, handle) => content.delete_rule(chain, *handle),
            Object::Set(set) => content.set(*verb, set),
            Object::Elements(set, elements) => content.elements(*verb, set, elements),
        }
    }

    fn apply_table(&mut self, verb: Verb, table: &Table) -> Result<(), FakeErrno> {
        let exists = self.tables.contains_key(table);
        match verb {
            Verb::Create if exists => return Err(FakeErrno::Exists),
            Verb::Delete if !exists => return Err(FakeErrno::NotFound),
            Verb::Add | Verb::Create => {
                self.tables.entry(table.clone()).or_default();
            }
            Verb::Delete => {
                self.tables.remove(table);
            }
            Verb::Flush => {}
        }
        Ok(())
    }

    fn set_of(&self, table: &Table, set: &Set) -> Option<&Vec<Element>> {
        let content = self.tables.get(table)?;
        content.sets.iter().find(|(known, _)| known.name == set.name).map(|(_, elements)| elements)
    }
}

impl FakeTable {
    fn rules_of(&mut self, name: &str) -> Result<&mut Vec<(u64, Rule)>, FakeErrno> {
        let chain = self.chains.iter_mut().find(|(chain, _)| chain.name == name);
        chain.map(|(_, rules)| rules).ok_or(FakeErrno::NotFound)
    }

    fn delete_rule(&mut self, chain: &str, handle: u64) -> Result<(), FakeErrno> {
        let rules = self.rules_of(chain)?;
        let position = rules.iter().position(|(h, _)| *h == handle).ok_or(FakeErrno::NotFound)?;
        rules.remove(position);
        Ok(())
    }

    fn chain(&mut self, verb: Verb, chain: &Chain) -> Result<(), FakeErrno> {
        let position = self.chains.iter().position(|(known, _)| known.name == chain.name);
        match (verb, position) {
            (Verb::Create, Some(_)) => Err(FakeErrno::Exists),
            (Verb::Add, Some(found)) if self.chains[found].0 != *chain => Err(FakeErrno::Exists),
            (Verb::Add, Some(_)) => Ok(()),
            (Verb::Add | Verb::Create, None) => {
                self.chains.push((chain.clone(), Vec::new()));
                Ok(())
            }
            (_, None) => Err(FakeErrno::NotFound),
            (Verb::Flush, Some(found)) => {
                self.chains[found].1.clear();
                Ok(())
            }
            (Verb::Delete, Some(found)) => {
                self.chains.remove(found);
                Ok(())
            }
        }
    }

    fn set(&mut self, verb: Verb, set: &Set) -> Result<(), FakeErrno> {
        let position = self.sets.iter().position(|(known, _)| known.name == set.name);
        match (verb, position) {
            (Verb::Create, Some(_)) => Err(FakeErrno::Exists),
            (Verb::Add, Some(found)) if self.sets[found].0 != *set => Err(FakeErrno::Exists),
            (Verb::Add, Some(_)) => Ok(()),
            (Verb::Add | Verb::Create, None) => {
                self.sets.push((set.clone(), Vec::new()));
                Ok(())
            }
            (_, None) => Err(FakeErrno::NotFound),
            (Verb::Flush, Some(found)) => {
                self.sets[found].1.clear();
                Ok(())
            }
            (Verb::Delete, Some(found)) => {
                self.sets.remove(found);
                Ok(())
            }
        }
    }

    fn elements(&mut self, verb: Verb, set: &Set, elements: &[Element]) -> Result<(), FakeErrno> {
        let known = self.sets.iter_mut().find(|(known, _)| known.name == set.name);
        let (_, held) = known.ok_or(FakeErrno::NotFound)?;
        for element in elements {
            let position = held.iter().position(|candidate| candidate.key == element.key);
            match (verb, position) {
                (Verb::Create, Some(_)) => return Err(FakeErrno::Exists),
                // As in the kernel: the same data is no change, other data is a conflict.
                (Verb::Add, Some(found)) if held[found].data != element.data => {
                    return Err(FakeErrno::Exists);
                }
                (Verb::Add, Some(_)) | (Verb::Flush, None) => {}
                (Verb::Add | Verb::Create, None) => held.push(element.clone()),
                (Verb::Delete, None) => return Err(FakeErrno::NotFound),
                (Verb::Delete | Verb::Flush, Some(found)) => {
                    held.remove(found);
                }
            }
        }
        Ok(())
    }
}

impl Nft for FakeNft {
    fn generation(&mut self) -> Result<Generation, NftError> {
        let read = Generation(self.generation);
        if let Some(transaction) = self.rivals.pop_front() {
            self.apply(&transaction)?;
            self.disturb();
        }
        Ok(read)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        if !self.failures.is_empty()
            && let Some(failure) = self.failures.remove(0)
        {
            return Err(NftError::Refused(vec![failure]));
        }
        let mut next = self.clone();
        if let Err(error) = next.apply(transaction) {
            self.refused += usize::from(!error.is_transient());
            return Err(error);
        }
        *self = next;
        self.generation += 1;
        self.log.push(transaction.clone());
        Ok(())
    }

    fn validate(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        self.clone().apply(transaction)
    }

    fn elements_in(
        &mut self,
        table: &Table,
        places: &[(&Set, &[Value])],
    ) -> Result<Vec<Option<Element>>, NftError> {
        self.queries += 1;
        let find = |(set, key): &(&Set, &[Value])| {
            self.set_of(table, set)?.iter().find(|element| element.key == **key).cloned()
        };
        Ok(places.iter().map(find).collect())
    }

    fn elements(&mut self, table: &Table, set: &Set) -> Result<Vec<Element>, NftError> {
        // What is not there costs nothing.
        let Some(held) = self.set_of(table, set).cloned() else { return Ok(Vec::new()) };
        self.listings += 1;
        Ok(held)
    }

    fn tables(&mut self, tables: &[Table]) -> Result<Vec<bool>, NftError> {
        Ok(tables.iter().map(|table| self.tables.contains_key(table)).collect())
    }

    fn size(&mut self, table: &Table) -> Result<u32, NftError> {
        let size = self.tables.get(table).map_or(0, |table| table.chains.len() + table.sets.len());
        Ok(u32::try_from(size).unwrap_or(u32::MAX))
    }

    fn chains(
        &mut self,
        places: &[(Table, String)],
    ) -> Result<Vec<Option<InstalledChain>>, NftError> {
        let leads_to = |rule: &Rule, name: &str| {
            rule.statements.iter().any(|s| matches!(s, Statement::Goto(target) | Statement::Jump(target) if target == name))
        };
        let find = |(table, name): &(Table, String)| {
            let content = self.tables.get(table)?;
            let (chain, rules) = content.chains.iter().find(|(chain, _)| chain.name == *name)?;
            let all = content.chains.iter().flat_map(|(_, rules)| rules);
            let uses = rules.len() + all.filter(|(_, rule)| leads_to(rule, name)).count();
            Some(InstalledChain {
                chain: chain.clone(),
                uses: u32::try_from(uses).unwrap_or(u32::MAX),
                drops: false,
            })
        };
        Ok(places.iter().map(find).collect())
    }

    fn rules(&mut self, table: &Table) -> Result<Vec<InstalledRule>, NftError> {
        let content = self.tables.get(table).cloned().unwrap_or_default();
        let rules = content.chains.into_iter().flat_map(|(_, rules)| rules);
        Ok(rules
            .map(|(handle, rule)| InstalledRule {
                expressions: rule_expressions(table.family, &rule),
                chain: rule.chain,
                handle,
                comment: rule.comment,
            })
            .collect())
    }

    fn rules_of(&mut self, table: &Table, chain: &str) -> Result<Vec<InstalledRule>, NftError> {
        let mut rules = self.rules(table)?;
        rules.retain(|rule| rule.chain == chain);
        Ok(rules)
    }

    fn sets(&mut self, table: &Table) -> Result<Vec<String>, NftError> {
        let content = self.tables.get(table).cloned().unwrap_or_default();
        Ok(content.sets.into_iter().map(|(set, _)| set.name).collect())
    }
}
