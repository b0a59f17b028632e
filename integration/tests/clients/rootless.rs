//! All four plugins as an ordinary user, root in a user namespace and its network namespace: as nerdctl
//! does it with rootlesskit, and as podman does it by itself.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cni_testbox::{
    GO_PLUGINS, HOST_V4, Implementation, Namespace, OUT_V4, TestBox, Transport, cases,
    eventually_within, link, run, sh, tool,
};
use serde_json::{Value, json};

use crate::compat::Compat;
use crate::node::{self, PLUGINS};
use crate::{image, podman, rate};

cases! {
    as_nerdctl_does_it, backends;
    as_podman_does_it, backends;
    status_says_what_cannot_work, ours;
}

/// The user, who has 65536 more users to give to containers.
const USER: &str = "4711";
/// Not below /run, which the runtimes hide.
const HOME: &str = "/home/rootless";
const RUNTIME_DIR: &str = "/run/user/4711";
const PORT: u16 = 8080;

/// Furnishes the box as a host on which ordinary users may run containers.
fn furnish(b: &TestBox) {
    node::put_plugins(b.implementation);
    // The user may not get at the checkout.
    for name in ["portmap", "bandwidth", "tuning", "firewall", "cni-chain"] {
        let path = Path::new(PLUGINS).join(name);
        let _ = fs::remove_file(&path);
        fs::copy(b.implementation.plugin(name), path).expect("the box's own file system");
    }
    sh(&format!(
        "echo rootless:x:{USER}:{USER}::{HOME}:/bin/sh >> /etc/passwd
         echo rootless:x:{USER}: >> /etc/group
         echo rootless:100000:65536 > /etc/subuid
         echo rootless:100000:65536 > /etc/subgid
         mount -t tmpfs tmpfs /home
         mkdir -p {HOME} {RUNTIME_DIR}
         chown {USER}:{USER} {HOME} {RUNTIME_DIR}
         # As udev has it on a host.
         mknod --mode=666 /run/tun c 10 200
         mount --bind /run/tun /dev/net/tun
         # The box hides parts of its own, and then the kernel gives a user no other.
         mkdir /run/proc
         mount -t proc proc /run/proc"
    ));
}

/// A program as the user runs it after a login.
fn as_user(program: &str) -> Command {
    let mut command = tool("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--clear-groups", program])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs([("HOME", HOME), ("USER", "rootless"), ("XDG_RUNTIME_DIR", RUNTIME_DIR)])
        .current_dir("/");
    command
}

/// The namespaces of a process that is root in its own user namespace.
struct Inside {
    process: Child,
    pid: String,
    netns: Namespace,
}

impl Inside {
    /// `command` writes the number of its innermost process to [`HOME`]`/pid`, and stays.
    fn of(mut command: Command) -> Self {
        let file = Path::new(HOME).join("pid");
        let process = command.stdin(Stdio::null()).spawn().expect("it starts");
        let read = || fs::read_to_string(&file).unwrap_or_default();
        eventually_within(Duration::from_secs(20), "its namespaces are there", || {
            read().ends_with('\n')
        });
        let pid = read().trim().to_owned();
        fs::remove_file(&file).expect("a file of the user's");
        let netns = attach("rootless", &pid);
        Self { process, pid, netns }
    }

    /// A program inside, as root there.
    fn command(&self, program: &str) -> Command {
        let mut command = tool("nsenter");
        command.args(["--target", &self.pid, "--user", "--net", "--mount", program]);
        command.env("CNI_PATH", PLUGINS).current_dir("/");
        command
    }

    #[track_caller]
    fn cni_chain(&self, arguments: &[&str]) -> String {
        let mut command = self.command(&format!("{PLUGINS}/cni-chain"));
        run(command.args(arguments))
    }

    /// A process in a network namespace of its own.
    fn container(&self, id: &str) -> (Child, String, Namespace) {
        let mut command = self.command("unshare");
        let process = command.args(["--net", "sleep", "1000"]).spawn().expect("it starts");
        let pid = process.id().to_string();
        let own = || fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let outer = fs::read_link(format!("/proc/{}/ns/net", self.pid)).ok();
        eventually_within(Duration::from_secs(5), "the container's namespace", || {
            own().is_some_and(|own| Some(&own) != outer.as_ref())
                && fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|name| name == "sleep\n")
        });
        let netns = attach(id, &pid);
        (process, pid, netns)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The network namespace of a process under a name.
fn attach(name: &str, pid: &str) -> Namespace {
    run(tool("ip").args(["netns", "attach", name, pid]));
    Namespace::named(name)
}

/// rootlesskit as containerd-rootless.sh starts it.
fn rootlesskit() -> Inside {
    let mut command = as_user("rootlesskit");
    command
        .args(["--net=slirp4netns", "--disable-host-loopback"])
        .args(["--copy-up=/etc", "--copy-up=/run", "--copy-up=/var/lib"])
        .args([
            "sh",
            "-c",
            "rm -f /run/xtables.lock /run/cni /run/netns /var/lib/cni && \
               echo $$ > $HOME/pid && exec sleep 1000",
        ]);
    Inside::of(command)
}

/// nerdctl's chain, with bandwidth.
fn list(b: &TestBox) -> Value {
    let mut list = json!({ "cniVersion": "1.0.0", "name": "bridge", "plugins": [
        { "type": "bridge", "bridge": "nerdctl0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
          "ipam": { "type": "host-local", "routes": [{ "dst": "0.0.0.0/0" }],
            "ranges": [[{ "subnet": "10.4.0.0/24", "gateway": "10.4.0.1" }]] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
        { "type": "firewall", "ingressPolicy": "same-bridge" },
        { "type": "bandwidth", "ingressRate": 16_000_000, "ingressBurst": 800_000,
          "egressRate": 8_000_000, "egressBurst": 800_000 },
        { "type": "tuning", "mtu": 1400, "sysctl": { "net.core.somaxconn": "511" } },
    ]});
    if let Some(backend) = b.implementation.backend() {
        list["plugins"][1]["backend"] = json!(backend);
        list["plugins"][2]["backend"] = json!(backend);
    }
    list
}

fn as_nerdctl_does_it(b: &TestBox) {
    furnish(b);
    b.out.serve("out", 80);
    let path = format!("{HOME}/bridge.conflist");
    fs::write(&path, list(b).to_string()).expect("the user's home");
    let inside = rootlesskit();
    let (mut process, pid, web) = inside.container("web");
    web.serve("web", 80);
    let netns = format!("/proc/{pid}/ns/net");
    inside.cni_chain(&[
        "add",
        &path,
        &netns,
        "--publish",
        "8080:80",
        "--publish",
        "8080:80/udp",
        "--publish",
        "8081:81",
    ]);
    let serves = || {
        for transport in Transport::ALL {
            // slirp4netns' end, which a port driver leads to, and loopback.
            for address in ["10.0.2.100", "127.0.0.1", "10.4.0.1"] {
                inside.netns.reach(transport, address, PORT).by("web");
            }
            web.reach(transport, "10.0.2.100", PORT).by("web");
        }
    };
    serves();
    inside.cni_chain(&["check", &path, &netns]);
    let compat = Compat::of("rootless by rootlesskit", &version("rootlesskit", 2), b);
    compat.works("portmap", "ports in the user's network namespace");
    web.reach(Transport::Tcp, OUT_V4, 80).by("out");
    compat.works("firewall", "the outside, with ingressPolicy same-bridge");
    assert_eq!(web.read_sysctl("core/somaxconn"), "511");
    assert_eq!(link("web", "eth0").expect("an interface")["mtu"], 1400);
    compat.works("tuning", "mtu and a sysctl");
    let incoming = rate::carried(&inside.netns, ("10.0.2.100", 8081), (&web, 81));
    incoming.keeps_to("into the container", 16e6, 800e3);
    let outgoing = rate::carried(&web, ("10.4.0.1", 5001), (&inside.netns, 5001));
    outgoing.keeps_to("out of the container", 8e6, 800e3);
    compat.works("bandwidth", "both limits, measured");

    let flush = if b.implementation == Implementation::IptablesLegacy {
        "for t in nat filter raw; do iptables -t $t -F; iptables -t $t -X; done"
    } else {
        "nft flush ruleset"
    };
    run(inside.command("sh").args(["-c", flush]));
    inside.netns.cannot_reach(Transport::Tcp, "10.0.2.100", PORT);
    inside.cni_chain(&["restore"]);
    serves();
    inside.cni_chain(&["check", &path, &netns]);
    compat.works("all", "a flush, restore from the cache, CHECK");

    inside.cni_chain(&["del", &path, &netns]);
    inside.netns.cannot_reach(Transport::Tcp, "10.0.2.100", PORT);
    let left = run(inside.command("sh").args(["-c",
        "nft list ruleset; iptables-legacy-save -t nat; iptables-legacy-save -t filter; ip link show type ifb"]));
    assert!(!left.contains("web") && !left.contains("10.4.0.2") && !left.contains("bwp"), "{left}");
    compat.works("all", "DEL leaves nothing");
    process.kill().expect("a child of ours");
    process.wait().expect("a child of ours");
}

/// The number in what a program says of its version.
fn version(program: &str, word: usize) -> String {
    let text = run(tool(program).arg("--version"));
    text.split_whitespace().nth(word).expect("a version").trim_end_matches(',').to_owned()
}

fn podman_command(words: &str) -> Command {
    let mut command = as_user("podman");
    command
        .args(words.split_whitespace())
        .env("CONTAINERS_CONF", format!("{HOME}/containers.conf"));
    command
}

#[track_caller]
fn podman(words: &str) -> String {
    run(&mut podman_command(words)).trim().to_owned()
}

fn as_podman_does_it(b: &TestBox) {
    furnish(b);
    b.out.serve("out", 80);
    let networks = format!("{HOME}/net.d");
    podman::configure(&format!("{HOME}/containers.conf"), [PLUGINS, GO_PLUGINS], &networks);
    podman(&format!("load --quiet --input {}", image::archive(podman::IMAGE).display()));
    podman("network create a");
    // It is the user's file.
    let path = format!("{networks}/a.conflist");
    podman::edit_list(Path::new(&path), |plugins| {
        if let Some(backend) = b.implementation.backend() {
            podman::use_backend(plugins, backend);
        }
        plugins.pop();
        plugins.extend([
            json!({ "type": "bandwidth", "ingressRate": 16_000_000, "ingressBurst": 800_000,
                "egressRate": 8_000_000, "egressBurst": 800_000 }),
            json!({ "type": "tuning", "mtu": 1400, "sysctl": { "net.core.somaxconn": "511" } }),
        ]);
    });
    let options = "--publish 8080:80/tcp --publish 8080:80/udp";
    podman(&format!("run --detach --name web --network a {options} {}", podman::IMAGE));
    let pid = podman("inspect --format {{.State.Pid}} web");
    let web = attach("web", &pid);
    web.serve("web", 80);
    // podman's own port driver leads from the host to the container.
    for asker in [&b.out, &b.host] {
        for transport in Transport::ALL {
            asker.reach(transport, HOST_V4, PORT).by("web");
        }
    }
    let mut inside = podman_command("unshare --rootless-netns sh -c");
    inside.arg(format!("echo $$ > {HOME}/pid; exec sleep 1000"));
    let inside = Inside::of(inside);
    let compat = Compat::of("rootless podman", &version("podman", 2), b);
    for transport in Transport::ALL {
        inside.netns.reach(transport, "10.0.2.100", PORT).by("web");
        inside.netns.reach(transport, "127.0.0.1", PORT).by("web");
    }
    compat.works("portmap", "ports in the user's network namespace");
    web.reach(Transport::Tcp, OUT_V4, 80).by("out");
    compat.works("firewall", "the outside");
    assert_eq!(web.read_sysctl("core/somaxconn"), "511");
    assert_eq!(link("web", "eth0").expect("an interface")["mtu"], 1400);
    compat.works("tuning", "mtu and a sysctl");
    let incoming = rate::carried(&inside.netns, ("10.89.0.2", 81), (&web, 81));
    incoming.keeps_to("into the container", 16e6, 800e3);
    compat.works("bandwidth", "a limit, measured");
    podman("rm --force --time 0 web");
    let left = run(inside
        .command("sh")
        .args(["-c", "nft list ruleset; iptables-save; ip link show type ifb"]));
    assert!(!left.contains("10.89.0.2") && !left.contains("bwp"), "{left}");
    compat.works("all", "rm --force leaves nothing");
}

/// Where the network namespace is not the user's own, nothing can be changed in it; every plugin that has to
/// says so, and nothing says that it is well.
fn status_says_what_cannot_work(b: &TestBox) {
    furnish(b);
    let status = |plugin: &str, wrapper: &[&str], keys: &str| {
        let mut command = as_user(wrapper.first().copied().unwrap_or("sh"));
        command.args(wrapper.iter().skip(1));
        let script = format!(
            "echo '{{\"cniVersion\":\"1.1.0\",\"name\":\"x\",\"type\":\"{plugin}\"{keys}}}' | \
             CNI_COMMAND=STATUS CNI_PATH={PLUGINS} {PLUGINS}/{plugin} 2>&1"
        );
        if !wrapper.is_empty() {
            command.arg("sh");
        }
        let output = command.args(["-c", &script]).output().expect("it starts");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sysctl = ",\"sysctl\":{\"net.core.somaxconn\":\"511\"}";
    let compat = Compat::of("an ordinary user", "", b);
    for (plugin, keys) in [("portmap", ""), ("bandwidth", ""), ("firewall", ""), ("tuning", sysctl)]
    {
        let (well, said) = status(plugin, &["unshare", "--user", "--map-root-user"], keys);
        assert!(!well && said.contains("\"code\": 50"), "{plugin} in the host's network: {said}");
        let (well, said) = status(plugin, &[], keys);
        assert!(!well && said.contains("\"code\": 50"), "{plugin} as nobody's root: {said}");
        compat.works(plugin, "STATUS says what a user cannot do in the host's network namespace");
    }
}
