//! `nf_tables` by netlink: the backend of production.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, GenMessage, ListAttribute, NfTablesMessage, RuleAttribute,
    RuleMessage, SetElementList, SetElementMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::decode;
use super::encode::{Encoder, family_number, key_attribute};
use super::error::{NftError, Refusal};
use super::object::{Element, InstalledChain, InstalledRule, Set, Table, Value};
use super::transaction::{Generation, Operation, Transaction};
use super::{Nft, encode};
use crate::kernel::netlink::{Connection, Dump, Status, append};
use crate::kernel::retry::retry;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const ENOENT: i32 = Errno::ENOENT as i32;

/// Answers of this many queries fit a socket's default receive buffer.
const QUERIES_PER_REQUEST: usize = 64;

/// The kernel's `nf_tables` in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct NetlinkNft {
    connection: Connection,
}

impl NetlinkNft {
    /// Opens the netlink socket. This alone needs no privilege.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { connection: Connection::open(NETLINK_NETFILTER)? })
    }

    /// Sends a batch; without its end message the kernel tries it and takes everything back.
    fn run(&mut self, transaction: &Transaction, commit: bool) -> Result<(), NftError> {
        let mut request = Vec::with_capacity(4096);
        let begin = self.connection.next_sequence();
        append(&mut request, batch_begin(begin, transaction.generation));
        let mut encoder = Encoder::default();
        // Of each message, by its distance from the first: the operation, and where it is.
        let mut senders: Vec<(usize, usize)> = Vec::new();
        let mut pending = Vec::new();
        for (index, operation) in transaction.operations.iter().enumerate() {
            let family = family_number(operation.table.family);
            pending.extend(encoder.operation(operation).into_iter().map(|m| (index, family, m)));
        }
        let mut last = begin;
        let count = pending.len();
        for (position, (index, family, message)) in pending.into_iter().enumerate() {
            last = self.connection.next_sequence();
            senders.push((index, request.len()));
            // One acknowledgement proves that the kernel went through all of it. Kernels before
            // 6.10 do not acknowledge the end message, so the last operation carries it.
            let ack = if position + 1 == count { NLM_F_ACK } else { 0 };
            let flags = NLM_F_REQUEST | ack | message.flags;
            append(&mut request, netlink_message(last, flags, family, message.inner));
        }
        if commit {
            let end = self.connection.next_sequence();
            append(&mut request, control(end, ControlMessage::BatchEnd));
        }
        self.connection.send(&request)?;
        let statuses = self.connection.receive_status(last).map_err(NftError::Unanswered)?;
        let acknowledged =
            statuses.iter().any(|status| status.sequence == last && status.errno == 0);
        let refusals: Vec<Refusal> = statuses
            .into_iter()
            .filter(|status| status.errno != 0)
            .map(|status| {
                let position = status.sequence.checked_sub(begin + 1).map(|at| at as usize);
                let sender = position.and_then(|at| senders.get(at)).copied();
                refusal(status, sender, &transaction.operations, &request)
            })
            .collect();
        match (refusals.is_empty(), acknowledged || count == 0) {
            (true, true) => Ok(()),
            (true, false) => Err(NftError::Unanswered(io::ErrorKind::InvalidData.into())),
            (false, _) => Err(NftError::Refused(refusals)),
        }
    }

    /// Runs a dump until it shows one state.
    pub(super) fn dump<T>(
        &mut self,
        family: u8,
        what: &NfTablesMessage,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NftError> {
        retry(|| {
            let sequence = self.connection.next_sequence();
            let mut request = Vec::with_capacity(256);
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            append(&mut request, netlink_message(sequence, flags, family, what.clone()));
            self.connection.send(&request)?;
            let mut found = Vec::new();
            let mut malformed = false;
            let outcome = self.connection.receive_dump(|answer| match decode(answer.payload) {
                Some(item) => found.push(item),
                None => malformed = true,
            });
            match outcome {
                Ok(Dump::Consistent) if malformed => {
                    Err(NftError::Protocol("a dump holds an object that cannot be read".into()))
                }
                Ok(Dump::Consistent) => Ok(found),
                Ok(Dump::Interrupted) => Err(NftError::Interrupted),
                // No such table or set: nothing is in it.
                Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(Vec::new()),
                Err(error) => Err(refused("the ruleset", &error)),
            }
        })
    }

    /// Asks for single objects, many in one go; those that are not there are `None`. `decode` is told
    /// which query it is the answer to.
    pub(super) fn query<T: Clone>(
        &mut self,
        place: &str,
        queries: impl ExactSizeIterator<Item = (u8, NfTablesMessage)>,
        decode: impl Fn(usize, &[u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, NftError> {
        let mut found = vec![None; queries.len()];
        let mut queries = queries.enumerate().peekable();
        while queries.peek().is_some() {
            let mut request = Vec::with_capacity(4096);
            let mut askers: Vec<(u32, usize)> = Vec::new();
            for (index, (family, query)) in queries.by_ref().take(QUERIES_PER_REQUEST) {
                let sequence = self.connection.next_sequence();
                askers.push((sequence, index));
                append(&mut request, netlink_message(sequence, NLM_F_REQUEST, family, query));
            }
            self.connection.send(&request)?;
            let mut malformed = false;
            let statuses = self.connection.receive_count(askers.len(), |answer| {
                let asker = askers.iter().find(|(sequence, _)| *sequence == answer.sequence);
                let answered = asker.and_then(|(_, index)| {
                    *found.get_mut(*index)? = Some(decode(*index, answer.payload)?);
                    Some(())
                });
                malformed |= answered.is_none();
            })?;
            if malformed {
                return Err(NftError::Protocol(format!("an object of {place} cannot be read")));
            }
            if let Some(status) = statuses.into_iter().find(|s| !matches!(s.errno, 0 | ENOENT)) {
                return Err(NftError::Refused(vec![Refusal {
                    operation: None,
                    object: place.to_owned(),
                    errno: status.errno,
                    message: status.message,
                }]));
            }
        }
        Ok(found)
    }

    /// A table's rules, or those of one chain.
    fn rules_in(
        &mut self,
        table: &Table,
        chain: Option<&str>,
    ) -> Result<Vec<InstalledRule>, NftError> {
        let mut attributes = vec![RuleAttribute::Table(table.name.clone().into_owned())];
        attributes.extend(chain.map(|chain| RuleAttribute::Chain(chain.to_owned())));
        let query = NfTablesMessage::GetRule(RuleMessage { attributes });
        let is_wanted = |of: &str, rule: &InstalledRule| {
            of == table.name && chain.is_none_or(|chain| rule.chain == chain)
        };
        let rules = self.dump(family_number(table.family), &query, |payload| {
            decode::rule(payload).map(|(of, rule)| is_wanted(&of, &rule).then_some(rule))
        })?;
        Ok(rules.into_iter().flatten().collect())
    }
}

impl Nft for NetlinkNft {
    fn generation(&mut self) -> Result<Generation, NftError> {
        let sequence = self.connection.next_sequence();
        let mut request = Vec::with_capacity(64);
        let message = NfTablesMessage::GetGen(GenMessage { attributes: vec![] });
        append(&mut request, netlink_message(sequence, NLM_F_REQUEST, 0, message));
        self.connection.send(&request)?;
        let mut generation = None;
        let statuses = self.connection.receive_count(1, |answer| {
            generation = decode::generation(answer.payload);
        })?;
        if let Some(status) = statuses.into_iter().find(|status| status.errno != 0) {
            return Err(NftError::Refused(vec![refusal(status, None, &[], &[])]));
        }
        generation.map(Generation).ok_or_else(|| NftError::Protocol("no ruleset generation".into()))
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        self.run(transaction, true)
    }

    fn validate(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        self.run(transaction, false)
    }

    fn elements_in(
        &mut self,
        table: &Table,
        places: &[(&Set, &[Value])],
    ) -> Result<Vec<Option<Element>>, NftError> {
        let queries = places.iter().map(|(set, key)| {
            let list = vec![ListAttribute::Element(vec![key_attribute(key)])];
            (family_number(table.family), elements_query(table, &set.name, Some(list)))
        });
        let place = match places {
            [(set, _)] => format!("{} {table} {}", set.keyword(), set.name),
            _ => format!("table {table}"),
        };
        self.query(&place, queries, |index, payload| {
            let (set, _) = places.get(index)?;
            decode::elements(payload, set)?.pop()
        })
    }

    fn elements(&mut self, table: &Table, set: &Set) -> Result<Vec<Element>, NftError> {
        let query = elements_query(table, &set.name, None);
        let lists = self
            .dump(family_number(table.family), &query, |payload| decode::elements(payload, set))?;
        Ok(lists.into_iter().flatten().collect())
    }

    fn chains(
        &mut self,
        places: &[(Table, String)],
    ) -> Result<Vec<Option<InstalledChain>>, NftError> {
        let queries = places.iter().map(|(table, name)| {
            let family = family_number(table.family);
            let table = ChainAttribute::Table(table.name.clone().into_owned());
            let attributes = vec![table, ChainAttribute::Name(name.clone())];
            (family, NfTablesMessage::GetChain(ChainMessage { attributes }))
        });
        let tables: BTreeSet<String> = places.iter().map(|(table, _)| table.to_string()).collect();
        let place = format!("table {}", Vec::from_iter(tables).join(" or "));
        self.query(&place, queries, |_, payload| decode::chain(payload).map(|(_, chain)| chain))
    }

    fn rules(&mut self, table: &Table) -> Result<Vec<InstalledRule>, NftError> {
        self.rules_in(table, None)
    }

    fn rules_of(&mut self, table: &Table, chain: &str) -> Result<Vec<InstalledRule>, NftError> {
        self.rules_in(table, Some(chain))
    }

    fn sets(&mut self, table: &Table) -> Result<Vec<String>, NftError> {
        let query = encode::sets_query(table);
        let wanted = table.name.clone();
        let sets = self.dump(family_number(table.family), &query, |payload| {
            decode::set_name(payload).map(|(table, set)| (table == wanted).then_some(set))
        })?;
        Ok(sets.into_iter().flatten().collect())
    }
}

pub(super) fn elements_query(
    table: &Table,
    set: &str,
    elements: Option<Vec<ListAttribute<netlink_packet_netfilter::nftables::SetElementAttribute>>>,
) -> NfTablesMessage {
    let mut attributes = vec![
        SetElementList::Table(table.name.clone().into_owned()),
        SetElementList::Set(set.to_owned()),
    ];
    attributes.extend(elements.map(SetElementList::Elements));
    NfTablesMessage::GetSetElement(SetElementMessage { attributes })
}

fn netlink_message(
    sequence: u32,
    flags: u16,
    family: u8,
    message: NfTablesMessage,
) -> NetlinkMessage<NetfilterMessage> {
    wrap(sequence, flags, NetfilterHeader::new(family.into(), 0, 0), message)
}

fn control(sequence: u32, message: ControlMessage) -> NetlinkMessage<NetfilterMessage> {
    wrap(sequence, NLM_F_REQUEST, NetfilterHeader::new(0.into(), 0, NFNL_SUBSYS_NFTABLES), message)
}

fn wrap(
    sequence: u32,
    flags: u16,
    header: NetfilterHeader,
    message: impl Into<NetfilterMessageInner>,
) -> NetlinkMessage<NetfilterMessage> {
    let mut netlink_header = NetlinkHeader::default();
    netlink_header.flags = flags;
    netlink_header.sequence_number = sequence;
    let inner = NetfilterMessage::new(header, message);
    NetlinkMessage::new(netlink_header, NetlinkPayload::InnerMessage(inner))
}

fn batch_begin(sequence: u32, generation: Option<Generation>) -> NetlinkMessage<NetfilterMessage> {
    const NFNL_MSG_BATCH_BEGIN: u8 = 16;
    const NFNL_BATCH_GENID: u16 = 1;
    let message = match generation {
        None => ControlMessage::BatchBegin,
        Some(Generation(generation)) => ControlMessage::Other {
            message_type: NFNL_MSG_BATCH_BEGIN,
            attributes: vec![DefaultNla::new(NFNL_BATCH_GENID, generation.to_be_bytes().to_vec())],
        },
    };
    control(sequence, message)
}

/// Names the operation, and within a list of elements the one that the extended ack points at.
fn refusal(
    status: Status,
    sender: Option<(usize, usize)>,
    operations: &[Operation],
    request: &[u8],
) -> Refusal {
    let operation = sender.and_then(|(index, _)| operations.get(index));
    let object = match operation {
        None => "the transaction".to_owned(),
        Some(operation) => {
            let element = sender.zip(status.offset).and_then(|((_, start), offset)| {
                decode::element_at_offset(request.get(start..)?, offset, operation)
            });
            element.unwrap_or_else(|| operation.to_string())
        }
    };
    Refusal {
        operation: sender.map(|(index, _)| index),
        object,
        errno: status.errno,
        message: status.message,
    }
}

fn refused(object: &str, error: &io::Error) -> NftError {
    match error.raw_os_error() {
        Some(errno) => NftError::Refused(vec![Refusal {
            operation: None,
            object: object.to_owned(),
            errno,
            message: None,
        }]),
        None => NftError::Protocol(error.to_string()),
    }
}
