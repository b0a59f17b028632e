//! Which kernel modules a transaction needs, and which of those this kernel lacks.
//!
//! Of a missing module the kernel says `ENOENT`, as it does of a chain or a set that is not there. So after such a
//! refusal it is asked to try what each module is needed for, by itself.

use nix::errno::Errno;

use super::error::Refusal;
use super::family::Family;
use super::object::{BaseChain, Chain, ChainKind, DataType, Hook, Priority, Rule, Set, Table};
use super::statement::{Selector, Statement};
use super::transaction::{Object, Operation, Transaction, Verb};
use crate::kernel::ip::IpVersion;

const ENOENT: i32 = Errno::ENOENT as i32;

/// Never there: it is only tried.
const NOBODYS: Table = Table::new(Family::Inet, "cni_module_probe");
const NAME: &str = "probe";

/// What needs a module beside `nf_tables` itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feature {
    NatChain,
    Conntrack,
    Fib,
    Nat,
    Masquerade,
}

impl Feature {
    /// The module that has it. modprobe loads what that needs, or names it.
    pub(super) fn module(self) -> &'static str {
        match self {
            Self::NatChain => "nft_chain_nat",
            Self::Conntrack => "nft_ct",
            Self::Fib => "nft_fib_inet",
            Self::Nat => "nft_nat",
            Self::Masquerade => "nft_masq",
        }
    }

    /// The smallest transaction that needs nothing else.
    pub(super) fn sample(self) -> Transaction {
        let mut sample = Transaction::new();
        sample.push(Verb::Add, &NOBODYS, Object::Table(None));
        let mut chain = |base| {
            let chain = Chain { name: NAME.to_owned(), base };
            sample.push(Verb::Add, &NOBODYS, Object::Chain(chain));
        };
        let statement = match self {
            Self::NatChain => {
                let hook = Hook::Prerouting;
                chain(Some(BaseChain { kind: ChainKind::Nat, hook, priority: Priority::DSTNAT }));
                return sample;
            }
            Self::Conntrack => Statement::ConnectionIsDnat,
            Self::Fib => Statement::DestinationIsLocal,
            Self::Masquerade => Statement::Masquerade,
            Self::Nat => Statement::DnatByMap {
                version: IpVersion::V4,
                key: vec![Selector::DestinationPort.into()],
                map: NAME.to_owned(),
            },
        };
        // In a base chain of a type, the kernel would ask for more.
        chain(None);
        if self == Self::Nat {
            let map = Set {
                name: NAME.to_owned(),
                key: vec![DataType::InetService],
                data: vec![DataType::Ipv4Addr, DataType::InetService],
            };
            sample.push(Verb::Add, &NOBODYS, Object::Set(map));
        }
        let rule = Rule { chain: NAME.to_owned(), statements: vec![statement], comment: None };
        sample.push(Verb::Add, &NOBODYS, Object::Rule(rule));
        sample
    }

    fn of_statement(statement: &Statement) -> Option<Self> {
        match statement {
            Statement::DestinationIsLocal | Statement::DestinationIsNotOfInputInterface => {
                Some(Self::Fib)
            }
            Statement::ConnectionIsDnat
            | Statement::ConnectionIsTranslated
            | Statement::ConnectionIsEstablished => Some(Self::Conntrack),
            Statement::DnatByMap { .. } => Some(Self::Nat),
            Statement::Masquerade => Some(Self::Masquerade),
            Statement::Match { .. }
            | Statement::ProtocolIn(_)
            | Statement::InSet { .. }
            | Statement::MarkSet(_)
            | Statement::MarkClear(_)
            | Statement::Trace
            | Statement::Accept
            | Statement::Drop
            | Statement::Jump(_)
            | Statement::Goto(_)
            | Statement::Return => None,
        }
    }
}

/// What could be missing if these operations were refused: each feature once.
pub(super) fn suspects(refusals: &[Refusal], operations: &[Operation]) -> Vec<Feature> {
    let mut suspects = Vec::new();
    let absent = refusals.iter().filter(|refusal| refusal.errno == ENOENT);
    for operation in absent.filter_map(|refusal| operations.get(refusal.operation?)) {
        for feature in needed_by(operation) {
            if !suspects.contains(&feature) {
                suspects.push(feature);
            }
        }
    }
    suspects
}

fn needed_by(operation: &Operation) -> Vec<Feature> {
    match &operation.object {
        Object::Chain(Chain { base: Some(BaseChain { kind: ChainKind::Nat, .. }), .. }) => {
            vec![Feature::NatChain]
        }
        Object::Rule(rule) | Object::FirstRule(rule) => {
            rule.statements.iter().filter_map(Feature::of_statement).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: [Feature; 5] =
        [Feature::NatChain, Feature::Conntrack, Feature::Fib, Feature::Nat, Feature::Masquerade];

    #[test]
    fn a_sample_needs_its_own_feature_only() {
        for feature in FEATURES {
            let needed: Vec<_> = feature.sample().operations.iter().flat_map(needed_by).collect();
            assert_eq!(needed, [feature]);
        }
    }

    #[test]
    fn only_what_was_not_found_is_suspected() {
        let refusal = |operation, errno: Errno| Refusal {
            operation,
            object: String::new(),
            errno: errno as i32,
            message: None,
        };
        let mut operations = Feature::NatChain.sample().operations;
        operations.extend(Feature::Masquerade.sample().operations);
        operations.extend(Feature::Masquerade.sample().operations);
        let suspected = |refusals: &[Refusal]| suspects(refusals, &operations);
        let every: Vec<_> =
            (0..operations.len()).map(|index| refusal(Some(index), Errno::ENOENT)).collect();
        assert_eq!(suspected(&every), [Feature::NatChain, Feature::Masquerade]);
        assert_eq!(suspected(&every[..1]), [], "a table");
        assert_eq!(suspected(&[refusal(Some(1), Errno::EEXIST)]), []);
        assert_eq!(suspected(&[refusal(None, Errno::ENOENT)]), []);
    }
}
