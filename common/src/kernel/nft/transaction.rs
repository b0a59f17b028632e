//! A transaction: operations that the kernel applies all or not at all.

use std::fmt;

use super::object::{Chain, Element, Rule, Set, Table, concatenation};

/// A ruleset generation. Every commit by anyone in the network namespace makes a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(pub u32);

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make it unless it is there.
    Add,
    /// Make it; fail if it is there.
    Create,
    /// Remove it; fail if it is not there.
    Delete,
    /// Remove a chain's rules or a set's elements.
    Flush,
}

impl Verb {
    /// nft's keyword.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Flush => "flush",
        }
    }
}

/// What an operation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The table itself, with its comment.
    Table(Option<&'static str>),
    /// The table itself, as long as the socket that made it is open (Linux 5.12).
    OwnedTable,
    /// A chain.
    Chain(Chain),
    /// A rule, appended.
    Rule(Rule),
    /// A rule, put before the others of its chain.
    FirstRule(Rule),
    /// A rule that exists, by its chain and handle.
    RuleHandle(String, u64),
    /// A set or map.
    Set(Set),
    /// Elements of a set or map, whose type must be known to encode them.
    Elements(Set, Vec<Element>),
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What is done.
    pub verb: Verb,
    /// The table it is done in.
    pub table: Table,
    /// The object.
    pub object: Object,
}

/// Names the object as an error message does.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = &self.table;
        match &self.object {
            Object::Table(_) | Object::OwnedTable => write!(f, "table {table}"),
            Object::Chain(chain) => write!(f, "chain {table} {}", chain.name),
            Object::Rule(rule) | Object::FirstRule(rule) => {
                write!(f, "rule in chain {table} {}", rule.chain)
            }
            Object::RuleHandle(chain, handle) => {
                write!(f, "rule {handle} in chain {table} {chain}")
            }
            Object::Set(set) => write!(f, "{} {table} {}", set.keyword(), set.name),
            Object::Elements(set, elements) => {
                let place = format!("{} {table} {}", set.keyword(), set.name);
                match elements.as_slice() {
                    [only] => write!(f, "element {{ {} }} of {place}", concatenation(&only.key)),
                    many => write!(f, "{} elements of {place}", many.len()),
                }
            }
        }
    }
}

/// Operations in order, optionally bound to the generation that they were decided on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The steps.
    pub operations: Vec<Operation>,
    /// When set, the commit fails with [`super::NftError::is_stale`] if anything was committed since.
    pub generation: Option<Generation>,
}

impl Transaction {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an operation.
    pub fn push(&mut self, verb: Verb, table: &Table, object: Object) {
        self.operations.push(Operation { verb, table: table.clone(), object });
    }

    /// Appends an operation on elements, unless there are none.
    pub fn elements(&mut self, verb: Verb, table: &Table, set: &Set, elements: Vec<Element>) {
        if !elements.is_empty() {
            self.push(verb, table, Object::Elements(set.clone(), elements));
        }
    }

    /// Makes a chain and gives it exactly these rules, whatever it held before.
    pub fn chain_with_rules(&mut self, table: &Table, chain: Chain, rules: Vec<Rule>) {
        self.push(Verb::Add, table, Object::Chain(chain.clone()));
        self.push(Verb::Flush, table, Object::Chain(chain));
        for rule in rules {
            self.push(Verb::Add, table, Object::Rule(rule));
        }
    }

    /// Removes chains with their rules.
    pub fn remove_chains(&mut self, table: &Table, chains: Vec<Chain>) {
        for chain in chains {
            self.push(Verb::Flush, table, Object::Chain(chain.clone()));
            self.push(Verb::Delete, table, Object::Chain(chain));
        }
    }

    /// The same in a table of another name, for the kernel to try without touching the real one.
    #[must_use]
    pub fn in_table(mut self, table: &Table) -> Self {
        for operation in &mut self.operations {
            operation.table = table.clone();
        }
        self
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

impl Element {
    /// An element with a comment.
    #[must_use]
    pub fn new(key: Vec<super::Value>, data: Vec<super::Value>, comment: &str) -> Self {
        Self { key, data, comment: Some(comment.to_owned()) }
    }
}
