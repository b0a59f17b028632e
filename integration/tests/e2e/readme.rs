//! What README.md and the pages in docs/ show, works: each network and entry, and the first session.

use std::fs;
use std::path::{Path, PathBuf};

use cni_testbox::{Implementation, TestBox, cases, sh};
use serde_json::{Value, json};

use crate::restore::Node;

cases! {
    networks_and_entries_have_no_error, ours;
    the_session_of_the_readme_works, ours;
}

pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The JSON blocks of README.md and of docs/, with where they are.
fn blocks() -> Vec<(String, Value)> {
    let pages = fs::read_dir(top().join("docs")).expect("docs").flatten().map(|entry| entry.path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut found = Vec::new();
    for page in pages.chain([top().join("README.md")]) {
        let text = fs::read_to_string(&page).expect("a page");
        let blocks = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
        for (index, block) in blocks.enumerate() {
            let name = format!("{}, block {}", page.display(), index + 1);
            let json = serde_json::from_str(block)
                .unwrap_or_else(|error| panic!("{name}: {error}: {block}"));
            found.push((name, json));
        }
    }
    found
}

/// An entry alone, such as the pages show, is put behind a bridge.
fn network(shown: &Value) -> Option<Value> {
    if shown.get("plugins").is_some() {
        return Some(shown.clone());
    }
    let mut entry = shown.clone();
    let kind = entry.get("type")?.as_str()?;
    // Whether a runtime hands it something is another matter than what the block shows.
    let capability = match kind {
        "portmap" => Some("portMappings"),
        "bandwidth" => Some("bandwidth"),
        _ => None,
    };
    if let (Some(capability), None) = (capability, entry.get("capabilities")) {
        entry["capabilities"] = json!({ capability: true });
    }
    Some(json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [{ "type": "bridge" }, entry] }))
}

fn networks_and_entries_have_no_error(b: &TestBox) {
    let node = Node::new(b);
    let mut seen = 0;
    for (name, shown) in blocks() {
        let Some(network) = network(&shown) else { continue };
        fs::write("/run/shown.conflist", network.to_string()).expect("a file");
        let output = node.cni_chain(&["lint", "/run/shown.conflist"]).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {text}{shown:#}");
        seen += 1;
    }
    assert!(seen >= 5, "{seen} networks and entries were found");
}

/// The indented lines of a page that begin with this one.
fn session(page: &str, first: &str) -> String {
    let text = fs::read_to_string(top().join(page)).expect("a page");
    let at =
        text.find(&format!("    {first}")).unwrap_or_else(|| panic!("{page} has no {first:?}"));
    let lines = text[at..].lines().take_while(|line| line.starts_with("    "));
    let lines: String = lines.map(|line| line.trim_start().to_owned() + "\n").collect();
    // The server is of this session only.
    lines
        .replace("80 &\n", "80 >/dev/null 2>&1 & server=$!\n")
        .replace("ip netns del web", "kill $server; ip netns del web")
}

/// The directory of this workspace's plugins and of the command.
pub(crate) fn binaries() -> String {
    let portmap = Implementation::Ours.plugin("portmap");
    portmap.parent().expect("a directory").display().to_string()
}

fn the_session_of_the_readme_works(_: &TestBox) {
    let binaries = binaries();
    let (_, network) = blocks()
        .into_iter()
        .find(|(name, json)| name.contains("README.md") && json.get("plugins").is_some())
        .expect("a network");
    fs::create_dir("/run/session").expect("a directory");
    fs::write("/run/session/podnet.conflist", network.to_string()).expect("a file");
    // Networks are found by name here.
    let start = format!(
        "set -e; cd /run/session; export NETCONFPATH=/run/session PATH={binaries}:$PATH \
         CNI_PATH={binaries}:/usr/lib/cni;\n"
    );
    sh(&format!("{start}{}", session("README.md", "cni-chain lint ./podnet.conflist")));
    let lines = session("README.md", "ip netns add web");
    // What is asked when it breaks, while it works. Of real packets there are none, which is status 1.
    let asked =
        session("README.md", "cni-chain show 8080").replace("--live 10", "--live 1 || true");
    let (begin, end) = lines.split_at(lines.find("cni-chain del").expect("an end"));
    let printed = sh(&format!("{start}{begin}{asked}{end}"));
    for answer in [
        "Directory listing for /",
        "podnet/cnitool-",
        "Nothing stops it",
        "attachments: 1 with nothing missing",
        "portmap: ok",
        "network podnet: 1 kept",
    ] {
        assert!(printed.contains(answer), "no {answer:?} in {printed}");
    }
    assert!(!sh("nft list ruleset").contains("8080"));
    // The command's own page has one, too, from the top of the source tree.
    let lines = session("docs/cni-chain.md", "ip netns add web");
    let printed = sh(&format!("{start}cd {}\n{lines}", top().display()));
    assert!(printed.contains("Directory listing for /"), "{printed}");
    assert!(!sh("nft list ruleset").contains("8080"));
}
