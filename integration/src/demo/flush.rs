//! What somebody does who loads a ruleset of their own: all nftables tables go.

use anyhow::{Context, Result};
use cni_common::kernel::nft::{Family, NetlinkNft, Nft as _, Object, Table, Transaction, Verb};
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::dump;

/// The commands that do the same.
pub(super) const COMMAND: &str = "nft flush ruleset";

/// Deletes every table of the calling thread's namespace.
pub(super) fn everything() -> Result<()> {
    let mut transaction = Transaction::new();
    for table in tables().context("cannot list the tables")? {
        transaction.push(Verb::Delete, &table, Object::Table(None));
    }
    let mut nft = NetlinkNft::open()?;
    nft.commit(&transaction).context("cannot delete the tables")
}

fn tables() -> std::io::Result<Vec<Table>> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let request = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    let answers = dump::messages(NETLINK_NETFILTER, NetfilterMessage::new(header, request))?;
    let mut tables = Vec::new();
    for answer in &answers {
        tables.extend(table(&dump::decode(answer)?));
    }
    Ok(tables)
}

fn table(message: &NetfilterMessage) -> Option<Table> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = &message.inner else {
        return None;
    };
    let family = match message.header.family {
        NetfilterProtoFamily::Inet => Family::Inet,
        NetfilterProtoFamily::IPv4 => Family::Ip,
        NetfilterProtoFamily::IPv6 => Family::Ip6,
        NetfilterProtoFamily::Bridge => Family::Bridge,
        _ => return None,
    };
    table.attributes.iter().find_map(|attribute| match attribute {
        TableAttribute::Name(name) => Some(Table { family, name: name.clone().into() }),
        _ => None,
    })
}
