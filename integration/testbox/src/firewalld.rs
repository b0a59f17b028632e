//! firewalld and the bus that it is asked over.

use std::process::{Child, Command};
use std::time::Duration;

use crate::tool::{run, sh, tool};
use crate::{eventually, eventually_within, stretched};

/// A real firewalld on a bus of the box's own.
pub struct Firewalld {
    bus: Child,
    daemon: Child,
}

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
<auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/>
<allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/></policy></busconfig>"#;

impl Firewalld {
    /// Starts both and waits until firewalld answers.
    pub fn start() -> Self {
        std::fs::create_dir_all("/run/dbus").expect("a directory on the box's tmpfs");
        std::fs::write("/run/dbus/bus.conf", BUS).expect("the bus's configuration");
        run(Command::new("cp").args(["-r", "/etc/firewalld", "/run/firewalld-config"]));
        let arguments = ["--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile"];
        let bus = tool("dbus-daemon").args(arguments).spawn().expect("start dbus-daemon");
        eventually("the bus listens", || {
            std::path::Path::new("/run/dbus/system_bus_socket").exists()
        });
        let daemon = Self::daemon();
        Self { bus, daemon }
    }

    fn daemon() -> Child {
        let daemon = tool("firewalld")
            .args(["--nofork", "--nopid", "--system-config", "/run/firewalld-config"])
            .args(["--log-target", "file", "--log-file", "/run/firewalld.log"])
            .spawn()
            .expect("start firewalld");
        eventually_within(Duration::from_secs(30), "firewalld runs", || {
            let output = tool("firewall-cmd").arg("--state").output().expect("firewall-cmd");
            output.status.success()
        });
        daemon
    }

    /// `firewall-cmd` with these words.
    #[track_caller]
    pub fn cmd(&self, words: &[&str]) -> String {
        run(tool("firewall-cmd").args(words))
    }

    /// `firewall-cmd --reload`, but with patience: that waits for 25 seconds, which a guest may need.
    #[track_caller]
    pub fn reload(&self) {
        let patience = stretched(Duration::from_secs(25)).as_millis();
        let name = "org.fedoraproject.FirewallD1";
        run(tool("dbus-send")
            .args(["--system", "--print-reply", &format!("--reply-timeout={patience}")])
            .args([&format!("--dest={name}"), "/org/fedoraproject/FirewallD1"])
            .arg(format!("{name}.reload")));
    }

    /// Kills firewalld, which leaves its rules; the bus goes on.
    pub fn stop(&mut self) {
        self.daemon.kill().expect("a child of ours");
        self.daemon.wait().expect("a child of ours");
    }

    /// Ends firewalld as its service does: it takes its rules with it.
    pub fn end(&mut self) {
        sh(&format!("kill -TERM {}", self.daemon.id()));
        self.daemon.wait().expect("a child of ours");
    }

    /// Starts firewalld again on the same bus.
    pub fn start_again(&mut self) {
        self.daemon = Self::daemon();
    }

    /// Ends the bus as well, and leaves its socket behind.
    pub fn kill_bus(&mut self) {
        self.bus.kill().expect("a child of ours");
        self.bus.wait().expect("a child of ours");
    }
}
