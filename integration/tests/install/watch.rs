//! `install --watch` beside another installer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cni_testbox::{GO_PLUGINS, RunningWatch, bare_cases, eventually_within, sh};

use crate::host::{DIR, cni_chain, files, is_ours, succeeds, with_go_plugins};

bare_cases! {
    what_another_installer_replaced_is_installed_again;
    a_network_that_comes_later_or_is_written_again_gets_its_entries;
    a_watch_ends_at_once;
}

const FILE: &str = "/etc/cni/net.d/10-calico.conflist";
const LIST: &str = r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#;

struct Watch(RunningWatch);

impl Watch {
    fn start(arguments: &[&str]) -> Self {
        let mut command = cni_chain(&[&["install", "--watch"], arguments].concat());
        let watch = Self(RunningWatch::start(&mut command, Duration::from_secs(30)));
        watch.says("watching ");
        watch
    }

    #[track_caller]
    fn says(&self, beginning: &str) {
        self.0.says(beginning);
    }

    /// By the signal that a pod's end begins with.
    #[track_caller]
    fn ends(mut self) {
        sh(&format!("kill -TERM {}", self.0.child.id()));
        let mut status = None;
        for _ in 0..100 {
            status = self.0.child.try_wait().expect("a child of ours");
            if status.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = status.expect("it ends within two seconds");
        assert!(status.success(), "{status}");
    }
}

#[track_caller]
fn becomes_ours(name: &str) {
    eventually_within(Duration::from_secs(20), name, || is_ours(name));
}

fn what_another_installer_replaced_is_installed_again() {
    with_go_plugins();
    let before = files(DIR);
    let watch = Watch::start(&["--plugins", "portmap,bandwidth"]);
    assert!(is_ours("portmap") && is_ours("bandwidth") && !is_ours("tuning"));
    // As installers do it: by a rename, in place, and by deleting it first.
    for script in [
        format!("cp {GO_PLUGINS}/portmap {DIR}/portmap.tmp && mv {DIR}/portmap.tmp {DIR}/portmap"),
        format!("cat {GO_PLUGINS}/portmap > {DIR}/portmap"),
        format!("rm {DIR}/portmap && sleep 0.1 && cp {GO_PLUGINS}/portmap {DIR}/portmap"),
    ] {
        sh(&script);
        watch.says(&format!("installed: {DIR}/portmap, and kept what was there"));
        becomes_ours("portmap");
    }
    // All at once, as a whole directory is copied.
    sh(&format!("cp -f {GO_PLUGINS}/portmap {GO_PLUGINS}/bandwidth {GO_PLUGINS}/tuning {DIR}/"));
    becomes_ours("portmap");
    becomes_ours("bandwidth");
    assert!(!is_ours("tuning"), "that was not asked for");
    sh(&format!("rm {DIR}/bandwidth"));
    becomes_ours("bandwidth");
    watch.ends();
    succeeds(&["uninstall"]);
    let contents = |files: &std::collections::BTreeMap<String, crate::host::Identity>| {
        files.iter().map(|(name, file)| (name.clone(), file.content.clone())).collect::<Vec<_>>()
    };
    assert!(contents(&files(DIR)) == contents(&before), "{:?}", files(DIR).keys());
}

fn a_network_that_comes_later_or_is_written_again_gets_its_entries() {
    with_go_plugins();
    fs::create_dir_all("/etc/cni/net.d").expect("a copy");
    let watch = Watch::start(&["--plugins", "portmap", "--append", "portmap", "--conflist", FILE]);
    let has_entry = || fs::read_to_string(FILE).is_ok_and(|text| text.contains("\"portmap\""));
    for _ in 0..2 {
        // Each by a new file, as Calico writes its.
        fs::write("/etc/cni/net.d/tmp", LIST).expect("a copy");
        fs::rename("/etc/cni/net.d/tmp", FILE).expect("a copy");
        watch.says(&format!("{FILE} has portmap now"));
        assert!(has_entry());
    }
    // A half-written one is waited for.
    fs::write(FILE, &LIST[..20]).expect("a copy");
    std::thread::sleep(Duration::from_secs(1));
    fs::write(FILE, LIST).expect("a copy");
    watch.says(&format!("{FILE} has portmap now"));
    watch.ends();
    succeeds(&["uninstall"]);
    assert_eq!(fs::read_to_string(FILE).expect("there"), LIST);
}

fn a_watch_ends_at_once() {
    assert!(!Path::new(DIR).exists(), "the box is fresh");
    let watch = Watch::start(&["--bin-dir", DIR, "--plugins", "portmap"]);
    watch.ends();
    assert!(is_ours("portmap"));
    // Its directory goes: whoever started it has to start it again when it is back.
    let mut watch = Watch::start(&["--bin-dir", DIR, "--plugins", "portmap"]);
    fs::remove_dir_all(DIR).expect("ours");
    let status = watch.0.child.wait().expect("a child of ours");
    assert_eq!(status.code(), Some(1));
}
