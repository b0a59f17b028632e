//! What a newer version of a plugin would leave: of a layout that today's knows nothing of but the number.

use std::fs;

use crate::tool::{feed, run, sh, tool};
use crate::{Call, TestBox};

/// The number that is given.
const NUMBER: u32 = 9;

/// Gives a table of ours, `FAMILY NAME`, another number.
pub fn renumber_table(table: &str) {
    replace_table(table, |listing| {
        let rest = listing.split_once("\"cni-chain layout ").expect("the table has a number").1;
        let (number, _) = rest.split_once('"').expect("in quotes");
        listing.replace(
            &format!("\"cni-chain layout {number}\""),
            &format!("\"cni-chain layout {NUMBER}\""),
        )
    });
}

/// Gives a set or map of a table another name, so that what an older version writes into it is refused.
pub fn rename_set(table: &str, set: &str) {
    replace_table(table, |listing| {
        let renamed = listing.replace(&format!(" {set} {{"), &format!(" {set}{NUMBER} {{"));
        assert_ne!(renamed, listing, "table {table} has a set {set}");
        renamed
    });
}

fn replace_table(table: &str, change: impl FnOnce(&str) -> String) {
    let listing = run(tool("nft").args(["list", "table"]).args(table.split(' ')));
    let commands = format!("delete table {table}\n{}", change(&listing));
    feed(tool("nft").args(["-f", "-"]), &commands);
}

/// Makes the chain that says a number in a table of iptables, in both IP versions.
pub fn number_chains(programs: [&str; 2], table: &str, prefix: &str) {
    for program in programs {
        run(tool(program).args(["-t", table, "-N", &format!("{prefix}{NUMBER}")]));
    }
}

/// Gives the alias of an interface a number.
pub fn number_alias(link: &str, tag: &str) {
    sh(&format!("ip link set {link} alias {tag}/{NUMBER}"));
}

/// Gives a JSON file of ours another `format`.
pub fn renumber_file(path: &str) {
    let text = fs::read_to_string(path).expect("a file of ours");
    let newer = text.replace("\"format\":2", &format!("\"format\":{NUMBER}"));
    assert_ne!(newer, text, "{path} has a format");
    fs::write(path, newer).expect("write");
}

impl TestBox {
    /// The calls are refused with this code and these words, and change nothing.
    #[track_caller]
    pub fn refuses_what_is_newer(&self, code: u64, words: &[&str], calls: &[Call]) {
        let before = self.state();
        for call in calls {
            let outcome = call.run(self);
            outcome.expect_error_with(code, words);
            outcome.expect_error_with(code, &[&format!("layout {NUMBER}"), "upgrade this plugin"]);
            assert_eq!(self.state(), before, "{outcome}");
        }
    }
}
