//! System calls that fail, calls that were killed, and processes that hold what a call needs.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use cni_testbox::{Call, TestBox, cases};

use crate::support::{DATA_DIR, Link, container, files, link, sysctl, tuning};

const MTU: &str = r#""mtu":1400"#;
const TUNED: &str = r#""mtu":1400,"sysctl":{"net.core.somaxconn":"601"}"#;
const STATE: &str = "/run/cni/tuning/c1@eth0.state";

fn present() -> (Link, String) {
    (link("c1", "eth0"), sysctl("c1", "core/somaxconn"))
}

/// Runs the call with an error injected, as strace words it. musl opens by `open` what glibc opens by `openat`.
#[track_caller]
pub(crate) fn fails_under(
    b: &TestBox,
    call: &Call,
    path: &str,
    injection: &str,
    code: u64,
    words: &[&str],
) {
    let inject = format!("inject={injection}");
    let mut wrapper = vec!["strace", "-f", "-o", "/run/trace", "-e", &inject];
    if !path.is_empty() {
        wrapper.extend(["-P", path]);
    }
    call.clone().under(&wrapper).run(b).expect_error_with(code, words);
}

cases! {
    a_lock_that_is_held_is_waited_for_but_not_for_ever, ours;
    what_may_pass_does_not_make_del_forget, ours;
    add_does_nothing_without_the_originals, ours;
    a_sysctl_without_a_value_can_be_set, ours;
    originals_that_cannot_be_read_are_not_replaced, ours;
    a_failed_add_that_cannot_be_taken_back_is_left_to_del, ours;
    what_a_killed_add_was_writing_goes_with_del, ours;
}

fn a_lock_that_is_held_is_waited_for_but_not_for_ever(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", TUNED).run(b).success();
    let (tuned, state) = (present(), fs::read(STATE).expect("state"));
    let held = File::open(DATA_DIR).expect("directory");
    held.lock().expect("lock");
    let started = Instant::now();
    let calls = [
        tuning("ADD", MTU),
        tuning("DEL", TUNED),
        tuning("GC", r#""cni.dev/valid-attachments":[]"#),
    ];
    std::thread::scope(|scope| {
        for call in &calls {
            scope.spawn(|| {
                call.run(b).expect_error_with(11, &[DATA_DIR, "try again", "has held its lock"]);
            });
        }
    });
    assert!(started.elapsed() > Duration::from_secs(5));
    assert_eq!((present(), fs::read(STATE).expect("state")), (tuned, state));
    drop(held);
    tuning("DEL", TUNED).run(b).success();
    assert_eq!(present().0.mtu, 1500);
}

fn what_may_pass_does_not_make_del_forget(b: &TestBox) {
    container("c1", "eth0");
    let before = present();
    tuning("ADD", TUNED).run(b).success();
    let del = tuning("DEL", TUNED);
    for (path, injection, code) in [
        ("/run/netns/c1", "?open,openat:error=EMFILE", 11),
        ("/run/netns/c1", "?open,openat:error=EACCES", 8),
        ("", "setns:error=EPERM", 8),
        ("", "setns:error=ENOMEM", 11),
        (DATA_DIR, "?open,openat:error=ENFILE", 11),
        (DATA_DIR, "?open,openat:error=EACCES", 5),
        (STATE, "read:error=EIO", 5),
        ("", "openat2:error=EMFILE", 11),
        ("", "socket:error=ENFILE", 11),
        ("", "recvfrom:error=EAGAIN", 11),
        ("/proc/sys/net/core/somaxconn", "pread64:error=ENOMEM", 11),
        ("/proc/sys/net/core/somaxconn", "pwrite64:error=ENOMEM", 11),
        ("", "unlinkat:error=EMFILE", 11),
        ("", "unlinkat:error=EIO", 5),
    ] {
        fails_under(b, &del, path, injection, code, &[]);
        assert!(fs::exists(STATE).expect("look"), "{injection} {path}");
        // What could be given back may be.
        let given_back = injection.starts_with("unlinkat");
        let somaxconn = if given_back { &before.1 } else { "601" };
        assert_eq!(sysctl("c1", "core/somaxconn"), somaxconn, "{injection} {path}");
    }
    del.run(b).success();
    assert_eq!(present(), before);
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn add_does_nothing_without_the_originals(b: &TestBox) {
    container("c1", "eth0");
    let before = present();
    let add = tuning("ADD", TUNED);
    let somaxconn = "/proc/sys/net/core/somaxconn";
    for (path, injection, code) in [
        ("/run/netns/c1", "?open,openat:error=EMFILE", 11),
        (somaxconn, "pread64:error=EIO", 101),
        (somaxconn, "pread64:error=ENOMEM", 11),
        // The first one finds out whether it can be written.
        ("", "openat2:error=EACCES:when=2", 101),
        ("", "openat2:error=EMFILE:when=2", 11),
        ("", "renameat,renameat2,rename:error=ENOSPC", 11),
    ] {
        fails_under(b, &add, path, injection, code, &[]);
        assert_eq!(present(), before, "{injection} {path}");
        assert_eq!(files(DATA_DIR), [""; 0], "{injection} {path}");
    }
}

fn a_sysctl_without_a_value_can_be_set(b: &TestBox) {
    container("c1", "eth0");
    // The kernel answers EIO until it has one, and takes none back.
    let keys = r#""sysctl":{"net.ipv6.conf.IFNAME.stable_secret":"2001:db8::1"}"#;
    tuning("CHECK", keys).run(b).expect_error_with(100, &["stable_secret has no value"]);
    for command in ["ADD", "CHECK", "DEL"] {
        tuning(command, keys).run(b).success();
    }
}

fn originals_that_cannot_be_read_are_not_replaced(b: &TestBox) {
    container("c1", "eth0");
    tuning("ADD", TUNED).run(b).success();
    let tuned = present();
    for (file, words) in
        [(STATE, "c1@eth0.state"), ("/run/cni/tuning/c1_eth0.json", "c1_eth0.json")]
    {
        fs::write(file, "{").expect("corrupt it");
        tuning("ADD", r#""mtu":1300"#)
            .run(b)
            .expect_error_with(5, &[words, "is of no use", "delete the attachment"]);
        assert_eq!((present(), fs::read(file).expect("file")), (tuned.clone(), b"{".to_vec()));
        // A runtime deletes what it could not add, and adds again.
        let outcome = tuning("DEL", TUNED).run(b).success();
        assert!(outcome.stderr.contains("the originals in it are lost"), "{outcome}");
        assert_eq!(files(DATA_DIR), [""; 0]);
        tuning("ADD", TUNED).run(b).success();
    }
}

fn a_failed_add_that_cannot_be_taken_back_is_left_to_del(b: &TestBox) {
    container("c1", "eth0");
    let before = present();
    let keys = r#""sysctl":{"net.core.somaxconn":"601","net.ipv4.ip_forward":"x"}"#;
    // The third write is the one that takes back.
    let add = tuning("ADD", keys);
    let path = "/proc/sys/net/core/somaxconn";
    fails_under(
        b,
        &add,
        path,
        "pwrite64:error=EPERM:when=2+",
        101,
        &["ip_forward", "not taken back"],
    );
    assert_eq!(sysctl("c1", "core/somaxconn"), "601");
    tuning("DEL", keys).run(b).success();
    assert_eq!(present(), before);
    assert_eq!(files(DATA_DIR), [""; 0]);
}

fn what_a_killed_add_was_writing_goes_with_del(b: &TestBox) {
    container("c1", "eth0");
    let draft = format!("{STATE}.tmp");
    let killed = |command, keys| {
        let kill = [
            "strace",
            "-f",
            "-o",
            "/run/trace",
            "-e",
            "inject=renameat,renameat2,rename:signal=SIGKILL",
        ];
        let outcome =
            tuning(command, keys).under(&kill).run_binary(&b.implementation.plugin("tuning"));
        assert!(!outcome.succeeded());
    };
    killed("ADD", TUNED);
    assert!(fs::exists(&draft).expect("look"));
    tuning("DEL", TUNED).run(b).success();
    assert_eq!(files(DATA_DIR), [""; 0]);
    killed("ADD", TUNED);
    tuning("ADD", TUNED).run(b).success();
    assert_eq!(files(DATA_DIR), ["c1@eth0.state"]);
    tuning("DEL", TUNED).run(b).success();
    killed("ADD", TUNED);
    tuning("GC", r#""cni.dev/valid-attachments":[]"#).run(b).success();
    assert_eq!(files(DATA_DIR), [""; 0]);
}
