//! Chains make room for the Go plugin's of the same name.
//!
//! It adds to a chain that is there, behind rules of ours that end a packet's way. So ours goes on under its
//! other name, and the Go plugin makes its own.

use cni_common::kernel::iptables::{IptablesError, Lock, TableDump};
use cni_common::kernel::nft::Nft;
use cni_common::kernel::retry::retry;

use super::changes::removal;
use super::layout::read;
use super::names::Names;
use super::places::that_may_have;
use super::rules::{TABLE, TOP_CHAIN};

/// Moves what an entry of the attachment's list has in the Go plugin's chain, all at once.
pub(super) fn make_room(nft: Option<&mut dyn Nft>, names: &Names) -> Result<(), IptablesError> {
    for place in that_may_have(nft, std::slice::from_ref(&names.go_chain))? {
        let _lock = Lock::acquire()?;
        let iptables = place.open()?;
        retry(|| {
            let lines = move_lines(&read(&iptables)?, names);
            if lines.is_empty() { Ok(()) } else { iptables.restore(&[(TABLE, lines)]) }
        })?;
    }
    Ok(())
}

/// Nothing if the chain is not there, or is the Go plugin's. Pure.
fn move_lines(dump: &TableDump, names: &Names) -> Vec<String> {
    let Names { go_chain, alternative, .. } = names;
    let is_ours = |comment: Option<String>| comment.is_some_and(|text| names.is_renamed(&text));
    let entries: Vec<_> = dump
        .rules_of(TOP_CHAIN)
        .filter(|rule| rule.option("-j").as_ref() == Some(go_chain))
        .collect();
    if entries.is_empty() || !entries.iter().all(|rule| is_ours(rule.option("--comment"))) {
        return Vec::new();
    }
    let mut lines = vec![format!(":{alternative} - [0:0]")];
    lines.extend(dump.rules_of(go_chain).map(|rule| format!("-A {alternative} {}", rule.spec)));
    let entry = |spec: &str| format!("-A {TOP_CHAIN} {}", spec.replace(go_chain, alternative));
    lines.extend(entries.iter().map(|rule| entry(&rule.spec)));
    lines.extend(removal(dump, std::slice::from_ref(go_chain)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_common::cni::Attachment;
    use cni_common::kernel::iptables::SavedRule;

    #[test]
    fn only_what_is_ours_moves() {
        let attachment =
            Attachment { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() };
        let names = Names::new(&attachment);
        let Names { go_chain, alternative, comment, go_comment, .. } = &names;
        let dump = |comment: &str| {
            let rule = |chain: &str, spec: String| SavedRule { chain: chain.into(), spec };
            let comment = comment.replace('"', "\\\"");
            let entry = format!("-p tcp -m comment --comment \"{comment}\" -j {go_chain}");
            let mut dump = TableDump::default();
            for chain in [TOP_CHAIN, go_chain] {
                dump.chains.push((chain.to_owned(), "-".to_owned()));
            }
            dump.rules = vec![
                rule(TOP_CHAIN, entry),
                rule(go_chain, "-p tcp --dport 1 -j DNAT --to-destination 10.0.0.2:2".to_owned()),
            ];
            dump
        };
        let lines = move_lines(&dump(comment), &names);
        assert_eq!(lines[0], format!(":{alternative} - [0:0]"));
        assert!(lines[1].starts_with(&format!("-A {alternative} -p tcp --dport 1 -j DNAT")));
        assert!(lines[2].ends_with(&format!("-j {alternative}")), "{lines:?}");
        assert!(lines.iter().any(|line| *line == format!("-X {go_chain}")), "{lines:?}");
        assert_eq!(move_lines(&dump(go_comment), &names), [""; 0]);
        assert_eq!(move_lines(&TableDump::default(), &names), [""; 0]);
    }
}
