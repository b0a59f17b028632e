//! A transaction as a script for `nft -f`, for people and for tests.
//!
//! Rules and elements are written as `nft list` prints them.

use std::fmt::Write as _;

use super::family::Family;
use super::object::{
    BaseChain, Chain, ChainKind, DataType, Element, Hook, Priority, Rule, Set, concatenation,
};
use super::transaction::{Object, Operation, Transaction, Verb};

/// The whole script.
#[must_use]
pub fn render(transaction: &Transaction) -> String {
    let mut script = String::new();
    for operation in &transaction.operations {
        // Writing into a String cannot fail.
        let _ = writeln!(script, "{}", render_operation(operation));
    }
    script
}

fn render_operation(operation: &Operation) -> String {
    let Operation { verb, table, object } = operation;
    let word = verb.as_str();
    let making = matches!(verb, Verb::Add | Verb::Create);
    match object {
        Object::Table(comment) => match comment.filter(|_| making) {
            Some(comment) => format!("{word} table {table} {{ comment \"{comment}\"; }}"),
            None => format!("{word} table {table}"),
        },
        Object::OwnedTable if making => format!("{word} table {table} {{ flags owner; }}"),
        Object::OwnedTable => format!("{word} table {table}"),
        Object::Chain(chain) => {
            let definition = match &chain.base {
                Some(base) if making => format!(" {{ {} }}", render_base(table.family, *base)),
                _ => String::new(),
            };
            format!("{word} chain {table} {}{definition}", chain.name)
        }
        Object::Rule(rule) => format!("{word} rule {table} {} {}", rule.chain, render_rule(rule)),
        Object::FirstRule(rule) => {
            format!("insert rule {table} {} {}", rule.chain, render_rule(rule))
        }
        Object::RuleHandle(chain, handle) => format!("{word} rule {table} {chain} handle {handle}"),
        Object::Set(set) => {
            let definition =
                if making { format!(" {{ {}; }}", render_type(set)) } else { String::new() };
            format!("{word} {} {table} {}{definition}", set.keyword(), set.name)
        }
        Object::Elements(set, elements) => {
            let elements: Vec<_> = elements.iter().map(|e| render_element(e, making)).collect();
            format!("{word} element {table} {} {{ {} }}", set.name, elements.join(", "))
        }
    }
}

/// `type nat hook prerouting priority dstnat + 5; policy accept;`
#[must_use]
pub fn render_base(family: Family, base: BaseChain) -> String {
    format!(
        "type {} hook {} priority {}; policy accept;",
        base.kind.as_str(),
        base.hook.as_str(),
        render_priority(family, base)
    )
}

/// nft names priorities within ±10 of a standard one, where the hook and type allow the name. In the
/// bridge family the names mean other numbers.
fn render_priority(family: Family, base: BaseChain) -> String {
    if family == Family::Bridge {
        return base.priority.0.to_string();
    }
    let names: &[(&str, Priority)] = match (base.kind, base.hook) {
        (ChainKind::Nat, Hook::Prerouting) => &[("dstnat", Priority::DSTNAT)],
        (_, Hook::Prerouting) => {
            &[("raw", Priority::RAW), ("dstnat", Priority::DSTNAT), ("filter", Priority::FILTER)]
        }
        (_, Hook::Postrouting) => {
            &[("raw", Priority::RAW), ("filter", Priority::FILTER), ("srcnat", Priority::SRCNAT)]
        }
        _ => &[("raw", Priority::RAW), ("filter", Priority::FILTER)],
    };
    let number = base.priority.0;
    for (name, Priority(standard)) in names {
        match number - standard {
            0 => return (*name).to_owned(),
            above @ 1..=10 => return format!("{name} + {above}"),
            below @ -10..=-1 => return format!("{name} - {}", -below),
            _ => {}
        }
    }
    number.to_string()
}

fn render_type(set: &Set) -> String {
    let join =
        |types: &[DataType]| types.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" . ");
    if set.data.is_empty() {
        format!("type {}", join(&set.key))
    } else {
        format!("type {} : {}", join(&set.key), join(&set.data))
    }
}

/// An element as nft prints it; deleting one takes its key only.
#[must_use]
pub fn render_element(element: &Element, whole: bool) -> String {
    let mut text = concatenation(&element.key);
    if !whole {
        return text;
    }
    if let Some(comment) = &element.comment {
        let _ = write!(text, " comment \"{comment}\"");
    }
    if !element.data.is_empty() {
        let _ = write!(text, " : {}", concatenation(&element.data));
    }
    text
}

/// A rule's statements and comment as nft prints them.
#[must_use]
pub fn render_rule(rule: &Rule) -> String {
    let mut words: Vec<String> = rule.statements.iter().map(ToString::to_string).collect();
    if let Some(comment) = &rule.comment {
        words.push(format!("comment \"{comment}\""));
    }
    words.join(" ")
}

/// A chain's definition line for people.
#[must_use]
pub fn render_chain(family: Family, chain: &Chain) -> String {
    chain.base.map(|base| render_base(family, base)).unwrap_or_default()
}
