//! `cni-chain demo` on a machine made for the test: what it shows, and that it leaves the
//! machine as it was.
//!
//! Needs root, `cargo build --workspace` beforehand, and the Debian packages
//! `containernetworking-plugins`, `iproute2`, `iptables`, `iputils-ping` and `nftables`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cni_testbox::{bare_cases, must_fail, sh};

bare_cases! {
    with_the_go_portmap;
    with_our_portmap;
    a_portmap_that_maps_nothing_is_found_out;
    what_a_chain_leaves_is_found_out;
    a_failing_add_is_reported_and_leaves_nothing;
    a_missing_plugin_is_named_with_the_remedy;
    nobody_needs_no_root;
    where_only_root_may_there_is_one_sentence;
    the_setting_that_lets_only_root_is_named;
    a_plugin_directory_that_would_be_hidden_is_refused;
    these_tests_notice_a_change_of_the_machine;
    kept_namespaces_can_be_entered;
    the_built_in_plugin_keeps_its_promises;
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_cni-chain");
const GO_PLUGINS: &str = "/usr/lib/cni";

/// What the box that stands for the machine has beside its own `/run` and `/var/lib/cni`.
const MACHINE: &str = "mount -t tmpfs tmpfs /mnt\nexport TMPDIR=/mnt\n";

/// Runs the arguments and prints what of the machine they changed, as a diff.
const UNCHANGED: &str = r#"
state() {
    cut -d: -f1 /proc/self/net/dev
    cat /proc/self/net/if_inet6 /proc/self/net/route /proc/self/mounts
    cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/accept_dad
    nft list ruleset
    find /run /mnt /var/lib/cni -mindepth 1 ! -name 'before' ! -name 'after'
}
mkdir /mnt/states
mount -t tmpfs tmpfs /mnt/states
state >/mnt/states/before
status=0
"$@" || status=$?
state >/mnt/states/after
diff /mnt/states/before /mnt/states/after >&2 || echo 'THE MACHINE HAS CHANGED' >&2
exit $status
"#;

/// A finished demo.
struct Outcome {
    status: i32,
    screen: String,
    complaint: String,
}

impl Outcome {
    /// The lines from the one that starts with `from` to the next blank one.
    fn section(&self, from: &str) -> Vec<&str> {
        let rest = self.screen.lines().skip_while(|line| !line.starts_with(from));
        let lines: Vec<&str> = rest.skip(1).take_while(|line| !line.is_empty()).collect();
        assert!(!lines.is_empty(), "no section {from:?}:\n{}\n{}", self.screen, self.complaint);
        lines
    }

    /// The cells of a section's lines, without the line of titles.
    fn table(&self, from: &str) -> Vec<String> {
        let lines = self.section(from).into_iter().skip(1);
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }
}

/// A command that runs `script` on the machine, with the arguments as `$@`.
fn on_the_machine(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-euc", &format!("{MACHINE}{script}"), "sh"]).args(arguments);
    command.env_remove("CNI_PATH").env_remove("NO_COLOR");
    command
}

fn run(arguments: &[&str]) -> Outcome {
    let output = on_the_machine(UNCHANGED, arguments).stdin(Stdio::null()).output();
    let output = output.expect("sh");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let outcome = Outcome {
        status: output.status.code().expect("an exit status"),
        screen: text(&output.stdout),
        complaint: text(&output.stderr),
    };
    let complaint = &outcome.complaint;
    assert!(!complaint.contains("THE MACHINE HAS CHANGED"), "{complaint}");
    for line in outcome.screen.lines() {
        // How long the path of a plugin is, is not the demo's to say.
        let is_wide = line.chars().count() > 80 && !line.contains("  /");
        assert!(!is_wide, "too wide: {line}");
        assert!(!line.contains('\x1b'), "colour in a pipe: {line}");
        assert_eq!(line, line.trim_end(), "trailing space");
    }
    outcome
}

fn demo(plugin_dir: &Path, more: &[&str]) -> Outcome {
    let dir = plugin_dir.to_str().expect("UTF-8");
    run(&[&[PROGRAM, "demo", "--plugin-dir", dir], more].concat())
}

fn go_plugins() -> &'static Path {
    let dir = Path::new(GO_PLUGINS);
    assert!(dir.join("portmap").is_file(), "install containernetworking-plugins for {GO_PLUGINS}");
    dir
}

const ANSWERS: [&str; 9] = [
    "outside http://192.0.2.1:8080/ 200 OK, \"hello\" 192.0.2.2 ok",
    "outside http://[2001:db8::1]:8080/ 200 OK, \"hello\" 2001:db8::2 ok",
    "outside udp://192.0.2.1:7007 echo, \"hello\" 192.0.2.2 ok",
    "outside udp://[2001:db8::1]:7007 echo, \"hello\" 2001:db8::2 ok",
    "host http://192.0.2.1:8080/ 200 OK, \"hello\" 192.0.2.1 ok",
    "host http://[2001:db8::1]:8080/ 200 OK, \"hello\" 2001:db8::1 ok",
    "host http://127.0.0.1:8080/ 200 OK, \"hello\" 10.88.0.1 ok",
    "container http://192.0.2.1:8080/ 200 OK, \"hello\" 10.88.0.1 ok",
    "container http://[2001:db8::1]:8080/ 200 OK, \"hello\" fd00::1 ok",
];

const REFUSALS: [&str; 7] = [
    "outside http://192.0.2.1:8080/ refused ok",
    "outside http://[2001:db8::1]:8080/ refused ok",
    "outside udp://192.0.2.1:7007 refused ok",
    "outside udp://[2001:db8::1]:7007 refused ok",
    "host http://192.0.2.1:8080/ refused ok",
    "host http://[2001:db8::1]:8080/ refused ok",
    "host http://127.0.0.1:8080/ refused ok",
];

const TUNED: [&str; 2] = [
    "net.core.somaxconn 4096, then 512, then 4096 ok",
    "MTU of eth0 1500, then 1400, then 1500 ok",
];

fn with_the_go_portmap() {
    let outcome = demo(go_plugins(), &[]);
    // The newest version that this plugin speaks, not the newest that we do.
    assert!(outcome.screen.contains(r#""cniVersion": "1.0.0""#), "{}", outcome.screen);
    assert_eq!(outcome.table("ADD"), ANSWERS, "{}", outcome.complaint);
    // containerd's burst, taken at its word.
    let limit = outcome.table("How fast it comes out of the container");
    assert!(limit[0].ends_with(" Mbit/s FAILED"), "{limit:?}");
    // A fault of the plugin, not of the demo: wherever ip6tables works, its CHECK looks for the
    // IPv4 rules there, too. Everything else goes on.
    assert!(outcome.screen.contains("\nCHECK of the chain failed: could not check ipv6 dnat"));
    assert_eq!(outcome.table("DEL"), REFUSALS, "{}", outcome.complaint);
    assert_eq!(
        outcome.table("What is left"),
        [
            "outside lo ext0 0, of 0 before DEL ok",
            "host lo ext0 0, of 4 before DEL ok",
            "container lo 0, of 0 before DEL ok",
        ]
    );
    // Another fault of the plugins: the Go tuning gives no sysctl back.
    assert_eq!(
        outcome.table("What tuning set and gave back"),
        ["net.core.somaxconn 4096, then 512, then 512 FAILED", TUNED[1]]
    );
    assert_eq!(outcome.complaint, "cni-chain: the demo FAILED in 3 of the above\n");
    assert_eq!(outcome.status, 1);
}

/// This workspace's plugins: `CNI_CHAIN_BIN_DIR`, or beside the command.
fn our_plugins() -> PathBuf {
    let beside = || Path::new(PROGRAM).parent().expect("a directory").to_owned();
    let dir = std::env::var_os("CNI_CHAIN_BIN_DIR").map_or_else(beside, PathBuf::from);
    assert!(
        dir.join("portmap").is_file(),
        "{} has no portmap: run `cargo build --workspace` first",
        dir.display()
    );
    dir
}

fn with_our_portmap() {
    let outcome = demo(&our_plugins(), &[]);
    assert!(outcome.screen.contains(r#""cniVersion": "1.1.0""#), "{}", outcome.screen);
    assert_eq!(outcome.table("ADD"), ANSWERS, "{}", outcome.complaint);
    let limit = outcome.table("How fast it comes out of the container");
    assert!(limit[0].starts_with("http://192.0.2.1:8080/flood 20 Mbit/s "), "{limit:?}");
    assert!(limit[0].ends_with(" Mbit/s ok"), "{limit:?}");
    assert!(outcome.screen.contains("\nCHECK  demo-bridge "), "{}", outcome.screen);
    assert_eq!(
        outcome.table("Somebody flushes the tables")[..2],
        [
            "nft flush ruleset http://192.0.2.1:8080/ refused ok",
            "cni-chain restore http://192.0.2.1:8080/ 200 OK, \"hello\" ok",
        ]
    );
    let restored = "\n  demo/demo-container/eth0: restored portmap, firewall\n";
    assert!(outcome.screen.contains(restored), "{}", outcome.screen);
    assert_eq!(outcome.table("DEL"), REFUSALS, "{}", outcome.complaint);
    // How many entries it takes is the plugin's business, but some, and none afterwards.
    let [outside, host, container] = &outcome.table("What is left")[..] else {
        panic!("{}", outcome.screen);
    };
    assert_eq!(outside, "outside lo ext0 0, of 0 before DEL ok");
    assert!(host.starts_with("host lo ext0 0, of ") && host.ends_with(" before DEL ok"), "{host}");
    assert!(!host.contains("of 0"), "{host}");
    assert_eq!(container, "container lo 0, of 0 before DEL ok");
    assert_eq!(outcome.table("What tuning set and gave back"), TUNED);
    assert!(outcome.screen.contains("\nAll as it should be"), "{}", outcome.screen);
    assert_eq!((outcome.status, outcome.complaint.as_str()), (0, ""));
}

/// A plugin directory with our `tuning`, a `portmap` that answers as this shell script does, and a
/// `bandwidth` and a `firewall` that do nothing.
fn fake_portmap(dir: &Path, script: &str) -> PathBuf {
    for (name, script) in [("portmap", script), ("bandwidth", IDLE), ("firewall", IDLE)] {
        let file = dir.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}")).expect("the plugin");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    fs::copy(our_plugins().join("tuning"), dir.join("tuning")).expect("our tuning");
    dir.to_path_buf()
}

/// Does nothing and says that all went well.
const IDLE: &str = r#"case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}' ;;
ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.88.0.2/24"}]}' ;;
esac
"#;

/// Where the demo has no directory of its own.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/tmp").expect("a directory")
}

fn a_portmap_that_maps_nothing_is_found_out() {
    let scratch = scratch();
    let outcome = demo(&fake_portmap(scratch.path(), IDLE), &[]);
    assert!(outcome.screen.contains(r#""cniVersion": "1.1.0""#), "{}", outcome.screen);
    let answers = outcome.table("ADD");
    assert_eq!(answers[0], "outside http://192.0.2.1:8080/ refused - FAILED");
    assert!(answers.iter().all(|line| line.ends_with("refused - FAILED")), "{answers:?}");
    // The main plugin's CHECK is not the one that fails.
    assert!(outcome.screen.contains("\nCHECK  demo-bridge "), "{}", outcome.screen);
    assert_eq!(outcome.table("DEL"), REFUSALS);
    assert_eq!(outcome.complaint, "cni-chain: the demo FAILED in 10 of the above\n");
    assert_eq!(outcome.status, 1);
}

fn what_a_chain_leaves_is_found_out() {
    let scratch = scratch();
    let leaves = r#"case $CNI_COMMAND in
ADD)
    nft add table ip leak
    nft add chain ip leak input
    nft add rule ip leak input accept comment '"demo/demo-container/eth0"'
    nft add set ip leak ports '{ type inet_service; }'
    nft add element ip leak ports '{ 1 comment "demo/demo-container/eth0" }'
    nsenter --net="$CNI_NETNS" ip link add leak type veth peer name leak2 ;;
esac
"#;
    let outcome = demo(&fake_portmap(scratch.path(), &format!("{leaves}{IDLE}")), &[]);
    assert_eq!(
        outcome.table("What is left"),
        [
            "outside lo ext0 0, of 0 before DEL ok",
            "host lo ext0 2, of 2 before DEL FAILED",
            "container lo leak2 leak 0, of 0 before DEL FAILED",
        ],
        "{}",
        outcome.complaint
    );
    assert_eq!(outcome.status, 1);
}

fn a_failing_add_is_reported_and_leaves_nothing() {
    let scratch = scratch();
    let fails = r#"case $CNI_COMMAND in
ADD) echo '{"code":101,"msg":"no room for a port"}'; exit 1 ;;
esac
"#;
    let outcome = demo(&fake_portmap(scratch.path(), &format!("{fails}{IDLE}")), &[]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.complaint.starts_with("cni-chain: ADD of the chain failed: "));
    assert!(outcome.complaint.contains("no room for a port"), "{}", outcome.complaint);
}

fn a_missing_plugin_is_named_with_the_remedy() {
    let scratch = scratch();
    let outcome = demo(scratch.path(), &[]);
    assert_eq!((outcome.status, outcome.screen.as_str()), (1, ""));
    assert_eq!(outcome.complaint.lines().count(), 1, "{}", outcome.complaint);
    assert!(
        outcome.complaint.starts_with(
            "cni-chain: cannot use plugin \"portmap\": name its directory with --plugin-dir: "
        ),
        "{}",
        outcome.complaint
    );
}

fn nobody_needs_no_root() {
    let dir = our_plugins();
    let dir = dir.to_str().expect("UTF-8");
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let outcome = run(&[&nobody[..], &[PROGRAM, "demo", "--plugin-dir", dir]].concat());
    assert_eq!((outcome.complaint.as_str(), outcome.status), ("", 0), "{}", outcome.screen);
    assert_eq!(outcome.table("ADD"), ANSWERS);
    assert_eq!(outcome.table("What tuning set and gave back"), TUNED);
}

fn where_only_root_may_there_is_one_sentence() {
    // Whoever is mapped to nobody in a user namespace may not make another.
    let outcome = run(&["unshare", "--user", PROGRAM, "demo"]);
    assert_eq!((outcome.status, outcome.screen.as_str()), (1, ""));
    assert_eq!(
        outcome.complaint,
        "cni-chain: the demo needs namespaces of its own: run it with sudo: this host lets only root \
         make them (Operation not permitted (os error 1))\n"
    );
}

fn the_setting_that_lets_only_root_is_named() {
    // The setting is each user namespace's own; where the box has it, it is read-only.
    sh("mkdir /opt/proc; mount -t proc proc /opt/proc");
    let forbid = "echo 0 >/opt/proc/sys/user/max_user_namespaces; exec setpriv --inh-caps=-all --ambient-caps=-all \"$@\"";
    let somebody =
        ["unshare", "--user", "--map-user=1000", "--keep-caps", "sh", "-c", forbid, "sh"];
    let outcome = run(&[&somebody[..], &[PROGRAM, "demo"]].concat());
    assert_eq!((outcome.status, outcome.screen.as_str()), (1, ""));
    assert_eq!(
        outcome.complaint,
        "cni-chain: the demo needs namespaces of its own: run it with sudo: this host lets only root \
         make them (user.max_user_namespaces is 0)\n"
    );
}

fn a_plugin_directory_that_would_be_hidden_is_refused() {
    let script = "mkdir /run/plugins; exec \"$@\"";
    let arguments = [PROGRAM, "demo", "--plugin-dir", "/run/plugins"];
    let output = on_the_machine(script, &arguments).output().expect("sh");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "cni-chain: /run/plugins would be hidden, as the demo has a /run of its own: \
         copy it elsewhere\n"
    );
}

fn these_tests_notice_a_change_of_the_machine() {
    must_fail("a new interface", || drop(run(&["ip", "link", "add", "br0", "type", "bridge"])));
}

fn kept_namespaces_can_be_entered() {
    let arguments = [PROGRAM, "demo", "--keep", "--plugin-dir"];
    let arguments = [&arguments[..], &[go_plugins().to_str().expect("UTF-8")]].concat();
    let mut child = on_the_machine(UNCHANGED, &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut screen = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = || screen.next().expect("more lines").expect("UTF-8");

    while next() != "Look around from another terminal, as root" {}
    let ways = [next(), next(), next()];
    while next() != "Enter cleans up." {}
    let links = ways.map(|way| {
        let (place, enter) = way.trim().split_once("  ").expect("two columns");
        let script = format!("{enter} cut -d: -f1 /proc/thread-self/net/dev");
        let output = Command::new("sh").args(["-c", &script]).output().expect("sh");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let mut names: Vec<_> = text.lines().skip(2).map(|line| line.trim().to_owned()).collect();
        names.retain(|name| !name.starts_with("demo") || name == "demo0");
        // The limit's.
        names.retain(|name| !name.starts_with("bwp"));
        names.sort();
        format!("{place}: {}", names.join(" "))
    });
    writeln!(stdin).expect("Enter");
    drop(stdin);
    let rest: Vec<String> = screen.map(|line| line.expect("UTF-8")).collect();

    assert_eq!(links, ["outside: ext0 lo", "host: demo0 ext0 lo", "container: eth0 lo"]);
    assert!(rest.iter().any(|line| line.starts_with("DEL  tuning ")), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("--keep")), "{rest:?}");
    let output = child.wait_with_output().expect("the demo");
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint, "cni-chain: the demo FAILED in 3 of the above\n");
}

/// Drives the built-in plugin as a runtime would; `call` prints an error's code and message.
const BRIDGE: &str = r#"
ln -s "$1" /mnt/demo-bridge
mkdir -p /run/netns; ip netns add c
export CNI_PATH=/mnt CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/c
call() {
    if CNI_COMMAND=$1 /mnt/demo-bridge >/mnt/out <<END
{"cniVersion":"1.1.0","name":"n","type":"demo-bridge","bridge":"br0",
 "addresses":["10.9.0.7/24","fd09::7/64"]${2-}}
END
    then echo "$1 ok"; else echo "$1" $(grep -o '"code": [0-9]*' /mnt/out) $(grep '"msg"' /mnt/out); fi
}
call STATUS
call CHECK
call ADD; tr -d ' \n' </mnt/out | grep -o '"routes".*'; echo
call CHECK
call ADD
call CHECK
ip netns exec c ping -q -c1 -W2 10.9.0.1 >/dev/null && echo v4
ip netns exec c ping -q -c1 -W2 fd09::1 >/dev/null && echo v6
ip netns exec c ip addr del fd09::7/64 dev eth0;  call CHECK;  call ADD
ip netns exec c ip route del default;             call CHECK;  call ADD
ip netns exec c ip link set eth0 down;            call CHECK;  call ADD
port=$(ip -o link show master br0 | cut -d: -f2 | cut -d@ -f1)
bridge link set dev $port hairpin off;            call CHECK;  call ADD
port=$(ip -o link show master br0 | cut -d: -f2 | cut -d@ -f1)
ip link set $port nomaster;                       call CHECK;  call ADD
ip addr del 10.9.0.1/24 dev br0;                  call CHECK;  call ADD
call GC
call GC ',"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]';  call CHECK
call GC ',"cni.dev/valid-attachments":[]';                                      call CHECK
ip -o link | wc -l
call ADD
call DEL
call DEL
ip -o link | wc -l
ip link add br0 type bridge; call ADD; call DEL; ip -o link | wc -l; ip link del br0
ip link add br0 type veth peer name br1; call ADD
"#;

fn the_built_in_plugin_keeps_its_promises() {
    let output = on_the_machine(BRIDGE, &[PROGRAM]).output().expect("sh");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let screen = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = screen
        .lines()
        .map(|line| line.replace("\"code\": ", "").replace("\"msg\": ", ""))
        .filter(|line| !line.is_empty())
        .collect();
    // The host's end of the pair is named after a digest of the attachment.
    let port = lines.iter().find_map(|line| line.split_once("is not in hairpin"));
    let port = port.and_then(|(head, _)| head.trim().rsplit('"').next()).expect("a hairpin line");
    let no_port = format!(r#"CHECK 100 "{port} is no port of br0","#);
    let no_hairpin = format!(r#"CHECK 100 "{port} is not in hairpin mode","#);
    assert_eq!(
        lines,
        [
            "STATUS ok",
            r#"CHECK 100 "bridge br0 is gone","#,
            "ADD ok",
            r#""routes":[{"dst":"0.0.0.0/0","gw":"10.9.0.1"},{"dst":"::/0","gw":"fd09::1"}]}"#,
            "CHECK ok",
            "ADD ok",
            "CHECK ok",
            "v4",
            "v6",
            r#"CHECK 100 "eth0 has lost fd09::7/64","#,
            "ADD ok",
            r#"CHECK 100 "no default route by 10.9.0.1","#,
            "ADD ok",
            r#"CHECK 100 "eth0 is down","#,
            "ADD ok",
            &no_hairpin,
            "ADD ok",
            &no_port,
            "ADD ok",
            r#"CHECK 100 "br0 has lost 10.9.0.1/24","#,
            "ADD ok",
            // A GC that is told of no attachments touches none.
            "GC ok",
            "GC ok",
            "CHECK ok",
            "GC ok",
            r#"CHECK 100 "bridge br0 is gone","#,
            "1",
            "ADD ok",
            "DEL ok",
            "DEL ok",
            "1",
            // A bridge that was there before is not the plugin's to remove.
            "ADD ok",
            "DEL ok",
            "2",
            r#"ADD 7 "br0 exists and is not a bridge: set another \"bridge\"""#,
        ],
        "{complaint}"
    );
}
