//! `nf_tables` by netlink: the backend of production.

use std::collections::BTreeSet;
use std::{io, mem};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::Nft;
use super::decode;
use super::encode::{self, Batch, Message, family_number, message};
use super::error::{NftError, Refusal};
use super::family::Family;
use super::modules::{self, Feature};
use super::object::{Element, InstalledChain, InstalledRule, Set, Table, Value};
use super::transaction::{Generation, Operation, Transaction};
use crate::kernel::netlink::{Connection, Dump, Status};
use crate::kernel::request::Request;
use crate::kernel::retry::retry;

const ENOENT: i32 = Errno::ENOENT as i32;

/// In bytes; most requests need no more.
const REQUEST_ROOM: usize = 4096;

/// Answers of this many queries fit a socket's default receive buffer.
const QUERIES_PER_REQUEST: usize = 64;

/// The kernel's `nf_tables` in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct NetlinkNft {
    connection: Connection,
    /// Room for the next request.
    request: Request,
}

impl NetlinkNft {
    /// Opens the netlink socket. This alone needs no privilege.
    pub fn open() -> Result<Self, NftError> {
        let connection = Connection::open(NETLINK_NETFILTER)?;
        Ok(Self { connection, request: Request::with_capacity(REQUEST_ROOM) })
    }

    /// The socket, for another part of netfilter. To close one may take a grace period (see "Wall time of
    /// DEL" in ARCHITECTURE.md), so one has to do for a call.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// An empty request, in the room of the one before.
    fn new_request(&mut self) -> Request {
        let mut request = mem::take(&mut self.request);
        request.clear();
        request
    }

    /// Sends a batch, and finds out whether the kernel refuses it because it lacks a module.
    fn run(&mut self, transaction: &Transaction, commit: bool) -> Result<(), NftError> {
        self.attempt(transaction, commit).map_err(|error| {
            let NftError::Refused(refusals) = error else { return error };
            let mut suspects = modules::suspects(&refusals, &transaction.operations);
            suspects.retain(|feature| {
                self.attempt(&feature.sample(), false).is_err_and(|error| error.is_missing())
            });
            if suspects.is_empty() {
                return NftError::Refused(refusals);
            }
            let modules = suspects.into_iter().map(Feature::module).collect();
            NftError::ModulesMissing { modules, refusals }
        })
    }

    /// Without the end message of its batch, the kernel tries a transaction and takes everything back.
    fn attempt(&mut self, transaction: &Transaction, commit: bool) -> Result<(), NftError> {
        let mut request = self.new_request();
        let begin = self.connection.next_sequence();
        batch_begin(&mut request, begin, transaction.generation);
        let mut batch = Batch::new(&mut self.connection, request);
        for (index, operation) in transaction.operations.iter().enumerate() {
            batch.operation(index, operation);
        }
        let Batch { mut request, senders, .. } = batch;
        let last = begin + u32::try_from(senders.len()).unwrap_or(u32::MAX);
        // One acknowledgement proves that the kernel went through all of it. Kernels before
        // 6.10 do not acknowledge the end message, so the last operation carries it.
        if let Some((_, start)) = senders.last() {
            request.add_flags(*start, NLM_F_ACK);
        }
        if commit {
            batch_end(&mut request, self.connection.next_sequence());
        }
        self.connection.send(request.as_slice())?;
        let statuses = self.connection.receive_status(last).map_err(NftError::Unanswered)?;
        let acknowledged =
            statuses.iter().any(|status| status.sequence == last && status.errno == 0);
        let refusals: Vec<Refusal> = statuses
            .into_iter()
            .filter(|status| status.errno != 0)
            .map(|status| {
                let position = status.sequence.checked_sub(begin + 1).map(|at| at as usize);
                let sender = position.and_then(|at| senders.get(at)).copied();
                refusal(status, sender, &transaction.operations, request.as_slice())
            })
            .collect();
        self.request = request;
        match (refusals.is_empty(), acknowledged || senders.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(NftError::Unanswered(io::ErrorKind::InvalidData.into())),
            (false, _) => Err(NftError::Refused(refusals)),
        }
    }

    /// Runs a dump until it shows one state. `decode` takes out of a message what is wanted of it.
    pub(super) fn dump<T, I: IntoIterator<Item = T>>(
        &mut self,
        (family, what): (u8, Message),
        attributes: impl Fn(&mut Request),
        decode: impl Fn(&[u8]) -> Option<I>,
    ) -> Result<Vec<T>, NftError> {
        retry(|| {
            let sequence = self.connection.next_sequence();
            let mut request = self.new_request();
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            message(&mut request, sequence, flags, family, what, &attributes);
            self.connection.send(request.as_slice())?;
            self.request = request;
            let mut found = Vec::new();
            let mut malformed = false;
            let outcome = self.connection.receive_dump(|answer| match decode(answer.payload) {
                Some(items) => found.extend(items),
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

    /// Asks for single objects, many in one go; those that are not there are `None`. `attributes` writes
    /// a question, and `decode` is told which question it is the answer to.
    pub(super) fn query<'q, Q, T: Clone>(
        &mut self,
        place: impl Fn() -> String,
        what: Message,
        questions: &'q [Q],
        family: impl Fn(&'q Q) -> Family,
        attributes: impl Fn(&mut Request, &'q Q),
        decode: impl Fn(usize, &[u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, NftError> {
        let mut found = vec![None; questions.len()];
        for (round, questions) in questions.chunks(QUERIES_PER_REQUEST).enumerate() {
            let mut request = self.new_request();
            let mut last = 0;
            for question in questions {
                last = self.connection.next_sequence();
                let family = family_number(family(question));
                message(&mut request, last, NLM_F_REQUEST, family, what, |message| {
                    attributes(message, question);
                });
            }
            self.connection.send(request.as_slice())?;
            self.request = request;
            let first = last as usize + 1 - questions.len();
            let mut malformed = false;
            let statuses = self.connection.receive_count(questions.len(), |answer| {
                let asker = (answer.sequence as usize).checked_sub(first);
                let answered = asker.and_then(|asker| {
                    let index = round * QUERIES_PER_REQUEST + asker;
                    *found.get_mut(index)? = Some(decode(index, answer.payload)?);
                    Some(())
                });
                malformed |= answered.is_none();
            })?;
            if malformed {
                return Err(NftError::Protocol(format!("an object of {} cannot be read", place())));
            }
            if let Some(status) = statuses.into_iter().find(|s| !matches!(s.errno, 0 | ENOENT)) {
                return Err(NftError::Refused(vec![Refusal {
                    operation: None,
                    object: place(),
                    errno: status.errno,
                    message: status.message,
                }]));
            }
        }
        Ok(found)
    }

    fn chains_named<'q, Q>(
        &mut self,
        place: impl Fn() -> String,
        questions: &'q [Q],
        named: impl Fn(&'q Q) -> (&'q Table, &'q str),
    ) -> Result<Vec<Option<InstalledChain>>, NftError> {
        self.query(
            place,
            Message::GetChain,
            questions,
            |question| named(question).0.family,
            |attributes, question| {
                let (table, chain) = named(question);
                encode::named_chain(attributes, table, chain);
            },
            |_, payload| decode::chain(payload).map(|(_, chain)| chain),
        )
    }

    /// A table's rules, or those of one chain.
    fn rules_in(
        &mut self,
        table: &Table,
        chain: Option<&str>,
    ) -> Result<Vec<InstalledRule>, NftError> {
        let is_wanted = |of: &str, rule: &InstalledRule| {
            of == table.name && chain.is_none_or(|chain| rule.chain == chain)
        };
        self.dump(
            (family_number(table.family), Message::GetRule),
            |attributes| encode::rules_of(attributes, table, chain),
            |payload| decode::rule(payload).map(|(of, rule)| is_wanted(&of, &rule).then_some(rule)),
        )
    }
}

impl Nft for NetlinkNft {
    fn generation(&mut self) -> Result<Generation, NftError> {
        let sequence = self.connection.next_sequence();
        let mut request = self.new_request();
        message(&mut request, sequence, NLM_F_REQUEST, 0, Message::GetGeneration, |_| {});
        self.connection.send(request.as_slice())?;
        self.request = request;
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
        let place = || match places {
            [(set, _)] => format!("{} {table} {}", set.keyword(), set.name),
            _ => format!("table {table}"),
        };
        self.query(
            place,
            Message::GetElement,
            places,
            |_| table.family,
            |list, (set, key)| {
                let mut image = Vec::with_capacity(64);
                key.iter().for_each(|value| value.encode(&mut image));
                encode::in_set(list, table, &set.name);
                encode::key(list, &image);
            },
            |index, payload| decode::elements(payload, places.get(index)?.0)?.pop(),
        )
    }

    fn elements(&mut self, table: &Table, set: &Set) -> Result<Vec<Element>, NftError> {
        self.dump(
            (family_number(table.family), Message::GetElement),
            |list| encode::in_set(list, table, &set.name),
            |payload| decode::elements(payload, set),
        )
    }

    fn chains(
        &mut self,
        places: &[(Table, String)],
    ) -> Result<Vec<Option<InstalledChain>>, NftError> {
        let place = || {
            let tables: BTreeSet<String> =
                places.iter().map(|(table, _)| table.to_string()).collect();
            format!("table {}", Vec::from_iter(tables).join(" or "))
        };
        self.chains_named(place, places, |(table, chain)| (table, chain))
    }

    fn chains_at(
        &mut self,
        table: &Table,
        names: &[String],
    ) -> Result<Vec<Option<InstalledChain>>, NftError> {
        self.chains_named(|| format!("table {table}"), names, |name| (table, name))
    }

    fn tables(&mut self, tables: &[Table]) -> Result<Vec<bool>, NftError> {
        let found = self.query(
            || "the tables".to_owned(),
            Message::GetTable,
            tables,
            |table| table.family,
            encode::named_table,
            |_, _| Some(()),
        )?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    fn size(&mut self, table: &Table) -> Result<u32, NftError> {
        let found = self.query(
            || format!("table {table}"),
            Message::GetTable,
            std::slice::from_ref(table),
            |table| table.family,
            encode::named_table,
            |_, payload| decode::table_size(payload),
        )?;
        Ok(found.into_iter().flatten().next().unwrap_or(0))
    }

    fn rules(&mut self, table: &Table) -> Result<Vec<InstalledRule>, NftError> {
        self.rules_in(table, None)
    }

    fn rules_of(&mut self, table: &Table, chain: &str) -> Result<Vec<InstalledRule>, NftError> {
        self.rules_in(table, Some(chain))
    }

    fn sets(&mut self, table: &Table) -> Result<Vec<String>, NftError> {
        self.dump(
            (family_number(table.family), Message::GetSet),
            |attributes| encode::sets_of(attributes, table),
            |payload| decode::set_name(payload).map(|(of, set)| (of == table.name).then_some(set)),
        )
    }
}

// <linux/netfilter/nfnetlink.h>
fn batch_begin(request: &mut Request, sequence: u32, generation: Option<Generation>) {
    const NFNL_MSG_BATCH_BEGIN: u16 = 16;
    const NFNL_BATCH_GENID: u16 = 1;
    request.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, sequence, |body| {
        body.header(&BATCH_HEADER);
        if let Some(Generation(generation)) = generation {
            body.be32(NFNL_BATCH_GENID, generation);
        }
    });
}

fn batch_end(request: &mut Request, sequence: u32) {
    const NFNL_MSG_BATCH_END: u16 = 17;
    request.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, sequence, |body| body.header(&BATCH_HEADER));
}

/// `struct nfgenmsg` of a batch for `NFNL_SUBSYS_NFTABLES`.
const BATCH_HEADER: [u8; 4] = [0, 0, 0, 10];

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
