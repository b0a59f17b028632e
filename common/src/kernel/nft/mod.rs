//! `nf_tables`: typed transactions, a netlink backend, a text rendering and a fake.
//!
//! [`object`], [`statement`] and [`transaction`] say what a ruleset is made of; [`netlink`]
//! carries it to the kernel, [`text`] shows it to people, [`fake`] holds it in memory for tests.

pub mod compare;
pub(crate) mod decode;
mod encode;
mod error;
mod expressions;
pub mod fake;
mod family;
pub mod json;
mod l4;
mod look;
mod meaning;
mod modules;
pub mod netlink;
mod numbered;
pub mod object;
mod open;
mod others;
pub mod query;
mod reading;
mod register;
pub mod statement;
pub mod text;
pub mod transaction;
mod userdata;

pub use error::{NftError, Refusal};
pub use family::Family;
pub use l4::L4Protocol;
pub use look::{look, unchanged_since};
pub use netlink::NetlinkNft;
pub use numbered::{
    Numbered, has_older_layout, layout_comment, look_for_newer, refuse_newer, was_taken_over,
    will_be_taken_over,
};
pub use object::{
    BaseChain, Chain, ChainKind, DataType, Element, Found, Hook, InstalledChain, InstalledRule,
    Priority, Rule, Set, Table, Value,
};
pub use open::open_nft_if_any;
pub use query::{Elements, keys_only, lookup, lookup_all};
pub use reading::Reading;
pub use statement::{KeyPart, Operand, Selector, Statement};
pub use transaction::{Generation, Object, Operation, Transaction, Verb};

/// What a plugin needs of `nf_tables`.
///
/// Queries of tables and sets that do not exist find nothing; that is no error.
pub trait Nft {
    /// The current ruleset generation.
    fn generation(&mut self) -> Result<Generation, NftError>;

    /// Applies a transaction, all or nothing.
    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError>;

    /// Lets the kernel try a transaction and take it back.
    fn validate(&mut self, transaction: &Transaction) -> Result<(), NftError>;

    /// The elements with these keys in one set, each if it is there; the cost does not depend on the
    /// set's size.
    fn elements_at(
        &mut self,
        table: &Table,
        set: &Set,
        keys: &[Vec<Value>],
    ) -> Result<Vec<Option<Element>>, NftError> {
        let places: Vec<_> = keys.iter().map(|key| (set, key.as_slice())).collect();
        self.elements_in(table, &places)
    }

    /// The same in several sets of a table, in one go.
    fn elements_in(
        &mut self,
        table: &Table,
        places: &[(&Set, &[Value])],
    ) -> Result<Vec<Option<Element>>, NftError>;

    /// All elements of a set.
    fn elements(&mut self, table: &Table, set: &Set) -> Result<Vec<Element>, NftError>;

    /// Of each of these tables, whether it is there.
    fn tables(&mut self, tables: &[Table]) -> Result<Vec<bool>, NftError>;

    /// How many chains, sets and maps a table has.
    fn size(&mut self, table: &Table) -> Result<u32, NftError>;

    /// The chains with these names in these tables, each if it is there.
    fn chains(
        &mut self,
        places: &[(Table, String)],
    ) -> Result<Vec<Option<InstalledChain>>, NftError>;

    /// The chains with these names in one table, each if it is there.
    fn chains_at(
        &mut self,
        table: &Table,
        names: &[String],
    ) -> Result<Vec<Option<InstalledChain>>, NftError> {
        let places: Vec<_> = names.iter().map(|name| (table.clone(), name.clone())).collect();
        self.chains(&places)
    }

    /// All rules of a table, chain by chain in order.
    fn rules(&mut self, table: &Table) -> Result<Vec<InstalledRule>, NftError>;

    /// The rules of one chain in order; what the other chains hold costs nothing.
    fn rules_of(&mut self, table: &Table, chain: &str) -> Result<Vec<InstalledRule>, NftError>;

    /// The names of all sets and maps of a table.
    fn sets(&mut self, table: &Table) -> Result<Vec<String>, NftError>;
}
