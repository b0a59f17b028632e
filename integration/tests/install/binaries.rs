//! Programs: in, in again, and out.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use cni_testbox::{GO_PLUGINS, attempt, bare_cases, sh, tool};

use crate::host::{DIR, PLUGINS, banner, built, fails, files, is_ours, succeeds, with_go_plugins};

bare_cases! {
    plugins_go_in_and_what_was_there_comes_back;
    a_second_time_changes_nothing;
    a_host_without_plugins_has_none_afterwards;
    only_what_is_asked_for_goes_in;
    what_the_host_brought_in_meanwhile_comes_back;
    what_cannot_be_run_in_an_image_is_kept_if_it_is_whole;
    a_link_comes_back_as_a_link;
    a_dry_run_changes_nothing;
    what_does_not_run_replaces_nothing;
    a_killed_call_leaves_each_file_whole;
    two_at_the_same_time_do_no_harm;
}

fn plugins_go_in_and_what_was_there_comes_back() {
    with_go_plugins();
    let before = files(DIR);
    let said = succeeds(&["install"]);
    assert!(said.contains("plugins are in /opt/cni/bin: there are CNI plugins"), "{said}");
    for name in PLUGINS {
        assert!(is_ours(name), "{name}");
        assert!(said.contains(&format!("kept what was there as {DIR}/{name}.go-backup")), "{said}");
        let backup = &files(DIR)[&format!("{name}.go-backup")];
        assert_eq!(*backup, before[name]);
    }
    assert_eq!(
        fs::metadata(format!("{DIR}/portmap")).expect("there").permissions().mode() & 0o7777,
        0o755
    );
    assert!(Path::new(DIR).join("cni-chain").is_file());
    let said = succeeds(&["uninstall"]);
    assert!(said.contains(&format!("put back: {DIR}/tuning")), "{said}");
    assert_eq!(files(DIR), before);
    // And once more there is nothing of it left to take out.
    succeeds(&["uninstall"]);
    assert_eq!(files(DIR), before);
}

fn a_second_time_changes_nothing() {
    with_go_plugins();
    succeeds(&["install"]);
    let once = files(DIR);
    let said = succeeds(&["install"]);
    assert_eq!(said.matches("is there already").count(), PLUGINS.len() + 1, "{said}");
    assert_eq!(files(DIR), once);
    // By the installed command, from where it is.
    let output = attempt(&format!("{DIR}/cni-chain install"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(files(DIR), once);
    // Which has nothing to install where another's plugin is.
    sh(&format!("cp {GO_PLUGINS}/portmap {DIR}/new && mv {DIR}/new {DIR}/portmap"));
    let output = attempt(&format!("{DIR}/cni-chain install"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/opt/cni/bin/portmap is not cni-chain's by now"), "{output:?}");
}

fn a_host_without_plugins_has_none_afterwards() {
    let said = succeeds(&["install", "--bin-dir", DIR]);
    assert!(PLUGINS.iter().all(|name| is_ours(name)) && !said.contains("kept"), "{said}");
    succeeds(&["uninstall", "--bin-dir", DIR]);
    assert!(files(DIR).is_empty());
}

fn only_what_is_asked_for_goes_in() {
    with_go_plugins();
    let before = files(DIR);
    succeeds(&["install", "--plugins", "portmap,tuning"]);
    for name in PLUGINS {
        assert_eq!(is_ours(name), ["portmap", "tuning"].contains(&name), "{name}");
    }
    succeeds(&["uninstall"]);
    assert_eq!(files(DIR), before);
    fails(&["install", "--plugins", "bridge"]);
    assert_eq!(files(DIR), before);
}

/// A newer Go plugin over ours, as an update of the host brings it.
fn what_the_host_brought_in_meanwhile_comes_back() {
    with_go_plugins();
    succeeds(&["install", "--plugins", "portmap"]);
    let newer = format!("{DIR}/portmap");
    fs::remove_file(&newer).expect("there");
    fs::copy(Path::new(GO_PLUGINS).join("vrf"), &newer).expect("another program");
    let brought = fs::read(&newer).expect("there");
    succeeds(&["install", "--plugins", "portmap"]);
    assert!(is_ours("portmap"));
    // What does not run is replaced, and never takes the place of what would come back.
    fs::remove_file(&newer).expect("there");
    fs::write(&newer, "half of it").expect("written");
    let said = succeeds(&["install", "--plugins", "portmap"]);
    assert!(said.contains("in place of one that does not run"), "{said}");
    succeeds(&["uninstall"]);
    assert_eq!(fs::read(&newer).expect("there"), brought);
    // Over ours once more, and not installed again: it stays.
    succeeds(&["install", "--plugins", "tuning"]);
    fs::copy(Path::new(GO_PLUGINS).join("sbr"), format!("{DIR}/sbr")).expect("another program");
    fs::rename(format!("{DIR}/sbr"), format!("{DIR}/tuning")).expect("as others install");
    let said = succeeds(&["uninstall"]);
    assert!(said.contains(&format!("{DIR}/tuning is not cni-chain's, and stays")), "{said}");
    let mut left: Vec<String> = files(DIR).into_keys().collect();
    left.sort();
    assert_eq!(left, ["bandwidth", "bridge", "firewall", "host-local", "portmap", "tuning"]);
}

/// Debian's plugins need a loader, which an image of static programs does not have.
fn what_cannot_be_run_in_an_image_is_kept_if_it_is_whole() {
    with_go_plugins();
    sh("mkdir -p /run/image/host && mount --bind /opt/cni/bin /run/image/host");
    for name in ["portmap", "cni-chain"] {
        fs::copy(built().join(name), Path::new("/run/image").join(name)).expect("ours");
    }
    let install =
        || sh("chroot /run/image /cni-chain install --from / --bin-dir /host --plugins portmap");
    install();
    let portmap = format!("{DIR}/portmap");
    let overwrite = |content: &[u8]| {
        fs::write(format!("{DIR}/new"), content).expect("a copy");
        fs::set_permissions(format!("{DIR}/new"), Permissions::from_mode(0o755)).expect("ours");
        fs::rename(format!("{DIR}/new"), &portmap).expect("as others install");
    };
    // Another program for a newer one.
    let newer = fs::read(Path::new(GO_PLUGINS).join("vrf")).expect("Debian's");
    overwrite(&newer);
    let said = install();
    assert!(said.contains("kept what was there as /host/portmap.go-backup"), "{said}");
    overwrite(&newer[..newer.len() / 2]);
    let said = install();
    assert!(said.contains("in place of one that does not run"), "{said}");
    succeeds(&["uninstall"]);
    assert!(fs::read(&portmap).expect("there") == newer);
}

/// As k3s has them: names of one program.
fn a_link_comes_back_as_a_link() {
    fs::create_dir_all(DIR).expect("a copy of /opt");
    fs::copy(Path::new(GO_PLUGINS).join("portmap"), format!("{DIR}/cni")).expect("Debian's");
    symlink("cni", format!("{DIR}/portmap")).expect("a link");
    let before = files(DIR);
    succeeds(&["install", "--plugins", "portmap"]);
    assert!(is_ours("portmap") && banner(&format!("{DIR}/cni")).contains("portmap"));
    succeeds(&["uninstall"]);
    assert_eq!(files(DIR), before);
    assert_eq!(fs::read_link(format!("{DIR}/portmap")).expect("a link"), Path::new("cni"));
}

fn a_dry_run_changes_nothing() {
    with_go_plugins();
    let before = files(DIR);
    let said = succeeds(&["install", "--dry-run"]);
    assert!(said.contains("would be installed: /opt/cni/bin/portmap, and kept"), "{said}");
    assert_eq!(files(DIR), before);
    succeeds(&["install"]);
    let installed = files(DIR);
    let said = succeeds(&["uninstall", "--dry-run"]);
    assert!(said.contains("would be put back: /opt/cni/bin/portmap"), "{said}");
    assert_eq!(files(DIR), installed);
}

fn what_does_not_run_replaces_nothing() {
    with_go_plugins();
    let before = files(DIR);
    for program in
        ["#!/bin/sh\nexit 1\n", "\x7fELF half a program", "#!/bin/sh\necho CNI firewall\n"]
    {
        let from = Path::new("/run/from");
        fs::create_dir_all(from).expect("a directory");
        for name in ["portmap", "tuning", "cni-chain"] {
            fs::copy(built().join(name), from.join(name)).expect("ours");
        }
        fs::write(from.join("firewall"), program).expect("written");
        let said =
            fails(&["install", "--from", "/run/from", "--plugins", "portmap,firewall,tuning"]);
        assert!(
            said.contains("nothing was replaced: the firewall to install does not run"),
            "{said}"
        );
        assert_eq!(files(DIR), before, "{program:?}");
    }
    fs::remove_file("/run/from/firewall").expect("there");
    let said = fails(&["install", "--from", "/run/from"]);
    assert!(said.contains("cannot read /run/from/bandwidth; name the directory"), "{said}");
    assert_eq!(files(DIR), before);
}

/// At each rename: the plugin's place has the old one or the new one, and the next call goes on.
fn a_killed_call_leaves_each_file_whole() {
    with_go_plugins();
    let before = files(DIR);
    let ours = fs::read(built().join("portmap")).expect("ours");
    let mut killed = 0;
    for nth in 1..20 {
        let mut strace = tool("strace");
        strace.args(["-o", "/run/trace", "-e", "trace=rename"]);
        strace.args(["-e", &format!("inject=rename:signal=KILL:when={nth}")]);
        strace.args([env!("CARGO_BIN_EXE_cni-chain"), "install", "--plugins", "portmap"]);
        let succeeded = strace.status().expect("strace").success();
        let portmap = &files(DIR)["portmap"].content;
        assert!(*portmap == before["portmap"].content || *portmap == ours, "rename {nth}");
        if succeeded {
            break;
        }
        killed += 1;
    }
    // Of the backup, the plugin, and the command.
    assert_eq!(killed, 3);
    assert!(is_ours("portmap"));
    succeeds(&["uninstall"]);
    assert_eq!(files(DIR), before);
}

fn two_at_the_same_time_do_no_harm() {
    with_go_plugins();
    let before = files(DIR);
    let command = env!("CARGO_BIN_EXE_cni-chain");
    let output = attempt(&format!("{command} install & {command} install; wait $!"));
    assert!(output.status.success(), "{output:?}");
    assert!(PLUGINS.iter().all(|name| is_ours(name)));
    fs::set_permissions(DIR, Permissions::from_mode(0o755)).expect("ours");
    succeeds(&["uninstall"]);
    assert_eq!(files(DIR), before);
}
