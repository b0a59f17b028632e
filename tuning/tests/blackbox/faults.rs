//! System calls that fail, calls that were killed, and processes that hold what a call needs.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use crate::harness::{Call, DATA_DIR, Seen, files, link, ours, set_sysctl, sysctl};

const MTU: &str = r#""mtu":1400"#;
const TUNED: &str = r#""mtu":1400,"sysctl":{"net.core.somaxconn":"601"}"#;
const STATE: &str = "/run/cni/tuning/c1@eth0.state";

fn container() -> (Seen, String) {
    (link("c1", "eth0"), sysctl("c1", "core/somaxconn"))
}

/// Runs the call with an error injected, as strace words it.
#[track_caller]
fn fails_under(call: &Call, path: &str, injection: &str, code: u64, words: &[&str]) {
    let inject = format!("inject={injection}");
    let mut wrapper = vec!["strace", "-f", "-o", "/run/trace", "-e", &inject];
    if !path.is_empty() {
        wrapper.extend(["-P", path]);
    }
    call.clone().under(&wrapper).fails(code, words);
}

in_box! {
    fn a_lock_that_is_held_is_waited_for_but_not_for_ever() {
        ours("ADD", TUNED).ok();
        let (tuned, state) = (container(), fs::read(STATE).expect("state"));
        let held = File::open(DATA_DIR).expect("directory");
        held.lock().expect("lock");
        let started = Instant::now();
        let calls = [
            ours("ADD", MTU),
            ours("DEL", TUNED),
            ours("GC", r#""cni.dev/valid-attachments":[]"#).with(|c| c.version = "1.1.0".into()),
        ];
        std::thread::scope(|scope| {
            for call in &calls {
                scope.spawn(|| call.fails(11, &[DATA_DIR, "try again", "has held its lock"]));
            }
        });
        assert!(started.elapsed() > Duration::from_secs(5));
        assert_eq!((container(), fs::read(STATE).expect("state")), (tuned, state));
        drop(held);
        ours("DEL", TUNED).ok();
        assert_eq!(container().0.mtu, 1500);
    }

    fn what_may_pass_does_not_make_del_forget() {
        let before = container();
        ours("ADD", TUNED).ok();
        let del = ours("DEL", TUNED);
        for (path, injection, code) in [
            ("/run/netns/c1", "openat:error=EMFILE", 11),
            ("/run/netns/c1", "openat:error=EACCES", 8),
            ("", "setns:error=EPERM", 8),
            ("", "clone3,clone:error=EAGAIN", 11),
            (DATA_DIR, "openat:error=ENFILE", 11),
            (DATA_DIR, "openat:error=EACCES", 5),
            (STATE, "read:error=EIO", 5),
            ("", "openat2:error=EMFILE", 11),
            ("", "socket:error=ENFILE", 11),
            ("/proc/sys/net/core/somaxconn", "read:error=ENOMEM", 11),
            ("/proc/sys/net/core/somaxconn", "pwrite64:error=ENOMEM", 11),
        ] {
            fails_under(&del, path, injection, code, &[]);
            assert!(fs::exists(STATE).expect("look"), "{injection} {path}");
            // What could be given back may be.
            assert_eq!(sysctl("c1", "core/somaxconn"), "601", "{injection} {path}");
        }
        del.ok();
        assert_eq!(container(), before);
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn add_does_nothing_without_the_originals() {
        let before = container();
        let add = ours("ADD", TUNED);
        let somaxconn = "/proc/sys/net/core/somaxconn";
        for (path, injection, code) in [
            (somaxconn, "read:error=EIO", 101),
            (somaxconn, "read:error=ENOMEM", 11),
            // The first one finds out whether it can be written.
            ("", "openat2:error=EACCES:when=2", 101),
            ("", "openat2:error=EMFILE:when=2", 11),
            ("", "renameat,renameat2,rename:error=ENOSPC", 5),
        ] {
            fails_under(&add, path, injection, code, &[]);
            assert_eq!(container(), before, "{injection} {path}");
            assert_eq!(files(DATA_DIR), [""; 0], "{injection} {path}");
        }
    }

    fn a_sysctl_without_a_value_can_be_set() {
        // The kernel answers EIO until it has one, and takes none back.
        let keys = r#""sysctl":{"net.ipv6.conf.IFNAME.stable_secret":"2001:db8::1"}"#;
        for command in ["ADD", "CHECK", "DEL"] {
            ours(command, keys).ok();
        }
    }

    fn originals_that_cannot_be_read_are_not_replaced() {
        ours("ADD", TUNED).ok();
        let tuned = container();
        for (file, words) in [(STATE, "c1@eth0.state"), ("/run/cni/tuning/c1_eth0.json", "c1_eth0.json")] {
            fs::write(file, "{").expect("corrupt it");
            ours("ADD", r#""mtu":1300"#).fails(5, &[words, "is of no use", "delete the attachment"]);
            assert_eq!((container(), fs::read(file).expect("file")), (tuned.clone(), b"{".to_vec()));
            // A runtime deletes what it could not add, and adds again.
            let outcome = ours("DEL", TUNED).ok();
            assert!(outcome.stderr.contains("the originals in it are lost"), "{outcome:?}");
            assert_eq!(files(DATA_DIR), [""; 0]);
            ours("ADD", TUNED).ok();
        }
    }

    fn a_failed_add_that_cannot_be_taken_back_is_left_to_del() {
        let before = container();
        let keys = r#""sysctl":{"net.core.somaxconn":"601","net.ipv4.ip_forward":"x"}"#;
        // The third write is the one that takes back.
        let add = ours("ADD", keys);
        let path = "/proc/sys/net/core/somaxconn";
        fails_under(&add, path, "pwrite64:error=EPERM:when=2+", 101, &["ip_forward", "not taken back"]);
        assert_eq!(sysctl("c1", "core/somaxconn"), "601");
        ours("DEL", keys).ok();
        assert_eq!(container(), before);
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn what_a_killed_add_was_writing_goes_with_del() {
        let draft = format!("{STATE}.tmp");
        let killed = |command, keys| {
            let kill = ["strace", "-f", "-o", "/run/trace", "-e", "inject=renameat,renameat2,rename:signal=SIGKILL"];
            assert!(!ours(command, keys).under(&kill).run().succeeded());
        };
        killed("ADD", TUNED);
        assert!(fs::exists(&draft).expect("look"));
        ours("DEL", TUNED).ok();
        assert_eq!(files(DATA_DIR), [""; 0]);
        killed("ADD", TUNED);
        ours("ADD", TUNED).ok();
        assert_eq!(files(DATA_DIR), ["c1@eth0.state"]);
        ours("DEL", TUNED).ok();
        killed("ADD", TUNED);
        ours("GC", r#""cni.dev/valid-attachments":[]"#).with(|c| c.version = "1.1.0".into()).ok();
        assert_eq!(files(DATA_DIR), [""; 0]);
    }

    fn check_does_not_take_a_fault_for_a_mismatch() {
        ours("ADD", TUNED).ok();
        let check = ours("CHECK", TUNED);
        fails_under(&check, "", "openat2:error=EMFILE", 11, &[]);
        fails_under(&check, "/proc/sys/net/core/somaxconn", "read:error=ENOMEM", 11, &[]);
        set_sysctl("c1", "core/somaxconn", "600");
        check.fails(100, &["somaxconn"]);
    }
}
