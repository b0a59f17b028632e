//! A transaction as `nft -j -f` reads it.

use serde_json::{Value as Json, json};

use super::family::Family;
use super::object::{BaseChain, Chain, DataType, Element, Rule, Set, Table, Value};
use super::statement::{KeyPart, Operand, Selector, Statement};
use super::transaction::{Object, Operation, Transaction};

/// The whole transaction.
#[must_use]
pub fn render(transaction: &Transaction) -> Json {
    let commands: Vec<Json> = transaction.operations.iter().map(operation).collect();
    json!({ "nftables": commands })
}

/// Whether it takes nft 1.1.0 or newer to read it. An older one reads `map` where it is a string, passes over a list
/// of types, and makes a set of that map; what looks it up is then refused, or crashes it. There is no other way to
/// say in its JSON that data is a concatenation.
#[must_use]
pub fn needs_newer_nft(transaction: &Transaction) -> bool {
    let is_such =
        |operation: &Operation| matches!(&operation.object, Object::Set(set) if set.data.len() > 1);
    transaction.operations.iter().any(is_such)
}

fn operation(operation: &Operation) -> Json {
    let Operation { verb, table, object } = operation;
    let word = match object {
        Object::FirstRule(_) => "insert",
        _ => verb.as_str(),
    };
    json!({ word: object_json(table, object) })
}

fn object_json(table: &Table, object: &Object) -> Json {
    let mut named = json!({ "family": table.family.as_str(), "table": table.name });
    match object {
        Object::Table(comment) => {
            let mut members = table_json(table);
            if let Some(comment) = comment {
                members["comment"] = json!(comment);
            }
            json!({ "table": members })
        }
        Object::OwnedTable => {
            let mut members = table_json(table);
            members["flags"] = json!(["owner"]);
            json!({ "table": members })
        }
        Object::Chain(chain) => {
            add_chain(&mut named, chain);
            json!({ "chain": named })
        }
        Object::Rule(rule) | Object::FirstRule(rule) => json!({ "rule": rule_json(table, rule) }),
        Object::RuleHandle(chain, handle) => {
            named["chain"] = json!(chain);
            named["handle"] = json!(handle);
            json!({ "rule": named })
        }
        Object::Set(set) => {
            named["name"] = json!(set.name);
            named["type"] = types(&set.key);
            if !set.data.is_empty() {
                named["map"] = types(&set.data);
            }
            json!({ set.keyword(): named })
        }
        Object::Elements(set, elements) => {
            named["name"] = json!(set.name);
            named["elem"] = elements.iter().map(|element| element_json(set, element)).collect();
            json!({ "element": named })
        }
    }
}

fn table_json(table: &Table) -> Json {
    json!({ "family": table.family.as_str(), "name": table.name })
}

fn add_chain(named: &mut Json, chain: &Chain) {
    named["name"] = json!(chain.name);
    if let Some(BaseChain { kind, hook, priority }) = chain.base {
        named["type"] = json!(kind.as_str());
        named["hook"] = json!(hook.as_str());
        named["prio"] = json!(priority.0);
        named["policy"] = json!("accept");
    }
}

fn types(types: &[DataType]) -> Json {
    match types {
        [only] => json!(only.as_str()),
        many => many.iter().map(|kind| kind.as_str()).collect(),
    }
}

fn element_json(set: &Set, element: &Element) -> Json {
    let mut key = values(&element.key);
    if let Some(comment) = &element.comment {
        key = json!({ "elem": { "val": key, "comment": comment } });
    }
    if set.data.is_empty() { key } else { json!([key, values(&element.data)]) }
}

fn values(values: &[Value]) -> Json {
    let value = |value: &Value| match value {
        Value::Address(address) => json!(address.to_string()),
        Value::Protocol(protocol) => json!(protocol.as_str()),
        Value::Port(port) => json!(port),
        Value::Mark(mark) => json!(mark),
        Value::Name(name) => json!(name),
    };
    match values {
        [only] => value(only),
        many => json!({ "concat": many.iter().map(value).collect::<Vec<_>>() }),
    }
}

fn rule_json(table: &Table, rule: &Rule) -> Json {
    let statements: Vec<Json> = rule.statements.iter().map(statement).collect();
    let mut members = json!({
        "family": table.family.as_str(),
        "table": table.name,
        "chain": rule.chain,
        "expr": statements,
    });
    if let Some(comment) = &rule.comment {
        members["comment"] = json!(comment);
    }
    members
}

fn statement(statement: &Statement) -> Json {
    let is = |op: &str, left: Json, right: Json| json!({ "match": { "op": op, "left": left, "right": right } });
    let mark = || selector(Selector::PacketMark);
    let set_mark = |op: &str, bits: u32| json!({ "mangle": { "key": mark(), "value": { op: [mark(), bits] } } });
    match statement {
        Statement::Match { selector: left, negated, operand: right } => {
            let op = if *negated { "!=" } else { "==" };
            match right {
                Operand::Mark { value, mask } if *mask != u32::MAX => {
                    is(op, json!({ "&": [mark(), mask] }), json!(value))
                }
                right => is(op, selector(*left), operand(right)),
            }
        }
        Statement::ProtocolIn(protocols) => {
            let names: Vec<_> = protocols.iter().map(|protocol| protocol.as_str()).collect();
            is("==", selector(Selector::L4Protocol), json!({ "set": names }))
        }
        Statement::DestinationIsLocal => is("==", fib(&["daddr"]), json!("local")),
        Statement::DestinationIsNotOfInputInterface => {
            is("!=", fib(&["daddr", "iif"]), json!("local"))
        }
        Statement::ConnectionIsDnat => {
            is("in", json!({ "ct": { "key": "status" } }), json!("dnat"))
        }
        Statement::ConnectionIsTranslated => {
            is("in", json!({ "ct": { "key": "status" } }), json!(["snat", "dnat"]))
        }
        Statement::ConnectionIsEstablished => {
            is("in", json!({ "ct": { "key": "state" } }), json!(["established", "related"]))
        }
        Statement::InSet { key, set } => is("==", key_json(key), json!(format!("@{set}"))),
        Statement::DnatByMap { version, key, map } => {
            let found = json!({ "map": { "key": key_json(key), "data": format!("@{map}") } });
            json!({ "dnat": { "family": Family::of(*version).as_str(), "addr": found } })
        }
        Statement::MarkSet(bits) => set_mark("|", *bits),
        Statement::MarkClear(bits) => set_mark("&", !*bits),
        Statement::Trace => {
            json!({ "mangle": { "key": { "meta": { "key": "nftrace" } }, "value": 1 } })
        }
        Statement::Masquerade => json!({ "masquerade": null }),
        Statement::Accept => json!({ "accept": null }),
        Statement::Drop => json!({ "drop": null }),
        Statement::Jump(chain) => json!({ "jump": { "target": chain } }),
        Statement::Goto(chain) => json!({ "goto": { "target": chain } }),
        Statement::Return => json!({ "return": null }),
    }
}

fn fib(flags: &[&str]) -> Json {
    json!({ "fib": { "result": "type", "flags": flags } })
}

fn selector(selector: Selector) -> Json {
    let payload = |protocol: &str, field: &str| json!({ "payload": { "protocol": protocol, "field": field } });
    let meta = |key: &str| json!({ "meta": { "key": key } });
    match selector {
        Selector::Ip4Source => payload("ip", "saddr"),
        Selector::Ip4Destination => payload("ip", "daddr"),
        Selector::Ip6Source => payload("ip6", "saddr"),
        Selector::Ip6Destination => payload("ip6", "daddr"),
        Selector::SourcePort => payload("th", "sport"),
        Selector::DestinationPort => payload("th", "dport"),
        Selector::EtherType => payload("ether", "type"),
        Selector::L4Protocol => meta("l4proto"),
        Selector::InputInterface => meta("iifname"),
        Selector::OutputInterface => meta("oifname"),
        Selector::PacketMark => meta("mark"),
    }
}

fn key_json(key: &[KeyPart]) -> Json {
    let part = |part: &KeyPart| match part.mask {
        Some(mask) => json!({ "&": [selector(part.selector), mask.to_string()] }),
        None => selector(part.selector),
    };
    match key {
        [only] => part(only),
        many => json!({ "concat": many.iter().map(part).collect::<Vec<_>>() }),
    }
}

fn operand(operand: &Operand) -> Json {
    match operand {
        Operand::Network(network) if network.prefix_len() == network.max_prefix_len() => {
            json!(network.addr().to_string())
        }
        Operand::Network(network) => json!({
            "prefix": { "addr": network.network().to_string(), "len": network.prefix_len() }
        }),
        Operand::Port(port) => json!(port),
        Operand::Protocol(protocol) => json!(protocol.as_str()),
        Operand::Interface(name) => json!(name),
        Operand::EtherType(version) => json!(Family::of(*version).as_str()),
        Operand::Mark { value, .. } => json!(value),
    }
}
