//! A ruleset with our plugins' rules, listed by one nft and loaded by another: that of the machine and that of
//! Debian sid (`target/userland/sid`). `./dev userland` makes that and runs this; `cargo test` does not.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST2_V4, Network, OUT_V4, TestBox, Transport, bandwidth, both,
    cases, fed, firewall, portmap, run, tcp, tool, tuning,
};

cases! {
    text_is_loaded_by_the_other, ours;
    json_is_loaded_by_the_other, ours;
    what_a_newer_one_loaded_breaks_an_older_ones_listing, ours;
}

const PORT: u16 = 8080;
/// Since this version a map's type may be a concatenation in JSON.
const MAPS_IN_JSON: (u32, u32, u32) = (1, 1, 0);
/// A table of nobody's with a set.
const SET: &str = "table ip probe {\n set addresses {\n type ipv4_addr\n }\n}\n";
/// One with a chain whose priority a newer nft lists by that name.
const PRIORITY: &str =
    "table ip probe {\n chain output {\n type nat hook output priority dstnat; }\n}\n";

/// One of the two.
struct Nft {
    root: Option<PathBuf>,
    version: (u32, u32, u32),
}

impl Nft {
    fn of_the_machine() -> Self {
        Self::below(None)
    }

    fn of_sid() -> Self {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let root = workspace.join("target/userland/sid");
        assert!(root.join("usr/sbin/nft").is_file(), "{}: ./dev userland makes it", root.display());
        // It opens its input by a name in /dev, which leads into /proc.
        for directory in ["/proc", "/dev"] {
            let target = format!("{}{directory}", root.display());
            run(tool("mount").args(["--rbind", directory, &target]));
        }
        Self::below(Some(root))
    }

    fn below(root: Option<PathBuf>) -> Self {
        let mut nft = Self { root, version: (0, 0, 0) };
        let text = run(nft.command().arg("--version"));
        let version = text.split(' ').nth(1).expect("a name and a version").trim_start_matches('v');
        let mut numbers = version.split('.').map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().unwrap_or(0);
        nft.version = (next(), next(), next());
        nft
    }

    fn command(&self) -> Command {
        let Some(root) = &self.root else { return tool("nft") };
        let mut command = tool("chroot");
        command.arg(root).arg("/usr/sbin/nft");
        command
    }

    fn try_list(&self, options: &[&str]) -> Option<String> {
        let output = self.command().args(options).args(["list", "ruleset"]).output().expect("nft");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[track_caller]
    fn list(&self, options: &[&str]) -> String {
        self.try_list(options).expect("nft lists")
    }

    /// Loads a listing in the place of what there is.
    fn load(&self, options: &[&str], listing: &str) -> Result<(), String> {
        run(self.command().args(["flush", "ruleset"]));
        let mut command = self.command();
        let Output { status, stderr, .. } = fed(command.args(options).args(["-f", "-"]), listing);
        if status.success() {
            return Ok(());
        }
        Err(format!("{status}: {}", String::from_utf8_lossy(&stderr)))
    }
}

/// Two containers, one of which waits for the port of the other and has another of its own, with all that a
/// table of ours can hold.
struct Host<'a> {
    b: &'a TestBox,
    web: Attachment,
    newer: Attachment,
}

impl<'a> Host<'a> {
    fn furnished(b: &'a TestBox) -> Self {
        let network = Network::dual(1);
        b.out.serve("out", 80);
        Self { b, web: b.web(&network, "web"), newer: b.web(&network, "newer") }
    }

    /// Rules made by our plugins, and by nobody else.
    fn begins(&self) {
        run(tool("nft").args(["flush", "ruleset"]));
        for call in self.calls("ADD") {
            call.run(self.b).expect_result();
        }
        self.is_whole();
    }

    fn calls(&self, command: &str) -> Vec<Call> {
        let own = |attachment, ports: &[_], conditions: &Value| {
            [
                portmap(command, attachment).mappings(ports).keys(conditions),
                firewall(command, attachment).set("ingressPolicy", "isolated"),
                bandwidth(command, attachment).ingress(800_000_000, 8_000_000),
                tuning(command, attachment).set("mtu", 1400),
            ]
        };
        let of_web = [both(PORT, 80), both(PORT + 1, 80), vec![tcp(PORT + 2, 80).at(HOST2_V4)]];
        let conditions = json!({ "markMasqBit": 3,
            "conditionsV4": ["ip", "saddr", "!=", "192.0.2.0/24", "meta", "mark", "&", "0xf0", "==", "0x00"],
            "conditionsV6": ["iifname { ext0, ext1 }"] });
        let conditional =
            portmap(command, &self.newer).mappings(&[tcp(PORT + 3, 80)]).keys(&conditions);
        let mut calls = Vec::from(own(&self.web, &of_web.concat(), &json!({})));
        calls.extend(own(&self.newer, &both(PORT, 80), &json!({})));
        calls.push(conditional);
        calls
    }

    /// Traffic passes, and CHECK finds nothing wrong but that one waits.
    #[track_caller]
    fn is_whole(&self) {
        let b = self.b;
        b.out.is_served(PORT, "newer");
        b.out.is_served(PORT + 1, "web");
        for transport in Transport::ALL {
            b.host.reach(transport, "127.0.0.1", PORT).by("newer");
            // Its own port, which it is masqueraded for.
            self.web.container.netns.reach(transport, HOST_V4, PORT + 1).by("web");
        }
        b.out.reach(Transport::Tcp, HOST2_V4, PORT + 2).by("web");
        b.out.cannot_reach(Transport::Tcp, HOST_V4, PORT + 2);
        b.out.reach(Transport::Tcp, HOST_V4, PORT + 3).by("newer").seen_as(OUT_V4);
        self.web.container.netns.reach(Transport::Tcp, OUT_V4, 80).by("out");
        for (number, call) in self.calls("CHECK").into_iter().enumerate() {
            let outcome = call.run(b);
            if number == 0 {
                outcome.expect_error_with(102, &["newer"]);
            } else {
                outcome.expect_silence();
            }
        }
    }

    /// ADD finds its own again, DEL takes it, and who waited serves.
    #[track_caller]
    fn goes_on_and_ends(&self, loaded_by: &Nft) {
        let b = self.b;
        let calls = self.calls("ADD");
        let (of_web, of_newer) = calls.split_at(4);
        for call in of_newer {
            call.run(b).expect_result();
        }
        self.is_whole();
        let delete = |calls: &[Call]| {
            for call in calls {
                call.clone().command("DEL").run(b).expect_silence();
            }
        };
        delete(of_newer);
        b.out.is_served(PORT, "web");
        delete(of_web);
        b.out.is_not_served(PORT);
        let left = loaded_by.list(&[]);
        assert!(left.contains("table inet cni_portmap") && !left.contains("net1/"), "{left}");
    }
}

fn pairs(nfts: &[Nft; 2]) -> [(&Nft, &Nft); 4] {
    let [machine, sid] = nfts;
    [(machine, sid), (sid, machine), (sid, sid), (machine, machine)]
}

fn text_is_loaded_by_the_other(b: &TestBox) {
    let nfts = [Nft::of_the_machine(), Nft::of_sid()];
    let host = Host::furnished(b);
    for (from, to) in pairs(&nfts) {
        println!("from nft {:?} to {:?}", from.version, to.version);
        let knows_the_priority = to.load(&[], PRIORITY).is_ok();
        host.begins();
        let mut listing = from.list(&[]);
        if listing.contains("hook output priority dstnat") && !knows_the_priority {
            let why = to.load(&[], &listing).expect_err("it does not know the priority");
            let errors: Vec<&str> = why.lines().filter(|line| line.contains("Error: ")).collect();
            assert!(
                errors.iter().all(|error| error.contains("invalid priority expression")),
                "{why}"
            );
            // The remedy of docs/troubleshooting.md.
            for offset in 0..10 {
                let named = format!("hook output priority dstnat + {offset};");
                listing =
                    listing.replace(&named, &format!("hook output priority {};", offset - 100));
            }
        }
        to.load(&[], &listing).unwrap_or_else(|why| panic!("{why}"));
        host.is_whole();
        host.goes_on_and_ends(to);
    }
}

/// Only where both know a map's type as a list of words; whatever cannot be read, nothing of it is loaded.
fn json_is_loaded_by_the_other(b: &TestBox) {
    let nfts = [Nft::of_the_machine(), Nft::of_sid()];
    let host = Host::furnished(b);
    for (from, to) in pairs(&nfts) {
        println!("from nft {:?} to {:?}", from.version, to.version);
        host.begins();
        let (json, text) = (from.list(&["-j"]), to.list(&[]));
        let loaded = to.load(&["-j"], &json);
        let can_be = from.version >= MAPS_IN_JSON && to.version >= MAPS_IN_JSON;
        assert_eq!(loaded.is_ok(), can_be, "{loaded:?}");
        if !can_be {
            assert_eq!(nfts[1].list(&[]), "");
            to.load(&[], &text).unwrap_or_else(|why| panic!("{why}"));
        }
        host.is_whole();
        host.goes_on_and_ends(to);
    }
}

/// An older nft ends by a signal where any set has been loaded by a newer one. The plugins ask the kernel, and
/// what they make anew, all can list.
fn what_a_newer_one_loaded_breaks_an_older_ones_listing(b: &TestBox) {
    let (machine, sid) = (Nft::of_the_machine(), Nft::of_sid());
    sid.load(&[], SET).expect("sid reads it");
    let lists_sets = machine.try_list(&[]).is_some();
    println!("nft {:?} lists what {:?} loaded: {lists_sets}", machine.version, sid.version);
    let host = Host::furnished(b);
    host.begins();
    sid.load(&[], &sid.list(&[])).expect("its own");
    assert_eq!(machine.try_list(&[]).is_some(), lists_sets, "as of anybody's table");
    host.is_whole();
    let mut purge = Command::new(env!("CARGO_BIN_EXE_cni-chain"));
    run(purge.args(["purge", "--all", "--yes"]).env("CNI_PATH", "/nowhere"));
    for call in host.calls("ADD") {
        call.run(b).expect_result();
    }
    assert!(machine.list(&[]).contains("table inet cni_portmap"));
    host.is_whole();
}
