//! Calls of the firewall plugin.

use std::process::{Child, Command};
use std::time::Duration;

use serde_json::{Value, json};

use super::container::Attachment;
use super::plugin::{Call, Outcome};
use super::tool::{run, tool};
use super::{TestBox, eventually, eventually_within};
use crate::implementation::Implementation;

impl Call {
    /// ADD, DEL or CHECK of firewall for an attachment, with its prevResult and these keys.
    pub(crate) fn to_firewall(command: &str, attachment: &Attachment, keys: &Value) -> Self {
        Self::new(command, attachment).into_firewall_call(keys)
    }

    /// The same call of the firewall plugin, with these keys.
    pub(crate) fn into_firewall_call(self, keys: &Value) -> Self {
        let call = self.without("capabilities").set("type", json!("firewall"));
        let keys = keys.as_object().into_iter().flatten();
        keys.fold(call, |call, (key, value)| call.set(key, value.clone()))
    }

    /// Runs the firewall that is under test.
    #[track_caller]
    pub(crate) fn firewall(self, b: &TestBox) -> Outcome {
        self.firewall_of(b.implementation)
    }

    /// Runs an implementation's firewall.
    #[track_caller]
    pub(crate) fn firewall_of(self, implementation: Implementation) -> Outcome {
        self.run_named(implementation, "firewall")
    }
}

impl TestBox {
    /// firewall ADD that must succeed.
    #[track_caller]
    pub(crate) fn admit(&self, attachment: &Attachment, keys: &Value) -> Outcome {
        let outcome = Call::to_firewall("ADD", attachment, keys).firewall(self);
        outcome.expect_result();
        outcome
    }

    /// firewall DEL that must succeed.
    #[track_caller]
    pub(crate) fn dismiss(&self, attachment: &Attachment, keys: &Value) {
        Call::to_firewall("DEL", attachment, keys).firewall(self).expect_silence();
    }

    /// firewall CHECK.
    #[track_caller]
    pub(crate) fn inspect(&self, attachment: &Attachment, keys: &Value) -> Outcome {
        Call::to_firewall("CHECK", attachment, keys).firewall(self)
    }
}

/// A real firewalld on a bus of the box's own.
pub(crate) struct Firewalld {
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
    pub(crate) fn start() -> Self {
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
    #[expect(clippy::unused_self, reason = "a `Firewalld` is the proof that one runs")]
    #[track_caller]
    pub(crate) fn cmd(&self, words: &[&str]) -> String {
        run(tool("firewall-cmd").args(words))
    }

    /// Ends firewalld; the bus goes on.
    pub(crate) fn stop(&mut self) {
        self.daemon.kill().expect("a child of ours");
        self.daemon.wait().expect("a child of ours");
    }

    /// Starts firewalld again on the same bus.
    pub(crate) fn start_again(&mut self) {
        self.daemon = Self::daemon();
    }

    /// Ends the bus as well, and leaves its socket behind.
    pub(crate) fn kill_bus(&mut self) {
        self.bus.kill().expect("a child of ours");
        self.bus.wait().expect("a child of ours");
    }
}
