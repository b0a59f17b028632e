//! Keys, names and files that try to reach what they must not.

use std::fs;

use cni_testbox::{TestBox, cases, sh};

use crate::allowlist::allowlist;
use crate::support::{container, files, link, of, sysctl, tuning};

const MTU: &str = r#""mtu":1400"#;

/// Linux before 5.6, as far as the plugin can see.
const WITHOUT_OPENAT2: [&str; 6] =
    ["strace", "-f", "-o", "/run/trace", "-e", "inject=openat2:error=ENOSYS"];

/// What a call opens, as strace shows it, but for what every call opens.
fn opened(b: &TestBox, keys: &str, ifname: &str) -> Vec<String> {
    let calls =
        "trace=open,openat,openat2,creat,rename,renameat,renameat2,symlink,link,mkdir,unlink";
    let trace = ["strace", "-f", "-y", "-s", "4096", "-o", "/run/trace", "-e", calls];
    of("c1", ifname, "ADD", keys).under(&trace).run(b);
    let text = fs::read_to_string("/run/trace").expect("trace");
    text.lines().filter(|line| line.contains("open")).map(str::to_owned).collect()
}

/// Where a successful open led: strace -y writes the resolved path behind the descriptor.
fn reached(line: &str) -> Option<String> {
    let (_, result) = line.rsplit_once(" = ")?;
    let (_, path) = result.split_once('<')?;
    let path = path.strip_suffix('>')?;
    // Processes differ in their numbers.
    let names = path.split('/').map(|name| if name.parse::<u32>().is_ok() { "N" } else { name });
    Some(names.collect::<Vec<_>>().join("/"))
}

cases! {
    hostile_keys_open_nothing_outside, ours;
    an_interface_with_a_hostile_name_stays_one_name, ours;
    links_beneath_are_not_followed, ours;
    without_openat2_all_is_the_same, ours;
    a_forged_backup_reaches_nothing_else, ours;
    a_fifo_is_refused_and_not_waited_for, ours;
    no_link_is_followed_to_or_in_the_directory, ours;
    what_other_users_wrote_is_not_believed, ours;
    the_hosts_sysctls_are_never_set, ours;
    patterns_that_explode_elsewhere_do_not_here, ours;
}

fn hostile_keys_open_nothing_outside(b: &TestBox) {
    container("c1", "eth0");
    // Something to fall into, if a path could lead there.
    let precious = "/proc/sys/kernel/msgmax";
    let before = fs::read_to_string(precious).expect("msgmax");
    let mut usual: Vec<String> = opened(b, "", "eth0");
    usual.extend(opened(b, r#""sysctl":{"net.core.somaxconn":"601"}"#, "eth0"));
    let usual: Vec<String> = usual.iter().filter_map(|line| reached(line)).collect();
    let mut denied = 0;
    for key in [
        "kernel.msgmax",
        "net/../kernel/msgmax",
        "net.../kernel.msgmax",
        "net/../../etc/passwd",
        "/net/../kernel/msgmax",
        "net.core/../../kernel/msgmax",
        "../../etc/passwd",
        "net/core/../../kernel/msgmax",
        "net.core.somaxconn/../../../kernel/msgmax",
        "net/ipv4/conf/..//../../kernel/msgmax",
        "net.%2e%2e.kernel.msgmax",
        "net/./core/x",
        "net//proc/sys/kernel/msgmax",
        "/proc/sys/net/core/somaxconn",
        "net/core/somaxconn\\u0000x",
        "net/core/somaxconn\\n",
        "net.ipv4.conf.IFNAME.../../x",
        "net/ipv4/conf/./../../x",
        "net.ipv4.conf./proc/1/root",
        "net/self/fd/0",
        "net\\\\core\\\\somaxconn",
    ] {
        let keys = format!(r#""sysctl":{{"{key}":"9"}}"#);
        for line in opened(b, &keys, "eth0") {
            let Some(path) = reached(&line) else { continue };
            let inside = path.starts_with("/proc/sys/net/") || usual.contains(&path);
            assert!(inside, "{key}: {line}");
        }
        denied += usize::from(!tuning("ADD", &keys).run(b).succeeded());
        tuning("DEL", &keys).run(b).success();
    }
    assert_eq!(denied, 21);
    assert_eq!(fs::read_to_string(precious).expect("msgmax"), before);
}

fn an_interface_with_a_hostile_name_stays_one_name(b: &TestBox) {
    container("c1", "eth0");
    for name in ["..", ".", "a/b", "../../kernel"] {
        of("c1", name, "ADD", r#""sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1"}"#)
            .run(b)
            .expect_error_with(4, &[]);
    }
    sh(
        "ip -n c1 link set eth0 down; ip -n c1 link set eth0 name ..a..b; ip -n c1 link set ..a..b up",
    );
    let keys = r#""sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1"}"#;
    of("c1", "..a..b", "ADD", keys).run(b).success();
    assert_eq!(sysctl("c1", "ipv4/conf/..a..b/arp_filter"), "1");
    of("c1", "..a..b", "CHECK", keys).run(b).success();
    of("c1", "..a..b", "DEL", keys).run(b).success();
    assert_eq!(sysctl("c1", "ipv4/conf/..a..b/arp_filter"), "0");
}

fn links_beneath_are_not_followed(b: &TestBox) {
    container("c1", "eth0");
    // A mount that somebody put in the way, with a link to the outside.
    sh("mkdir /run/trap && touch /run/prey && ln -s /run/prey /run/trap/somaxconn \
        && nsenter --net=/run/netns/c1 mount --bind /run/trap /proc/sys/net/core");
    let add = tuning("ADD", r#""sysctl":{"net.core.somaxconn":"601"}"#);
    add.run(b).expect_error_with(101, &["net.core.somaxconn"]);
    add.under(&WITHOUT_OPENAT2).run(b).expect_error_with(101, &["net.core.somaxconn"]);
    assert_eq!(fs::read_to_string("/run/prey").expect("prey"), "");
}

fn without_openat2_all_is_the_same(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""sysctl":{"net.core.somaxconn":"601","net.ipv4.conf.IFNAME.arp_filter":"1"}"#;
    let before = sysctl("c1", "core/somaxconn");
    tuning("ADD", keys).under(&WITHOUT_OPENAT2).run(b).success();
    assert_eq!(sysctl("c1", "core/somaxconn"), "601");
    tuning("CHECK", keys).under(&WITHOUT_OPENAT2).run(b).success();
    tuning("DEL", keys).under(&WITHOUT_OPENAT2).run(b).success();
    assert_eq!(sysctl("c1", "core/somaxconn"), before);
    tuning("ADD", r#""sysctl":{"net.core.none":"1"}"#)
        .under(&WITHOUT_OPENAT2)
        .run(b)
        .expect_error_with(101, &["there is no such sysctl"]);
}

fn a_forged_backup_reaches_nothing_else(b: &TestBox) {
    container("c1", "eth0");
    let keys = r#""mtu":1400"#;
    tuning("ADD", keys).run(b).success();
    let state = "/run/cni/tuning/c1@eth0.state";
    let text = fs::read_to_string(state).expect("state");
    let forged = r#"{"sysctl":"/proc/sys/net/../kernel/msgmax","value":"9"}"#;
    fs::write(state, text.replace(r#"{"mtu":1500}"#, forged)).expect("forge");
    let before = fs::read_to_string("/proc/sys/kernel/msgmax").expect("msgmax");
    let outcome = tuning("DEL", keys).run(b).success();
    assert!(outcome.stderr.contains("is of no use"), "{outcome}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").expect("msgmax"), before);
}

fn a_fifo_is_refused_and_not_waited_for(b: &TestBox) {
    container("c1", "eth0");
    let soon = ["timeout", "5"];
    sh("mkdir -p /run/cni/tuning /etc/cni/tuning; chmod 700 /run/cni/tuning; mkfifo /run/fifo");
    let in_fifo = |command| tuning(command, MTU).env("CNI_NETNS", "/run/fifo").under(&soon);
    in_fifo("ADD").run(b).expect_error_with(8, &["/run/fifo"]);
    in_fifo("CHECK").run(b).expect_error_with(8, &["/run/fifo"]);
    in_fifo("DEL").run(b).success();

    let keys = r#""mtu":1400,"dataDir":"/run/fifo""#;
    tuning("ADD", keys)
        .under(&soon)
        .run(b)
        .expect_error_with(5, &["/run/fifo", "make it a directory"]);
    tuning("DEL", keys).under(&soon).run(b).success();
    let gc = r#""dataDir":"/run/fifo","cni.dev/valid-attachments":[]"#;
    tuning("GC", gc).under(&soon).run(b).success();

    for file in ["c1@eth0.state", "c1_eth0.json"] {
        let path = format!("/run/cni/tuning/{file}");
        sh(&format!("mkfifo {path}"));
        tuning("ADD", MTU).under(&soon).run(b).expect_error_with(5, &[file, "no regular file"]);
        tuning("DEL", MTU).under(&soon).run(b).success();
        assert!(!fs::exists(&path).expect("look"), "{path}");
    }
    sh("mkfifo /run/cni/tuning/c1@eth0.state.tmp /etc/cni/tuning/allowlist.conf");
    tuning("ADD", MTU).under(&soon).run(b).success();
    let sysctl = r#""sysctl":{"net.core.somaxconn":"601"}"#;
    tuning("ADD", sysctl)
        .under(&soon)
        .run(b)
        .expect_error_with(5, &["allowlist.conf", "make it a text file"]);
}

fn no_link_is_followed_to_or_in_the_directory(b: &TestBox) {
    container("c1", "eth0");
    // What anybody on the host may do where anybody can write.
    sh("mkdir -m 1777 /run/shared; mkdir /run/theirs; ln -s /run/theirs /run/shared/tuning");
    let keys = r#""mtu":1400,"dataDir":"/run/shared/tuning""#;
    tuning("ADD", keys).run(b).expect_error_with(5, &["/run/shared/tuning", "not a link"]);
    tuning("DEL", keys).run(b).success();
    assert_eq!(files("/run/theirs"), [""; 0]);

    sh(
        "rm /run/shared/tuning; echo precious >/run/prey; chmod 644 /run/prey; mkdir -m 700 /run/shared/tuning",
    );
    for name in ["c1@eth0.state", "c1@eth0.state.tmp"] {
        let link = format!("/run/shared/tuning/{name}");
        sh(&format!("ln -s /run/prey {link}"));
        tuning("ADD", keys).run(b);
        assert_eq!(fs::read_to_string("/run/prey").expect("prey"), "precious\n");
        tuning("DEL", keys).run(b).success();
        assert_eq!(files("/run/shared/tuning"), [""; 0]);
    }
    tuning("ADD", keys).run(b).success();
    assert_eq!(sh("stat -c %a /run/shared/tuning /run/shared/tuning/*"), "700\n600\n");
    tuning("DEL", keys).run(b).success();
}

fn what_other_users_wrote_is_not_believed(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", MTU).run(b).success();
    let state = "/run/cni/tuning/c1@eth0.state";
    sh(&format!("chown 1000 {state}"));
    tuning("ADD", r#""mtu":1300"#).run(b).expect_error_with(5, &["another user"]);
    let outcome = tuning("DEL", MTU).run(b).success();
    assert!(outcome.stderr.contains("another user"), "{outcome}");
    assert_eq!(link("c1", "eth0").mtu, 1400);
    assert!(!fs::exists(state).expect("look"));
    for change in
        ["chown 1000 /run/cni/tuning", "chown 0 /run/cni/tuning; chmod 777 /run/cni/tuning"]
    {
        sh(change);
        tuning("ADD", MTU)
            .run(b)
            .expect_error_with(5, &["/run/cni/tuning", "only root can write to"]);
    }
}

fn the_hosts_sysctls_are_never_set(b: &TestBox) {
    container("c1", "eth0");
    sh("ip link add eth0 type veth peer name eth9");
    let somaxconn = || fs::read_to_string("/proc/sys/net/core/somaxconn").expect("the host's");
    let before = somaxconn();
    let both = r#""mtu":1400,"sysctl":{"net.core.somaxconn":"601"}"#;
    let host = |command, keys| {
        tuning(command, keys).env("CNI_NETNS", "/proc/1/ns/net").env("CNI_NETNS_OVERRIDE", "1")
    };
    host("ADD", both).run(b).expect_error_with(8, &["/proc/1/ns/net", "sets no sysctls"]);
    assert!(sh("ip link show eth0").contains("mtu 1500"));
    host("ADD", MTU).run(b).success();
    // Not even on the word of a file.
    let state = "/run/cni/tuning/c1@eth0.state";
    let forged = r#"{"sysctl":"/proc/sys/net/core/somaxconn","value":"9"},{"mtu":1500}"#;
    let text = fs::read_to_string(state).expect("state").replace(r#"{"mtu":1500}"#, forged);
    fs::write(state, text).expect("forge");
    host("DEL", both).run(b).success();
    assert!(sh("ip link show eth0").contains("mtu 1500"));
    assert_eq!(somaxconn(), before);
}

fn patterns_that_explode_elsewhere_do_not_here(b: &TestBox) {
    container("c1", "eth0");
    allowlist("(a*)*b|(a|a)*c|net.core.(x+x+)+y\n");
    let key = format!("net.core.{}", "x".repeat(200));
    tuning("ADD", &format!(r#""sysctl":{{"{key}":"1"}}"#))
        .run(b)
        .expect_error_with(7, &["is not allowed"]);
    allowlist("a{1000}{1000}{1000}\n");
    tuning("ADD", r#""sysctl":{"net.core.somaxconn":"1"}"#)
        .run(b)
        .expect_error_with(7, &["line 1 of"]);
}
