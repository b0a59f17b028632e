//! Calling a plugin as a runtime does.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Map, Value, json};

use crate::container::Attachment;
use crate::mapping::Mapping;
use crate::network::VERSION;
use crate::outcome::Outcome;
use crate::tool::require;
use crate::{GO_PLUGINS, Implementation, TestBox};

/// GC and STATUS need this one.
const GC_VERSION: &str = "1.1.0";

/// One call: which plugin, its environment and its stdin.
#[derive(Clone, Debug)]
pub struct Call {
    plugin: String,
    environment: Vec<(String, OsString)>,
    /// Programs and their arguments in front of the plugin.
    wrapper: Vec<String>,
    config: Map<String, Value>,
    /// Keys as JSON text, behind those of `config`.
    raw_keys: String,
    stdin: Option<Vec<u8>>,
}

/// ADD, DEL or CHECK of portmap for an attachment, with its prevResult and no mappings.
#[must_use]
pub fn portmap(command: &str, attachment: &Attachment) -> Call {
    Call::new("portmap", command, attachment)
}

/// ADD, DEL or CHECK of firewall for an attachment, with its prevResult.
#[must_use]
pub fn firewall(command: &str, attachment: &Attachment) -> Call {
    Call::new("firewall", command, attachment)
}

/// ADD, DEL or CHECK of bandwidth for an attachment, with its prevResult and no limits.
#[must_use]
pub fn bandwidth(command: &str, attachment: &Attachment) -> Call {
    Call::new("bandwidth", command, attachment)
}

/// ADD, DEL or CHECK of tuning for an attachment, with its prevResult and nothing to tune.
#[must_use]
pub fn tuning(command: &str, attachment: &Attachment) -> Call {
    Call::new("tuning", command, attachment)
}

impl Call {
    /// ADD, DEL or CHECK of a plugin for an attachment, with its prevResult and the keys that its
    /// network gives to every entry.
    #[must_use]
    pub fn new(plugin: &str, command: &str, attachment: &Attachment) -> Self {
        let call = Self::of_network(plugin, command, &attachment.network.name)
            .set("cniVersion", VERSION)
            .keys(&attachment.network.keys)
            .env("CNI_CONTAINERID", &attachment.container.id)
            .env("CNI_NETNS", attachment.container.netns.path())
            .env("CNI_IFNAME", &attachment.ifname);
        if attachment.result.is_null() {
            return call;
        }
        call.set("prevResult", attachment.result.clone())
    }

    /// GC or STATUS of a plugin for a network.
    #[must_use]
    pub fn of_network(plugin: &str, command: &str, network: &str) -> Self {
        let call = Self::bare(plugin)
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", GO_PLUGINS)
            .set("cniVersion", GC_VERSION)
            .set("name", network)
            .set("type", plugin);
        if plugin == "portmap" {
            return call.set("capabilities", json!({ "portMappings": true }));
        }
        call
    }

    /// A plugin without any variable, and with an empty object on stdin.
    #[must_use]
    pub fn bare(plugin: &str) -> Self {
        Self {
            plugin: plugin.into(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            config: Map::new(),
            raw_keys: String::new(),
            stdin: None,
        }
    }

    /// The same call with another command.
    #[must_use]
    pub fn command(self, command: &str) -> Self {
        self.env("CNI_COMMAND", command)
    }

    /// With these port mappings.
    #[must_use]
    pub fn mappings(self, mappings: &[Mapping]) -> Self {
        self.set("runtimeConfig", json!({ "portMappings": Mapping::list(mappings) }))
    }

    /// With a limit for what enters the container, in bits per second and bits.
    #[must_use]
    pub fn ingress(self, rate: u64, burst: u64) -> Self {
        self.set("ingressRate", rate).set("ingressBurst", burst)
    }

    /// With a limit for what leaves the container, in bits per second and bits.
    #[must_use]
    pub fn egress(self, rate: u64, burst: u64) -> Self {
        self.set("egressRate", rate).set("egressBurst", burst)
    }

    /// GC that is told that only these attachments are still there.
    #[must_use]
    pub fn valid(self, attachments: &[&Attachment]) -> Self {
        let valid = attachments
            .iter()
            .map(|one| json!({ "containerID": one.container.id, "ifname": one.ifname }));
        self.set("cni.dev/valid-attachments", valid.collect::<Value>())
    }

    /// With a key of the configuration set.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    /// With all keys of an object set.
    #[must_use]
    pub fn keys(mut self, keys: &Value) -> Self {
        let Value::Object(keys) = keys else { panic!("keys are an object: {keys}") };
        self.config.extend(keys.clone());
        self
    }

    /// With keys as JSON text, `"key": value, …`: in this order, and with duplicates.
    #[must_use]
    pub fn raw_keys(mut self, text: &str) -> Self {
        text.clone_into(&mut self.raw_keys);
        self
    }

    /// Without a key of the configuration.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    /// With a whole other configuration.
    #[must_use]
    pub fn replace_config(mut self, config: Value) -> Self {
        let Value::Object(config) = config else { panic!("a configuration is an object") };
        self.config = config;
        self
    }

    /// With raw bytes on stdin, whatever the configuration.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// What is written to the plugin's stdin.
    pub fn input(&self) -> Vec<u8> {
        self.stdin.clone().unwrap_or_else(|| self.written().into_bytes())
    }

    fn written(&self) -> String {
        let text = Value::Object(self.config.clone()).to_string();
        match text.strip_suffix('}') {
            Some("{") if !self.raw_keys.is_empty() => format!("{{{}}}", self.raw_keys),
            Some(keys) if !self.raw_keys.is_empty() => format!("{keys},{}}}", self.raw_keys),
            _ => text,
        }
    }

    /// With a variable set.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self = self.unset(name);
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Without a variable.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.environment.retain(|(key, _)| key != name);
        self
    }

    /// Started by another program: `strace …`, `setpriv …`; by none if there are no words.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        wrapper.iter().take(1).for_each(|program| require(program));
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// By an ordinary user, who is root in a user namespace and in a network namespace that was made
    /// together with it, as rootlesskit does it; it gives them a /run of their own, too. `script` is the
    /// shell's there, and `PLUGIN` in it is our plugin.
    #[must_use]
    pub fn rootless(self, script: &str) -> Self {
        let plugin = Implementation::Ours.plugin(&self.plugin);
        let place = format!("/run/{}", self.plugin);
        // The user may not get at the checkout.
        crate::sh(&format!("chmod 1777 /run; cp {} {place}", plugin.display()));
        let script = script.replace("PLUGIN", &place);
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let root = ["unshare", "--user", "--map-root-user", "--net", "sh", "-euc", &script];
        self.under(&[&user[..], &root].concat())
    }

    /// Without the privilege to change the network.
    #[must_use]
    pub fn without_net_admin(self) -> Self {
        self.under(&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"])
    }

    /// Runs the plugin that is under test.
    #[track_caller]
    pub fn run(&self, b: &TestBox) -> Outcome {
        self.run_as(b.implementation)
    }

    /// Runs an implementation's plugin, and checks what every call must keep: exit status and
    /// stdout agree, and stdout holds at most one JSON value, of the kind the command allows.
    #[track_caller]
    pub fn run_as(&self, implementation: Implementation) -> Outcome {
        let mut call = self.clone();
        if let Some(backend) = implementation.backend() {
            call.config.entry("backend").or_insert_with(|| json!(backend));
        }
        let outcome = call.run_binary(&implementation.plugin(&call.plugin));
        // A Go plugin may panic, which a case may want to see.
        if implementation != Implementation::Go || outcome.status != Some(2) {
            outcome.keeps_the_protocol(&call.command_name());
        }
        outcome
    }

    /// The same without a word, and without a judgement.
    pub(crate) fn run_quietly(&self, implementation: Implementation) -> Outcome {
        let binary = implementation.plugin(&self.plugin);
        let mut process = self.process(&binary);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = process.spawn().unwrap_or_else(|error| panic!("{process:?}: {error}"));
        let output = self.feed(child).wait_with_output().expect("wait for the plugin");
        let what = format!("{} {}", binary.display(), self.command_name());
        Outcome::new(what, &self.input(), output)
    }

    /// Runs this binary as the plugin.
    #[track_caller]
    pub fn run_binary(&self, binary: &Path) -> Outcome {
        let mut process = self.process(binary);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = process.spawn().unwrap_or_else(|error| panic!("{process:?}: {error}"));
        let output = self.feed(child).wait_with_output().expect("wait for the plugin");
        let what = format!("{} {}", binary.display(), self.command_name());
        let outcome = Outcome::new(what, &self.input(), output);
        println!("{outcome}");
        outcome
    }

    /// As a runtime does among many calls at once: where the lock was waited for in vain (error 11), call again. A slow
    /// machine's last one may have to wait longer than one call does.
    #[track_caller]
    pub fn run_until_served(&self, host: &TestBox) -> Outcome {
        loop {
            let outcome = self.run(host);
            if outcome.succeeded() {
                return outcome;
            }
            let (code, text) = outcome.expect_error();
            assert_eq!(code, 11, "{text}");
        }
    }

    /// The process of this call, for a case that gives it a stdin or stdout of its own.
    pub fn process(&self, binary: &Path) -> Command {
        let mut words = self.wrapper.iter().map(OsStr::new).chain([binary.as_os_str()]);
        let mut process = Command::new(words.next().expect("at least the plugin"));
        process.args(words).env_clear();
        process.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        process.envs(self.environment.iter().map(|(name, value)| (name, value)));
        process
    }

    /// Writes what belongs on stdin, which the child has as a pipe, and closes it.
    pub fn feed(&self, mut child: Child) -> Child {
        let mut stdin = child.stdin.take().expect("a piped stdin");
        // A plugin that judges its environment first may leave without reading.
        let _ = stdin.write_all(&self.input());
        child
    }

    fn command_name(&self) -> String {
        let variable = self.environment.iter().find(|(name, _)| name == "CNI_COMMAND");
        variable.map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl TestBox {
    /// portmap ADD that must succeed; its result.
    #[track_caller]
    pub fn map(&self, attachment: &Attachment, mappings: &[Mapping]) -> Value {
        portmap("ADD", attachment).mappings(mappings).run(self).expect_result()
    }

    /// portmap DEL, with what a runtime's cache gives, that must succeed.
    #[track_caller]
    pub fn unmap(&self, attachment: &Attachment, mappings: &[Mapping]) {
        portmap("DEL", attachment).mappings(mappings).run(self).expect_silence();
    }

    /// firewall ADD that must succeed.
    #[track_caller]
    pub fn admit(&self, attachment: &Attachment, keys: &Value) -> Outcome {
        let outcome = firewall("ADD", attachment).keys(keys).run(self);
        outcome.expect_result();
        outcome
    }

    /// firewall DEL that must succeed.
    #[track_caller]
    pub fn dismiss(&self, attachment: &Attachment, keys: &Value) {
        firewall("DEL", attachment).keys(keys).run(self).expect_silence();
    }

    /// firewall CHECK.
    #[track_caller]
    pub fn inspect(&self, attachment: &Attachment, keys: &Value) -> Outcome {
        firewall("CHECK", attachment).keys(keys).run(self)
    }
}
