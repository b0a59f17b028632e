//! From the Go plugin to ours on a live node, from one backend to the other, and iptables under
//! contention.

use std::process::{Child, Command, Stdio};

use serde_json::json;

use cni_testbox::{
    Attachment, Call, HOST_V4, HOST_V6, Implementation, Network, TestBox, Transport,
    WithoutIptables, both, cases, portmap, run, tool,
};

cases! {
    del_removes_what_the_go_plugin_left, backends;
    add_replaces_what_the_go_plugin_left, backends;
    add_on_iptables_leaves_nothing_elsewhere, backends;
    gc_removes_the_guard_with_its_reason, iptables_only;
    a_host_that_lost_iptables_says_what_it_cannot_reach, ours;
    rules_of_other_go_attachments_stay, backends;
    a_host_that_changes_its_backend, backends;
    status_says_which_backend_and_why, backends;
    parallel_calls_beside_a_neighbour_that_holds_the_lock, backends;
    a_lock_that_is_never_released_is_an_error_to_retry, iptables_only;
    two_programs_per_family_whatever_the_number_of_mappings, iptables_only;
    an_external_mark_chain_is_used_and_must_exist, iptables_only;
    conditions_in_the_words_of_iptables, iptables_only;
    go_nftables_rules_of_the_attachment_go, ours;
}

pub(crate) fn by_go(command: &str, web: &Attachment, port: u16) {
    let call = portmap(command, web).mappings(&both(port, 80));
    call.run_as(Implementation::Go).expect_success();
}

/// Rules that somebody mapped a port with, or that lead to such rules, in any iptables.
fn cni_rules() -> Vec<String> {
    ["iptables-save", "ip6tables-save"]
        .iter()
        .flat_map(|program| {
            let text = run(&mut tool(program));
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|line| line.contains("CNI-") && !line.contains("CNI-HOSTPORT-GUARD"))
        .collect()
}

pub(crate) fn gc(b: &TestBox, network: &str, valid: &[&Attachment]) {
    Call::of_network("portmap", "GC", network).valid(valid).run(b).expect_silence();
}

fn del_removes_what_the_go_plugin_left(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    by_go("ADD", &other, 8081);
    let before = cni_rules();
    by_go("ADD", &web, 8080);
    b.out.is_served(8080, "web");
    b.unmap(&web, &both(8080, 80));
    b.out.is_not_served(8080);
    b.out.is_served(8081, "other");
    assert_eq!(cni_rules(), before, "nothing else of the Go plugin's is touched");
}

fn add_replaces_what_the_go_plugin_left(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    web.container.netns.serve("second", 81);
    by_go("ADD", &web, 8080);
    b.map(&web, &both(8080, 81));
    b.out.is_served(8080, "second");
    b.unmap(&web, &both(8080, 81));
    b.out.is_not_served(8080);
    assert!(cni_rules().iter().all(|line| !line.contains("CNI-DN-")));
}

fn rules_of_other_go_attachments_stay(b: &TestBox) {
    let network = Network::dual(1);
    let (web, other) = (b.web(&network, "web"), b.web(&network, "other"));
    let elsewhere = b.web(&Network::dual(2), "elsewhere");
    by_go("ADD", &other, 8081);
    by_go("ADD", &elsewhere, 8082);
    b.map(&web, &both(8080, 80));
    b.unmap(&web, &both(8080, 80));
    gc(b, &network.name, &[&other]);
    b.out.is_served(8081, "other");
    b.out.is_served(8082, "elsewhere");
    gc(b, &network.name, &[]);
    b.out.is_not_served(8081);
    b.out.is_served(8082, "elsewhere");
}

/// The configuration names another backend than the one that ADD used.
fn a_host_that_changes_its_backend(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let with = |command: &str, backend: &str, port: u16| {
        let call = portmap(command, &web).mappings(&both(port, 80));
        call.set("backend", json!(backend)).run(b).expect_success();
    };
    for (first, second) in [("nftables", "iptables"), ("iptables", "nftables")] {
        with("ADD", first, 8080);
        with("ADD", second, 8081);
        b.out.is_not_served(8080);
        b.out.is_served(8081, "web");
        with("CHECK", second, 8081);
        with("ADD", first, 8080);
        with("DEL", second, 8081);
        b.out.is_not_served(8080);
        b.out.is_not_served(8081);
        assert!(b.portmap_elements().is_empty());
        assert!(cni_rules().iter().all(|line| !line.contains("CNI-DN-")));
    }
}

fn status_says_which_backend_and_why(b: &TestBox) {
    let outcome = Call::of_network("portmap", "STATUS", "net1").run(b);
    outcome.expect_success();
    let expected = match b.implementation.backend() {
        Some(backend) => format!("backend {backend}: the configuration"),
        None => "backend nftables: the kernel".to_owned(),
    };
    assert!(outcome.stderr.contains(&expected), "{outcome:?}");
}

/// Adds and deletes rules without a pause, and holds legacy iptables' lock half of the time.
struct Neighbour(Child);

impl Neighbour {
    fn move_in() -> Self {
        let script = "while :; do \
            flock /run/xtables.lock sleep 0.02; \
            iptables -w -t nat -A OUTPUT -d 192.0.2.9 -j ACCEPT; \
            iptables -w -t nat -D OUTPUT -d 192.0.2.9 -j ACCEPT; \
            done";
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("sh"))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn parallel_calls_beside_a_neighbour_that_holds_the_lock(b: &TestBox) {
    let network = Network::dual(1);
    let webs: Vec<Attachment> = (0..20).map(|i| b.web(&network, &format!("c{i}"))).collect();
    // CI's size; E2E_ROUNDS=5 makes 200 calls of it.
    let rounds = std::env::var("E2E_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    b.map(&webs[0], &both(8100, 80));
    let neighbour = Neighbour::move_in();
    for _ in 0..rounds {
        for command in ["ADD", "DEL"] {
            std::thread::scope(|scope| {
                for (web, port) in webs.iter().zip(8100u16..) {
                    scope.spawn(move || {
                        let call = portmap(command, web).mappings(&both(port, 80));
                        call.run(b).expect_success();
                    });
                }
            });
            if command == "ADD" {
                for (web, port) in webs.iter().zip(8100u16..) {
                    b.out.reach(Transport::Tcp, HOST_V4, port).by(&web.container.id);
                }
                let rules = cni_rules();
                for rule in rules.iter().filter(|line| line.starts_with("-A")) {
                    let copies = rules.iter().filter(|other| *other == rule).count();
                    // The same line may stand in iptables and in ip6tables.
                    assert!(copies <= 2, "{rule} stands there {copies} times");
                }
            }
        }
    }
    drop(neighbour);
    assert!(b.portmap_elements().is_empty());
    assert!(cni_rules().iter().all(|line| !line.contains("CNI-DN-")), "{:?}", cni_rules());
}

fn a_lock_that_is_never_released_is_an_error_to_retry(b: &TestBox) {
    if b.implementation == Implementation::IptablesNft {
        // iptables-nft has no lock; the kernel's transactions are enough for it.
        return;
    }
    let web = b.web(&Network::v4(1), "web");
    let mut holder = Command::new("flock");
    holder.args(["/run/xtables.lock", "sleep", "30"]);
    let mut holder = holder.spawn().expect("flock");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let outcome = portmap("ADD", &web).mappings(&both(8080, 80)).run(b);
    outcome.expect_error_with(11, &["lock", "try again"]);
    holder.kill().expect("kill");
    holder.wait().expect("wait");
    assert_eq!(cni_rules(), Vec::<String>::new());
}

fn two_programs_per_family_whatever_the_number_of_mappings(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let many: Vec<_> = (0..100).flat_map(|i| both(9000 + i, 80)).collect();
    let trace = "/run/trace";
    for command in ["ADD", "CHECK", "ADD", "DEL", "DEL"] {
        portmap(command, &web)
            .mappings(&many)
            .under(&["strace", "-f", "-qq", "-e", "trace=execve", "-o", trace])
            .run(b)
            .expect_success();
        let text = std::fs::read_to_string(trace).expect("strace wrote it");
        let programs = text.lines().filter(|line| line.contains("= 0")).count();
        // strace's own start of the plugin is the first.
        assert!(programs <= 1 + 2 * 2, "{command}: {text}");
    }
    b.map(&web, &many);
    b.out.reach(Transport::Tcp, HOST_V4, 9099).by("web");
    b.out.reach(Transport::Udp, HOST_V6, 9050).by("web");
}

fn an_external_mark_chain_is_used_and_must_exist(b: &TestBox) {
    let network = Network::v4(1).with(json!({ "externalSetMarkChain": "OTHERS-MARK" }));
    let web = b.web(&network, "web");
    let before = b.ruleset();
    let add = || portmap("ADD", &web).mappings(&both(8080, 80)).run(b);
    add().expect_error_with(101, &["iptables"]);
    assert_eq!(cni_rules(), Vec::<String>::new(), "{before}");
    for args in [
        vec!["-N", "OTHERS-MARK"],
        vec!["-A", "OTHERS-MARK", "-j", "MARK", "--set-xmark", "0x4000/0x4000"],
        vec!["-A", "POSTROUTING", "-m", "mark", "--mark", "0x4000/0x4000", "-j", "MASQUERADE"],
    ] {
        run(tool("iptables").args(["-w", "-t", "nat"]).args(args));
    }
    add().expect_result();
    for transport in Transport::ALL {
        b.host.reach(transport, "127.0.0.1", 8080).by("web").seen_as(&network.gateway_v4());
    }
    assert!(cni_rules().iter().all(|line| !line.contains("SETMARK")));
}

fn conditions_in_the_words_of_iptables(b: &TestBox) {
    let conditions = json!({
        "conditionsV4": ["!", "-s", "10.88.0.0/16"],
        "conditionsV6": ["-s", "2001:db8:100::/64"],
    });
    let web = b.web(&Network::dual(1).with(conditions), "web");
    let pod = b.web(&Network::dual(2), "pod");
    b.map(&web, &both(8080, 80));
    b.out.is_served(8080, "web");
    for transport in Transport::ALL {
        pod.container.netns.cannot_reach(transport, HOST_V4, 8080);
        pod.container.netns.cannot_reach(transport, HOST_V6, 8080);
    }
    portmap("CHECK", &web).mappings(&both(8080, 80)).run(b).expect_silence();
}

/// Debian's Go portmap has no nftables backend; the rules are written as HEAD writes them, in one
/// family.
pub(crate) fn go_maps_with_nftables(b: &TestBox, web: &Attachment, port: u16, v4: bool) {
    go_maps_with_options(b, web, port, v4, GoOptions::default());
}

/// What a network's configuration changes in them.
#[derive(Clone, Copy, Default)]
pub(crate) struct GoOptions {
    /// In front of the jumps of the base chains.
    pub(crate) conditions: &'static str,
    pub(crate) masq_all: bool,
}

pub(crate) fn go_maps_with_options(
    b: &TestBox,
    web: &Attachment,
    port: u16,
    v4: bool,
    options: GoOptions,
) {
    let (family, address) = if v4 { ("ip", web.v4()) } else { ("ip6", web.v6()) };
    let target = if v4 { address.clone() } else { format!("[{address}]") };
    let comment = format!("comment \"{}\"", web.container.id);
    let chain = |name: &str, rest: &str| format!("add chain {family} cni_hostport {name} {rest}");
    let rule = |chain: &str, rest: &str| format!("add rule {family} cni_hostport {chain} {rest}");
    let mut script = vec![
        format!("add table {family} cni_hostport {{ comment \"CNI portmap plugin\"; }}"),
        chain("hostports", ""),
        chain("hostip_hostports", ""),
        chain("hostports_all", ""),
        format!("flush chain {family} cni_hostport hostports_all"),
        rule("hostports_all", "jump hostip_hostports"),
        rule("hostports_all", "jump hostports"),
        chain("masquerading", "{ type nat hook postrouting priority 100; }"),
    ];
    for hook in ["prerouting", "output"] {
        script.push(chain(hook, &format!("{{ type nat hook {hook} priority -100; }}")));
        script.push(format!("flush chain {family} cni_hostport {hook}"));
        let jump = format!("{} fib daddr type local jump hostports_all", options.conditions);
        script.push(rule(hook, &jump));
    }
    let mut sources = match (options.masq_all, v4) {
        (false, _) => vec![address.as_str()],
        (true, true) => vec!["0.0.0.0/0"],
        (true, false) => vec!["::/0"],
    };
    if v4 {
        sources.extend((!options.masq_all).then_some("127.0.0.1"));
        // As portmap does for IPv4, whatever its backend.
        b.host.write_sysctl(&format!("ipv4/conf/{}/route_localnet", web.network.bridge()), "1");
    }
    for source in sources {
        let pair = format!("{family} saddr {source} {family} daddr {address}");
        script.push(rule("masquerading", &format!("{pair} masquerade {comment}")));
    }
    for protocol in ["tcp", "udp"] {
        let translation = format!("{protocol} dport {port} dnat to {target}:80 {comment}");
        script.push(rule("hostports", &translation));
    }
    b.nft(&script.join("\n"));
}

fn go_nftables_rules_of_the_attachment_go(b: &TestBox) {
    let (web, other) = (b.web(&Network::v4(1), "web"), b.web(&Network::v4(2), "other"));
    go_maps_with_nftables(b, &web, 8080, true);
    go_maps_with_nftables(b, &other, 8081, true);
    // The same container's attachment to another network has the same comment.
    let second = web.container.join(&Network::v4(3).second(), "net1");
    go_maps_with_nftables(b, &second, 8082, true);
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.unmap(&web, &both(8080, 80));
    b.out.cannot_reach(Transport::Tcp, HOST_V4, 8080);
    b.out.reach(Transport::Tcp, HOST_V4, 8081).by("other");
    b.host.reach(Transport::Tcp, HOST_V4, 8082).by("web");
    b.unmap(&second, &both(8082, 80));
    b.host.cannot_reach(Transport::Tcp, HOST_V4, 8082);
    b.unmap(&other, &both(8081, 80));
    gc(b, "net1", &[]);
    assert!(!run(tool("nft").args(["list", "tables"])).contains("cni_hostport"));
}

/// The Go plugin on a host whose plain names are the legacy iptables.
pub(crate) fn by_go_on_legacy(web: &Attachment, port: u16) {
    let directory = "/run/legacy";
    std::fs::create_dir_all(directory).expect("a directory on the box's tmpfs");
    for name in ["iptables", "ip6tables"] {
        let link = format!("{directory}/{name}");
        let _ = std::os::unix::fs::symlink(format!("/usr/sbin/{name}-legacy"), link);
    }
    let path = std::env::var("PATH").expect("a PATH");
    let call = portmap("ADD", web).mappings(&both(port, 80));
    let call = call.env("PATH", format!("{directory}:{path}"));
    call.run_as(Implementation::Go).expect_success();
}

/// Whatever backend ours has, its ADD removes what the Go plugin left in another one.
fn add_on_iptables_leaves_nothing_elsewhere(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    web.container.netns.serve("second", 81);
    for v4 in [true, false] {
        go_maps_with_nftables(b, &web, 8080, v4);
    }
    let legacy = b.implementation != Implementation::IptablesLegacy;
    if legacy {
        by_go_on_legacy(&web, 8080);
    }
    b.map(&web, &both(8080, 81));
    b.out.is_served(8080, "second");
    portmap("CHECK", &web).mappings(&both(8080, 81)).run(b).expect_silence();
    let table = run(tool("nft").args(["list", "ruleset"]));
    assert!(!table.contains("comment \"web\""), "{table}");
    if legacy {
        for program in ["iptables-legacy-save", "ip6tables-legacy-save"] {
            let saved = run(tool(program).args(["-t", "nat"]));
            assert!(!saved.contains("CNI-DN-"), "{saved}");
        }
    }
    b.unmap(&web, &both(8080, 81));
    b.out.is_not_served(8080);
}

/// 127.0.0.0/8 is guarded as long as an interface could let packets for it in.
fn gc_removes_the_guard_with_its_reason(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let guard = || run(&mut tool("iptables-save")).contains("CNI-HOSTPORT-GUARD");
    b.map(&web, &both(8080, 80));
    assert!(guard());
    b.unmap(&web, &both(8080, 80));
    gc(b, "net1", &[]);
    assert!(guard(), "br1 still has route_localnet");
    b.host.write_sysctl("ipv4/conf/br1/route_localnet", "0");
    gc(b, "net1", &[]);
    assert!(!guard());
    assert_eq!(cni_rules(), Vec::<String>::new());
}

/// nftables is cleaned; what only iptables could reach is said, and goes when it is back.
fn a_host_that_lost_iptables_says_what_it_cannot_reach(b: &TestBox) {
    let network = Network::dual(1);
    let (web, legacy) = (b.web(&network, "web"), b.web(&network, "legacy"));
    by_go("ADD", &web, 8080);
    by_go_on_legacy(&legacy, 8081);
    let said = |stderr: &str, programs: &[&str]| {
        for program in programs {
            assert!(stderr.contains(&format!("{program} is not installed")), "{stderr}");
        }
        assert!(stderr.contains("remove chains CNI-DN-* by hand"), "{stderr}");
    };
    let call = |command: &str, web: &Attachment, port| {
        portmap(command, web).mappings(&both(port, 80)).run(b)
    };
    {
        let _without = WithoutIptables::begin();
        call("CHECK", &web, 8080).expect_error_with(100, &["iptables-nft", "cannot be read"]);
        let add = call("ADD", &web, 8080);
        add.expect_result();
        let nft = ["iptables-nft-save", "ip6tables-nft-save"];
        let legacy_too = ["iptables-legacy-save", "ip6tables-legacy-save"];
        said(&add.stderr, &[nft, legacy_too].concat());
        call("CHECK", &web, 8080).expect_silence();
        b.out.is_served(8080, "web");
        let del = call("DEL", &web, 8080);
        del.expect_silence();
        said(&del.stderr, &[nft, legacy_too].concat());
        assert!(b.portmap_elements().is_empty(), "nftables was within reach");
        let del = call("DEL", &legacy, 8081);
        del.expect_silence();
        said(&del.stderr, &legacy_too);
        gc(b, "net1", &[]);
    }
    b.out.is_served(8080, "web");
    b.out.is_served(8081, "legacy");
    gc(b, "net1", &[]);
    b.out.is_not_served(8080);
    b.out.is_not_served(8081);
    for program in
        ["iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"]
    {
        let saved = run(tool(program).args(["-t", "nat"]));
        assert!(!saved.contains("CNI-"), "{saved}");
    }
}
