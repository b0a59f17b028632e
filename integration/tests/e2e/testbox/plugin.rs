//! Calling a plugin as a runtime does, and judging how it answered.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::TestBox;
use super::container::Attachment;
use super::mapping::Mapping;
use super::tool::require;
use crate::implementation::Implementation;

/// The newest version that Debian's plugins speak.
pub(super) const PORTMAP_VERSION: &str = "1.0.0";
/// GC and STATUS need this one.
const GC_VERSION: &str = "1.1.0";

/// One call: environment and stdin.
#[derive(Clone)]
pub(crate) struct Call {
    command: String,
    environment: Vec<(String, String)>,
    /// Programs and their arguments in front of the plugin.
    wrapper: Vec<String>,
    config: Map<String, Value>,
    stdin: Option<Vec<u8>>,
}

impl Call {
    /// ADD, DEL or CHECK of portmap for an attachment, with its prevResult and no mappings.
    pub(crate) fn new(command: &str, attachment: &Attachment) -> Self {
        let netns = attachment.container.netns.path();
        let environment = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &attachment.container.id),
            ("CNI_NETNS", &netns.to_string_lossy()),
            ("CNI_IFNAME", &attachment.ifname),
        ];
        let mut call = Self::of_network(command, &attachment.network.name);
        call.environment = environment.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        call = call.set("cniVersion", json!(PORTMAP_VERSION));
        if let Some(extra) = attachment.network.portmap.as_object() {
            call.config.extend(extra.clone());
        }
        if attachment.result.is_null() {
            return call;
        }
        call.set("prevResult", attachment.result.clone())
    }

    /// GC or STATUS of portmap for a network.
    pub(crate) fn of_network(command: &str, network: &str) -> Self {
        let config = json!({
            "cniVersion": GC_VERSION,
            "name": network,
            "type": "portmap",
            "capabilities": { "portMappings": true },
        });
        let Value::Object(config) = config else { unreachable!("an object literal") };
        Self {
            command: command.into(),
            environment: vec![("CNI_COMMAND".into(), command.into())],
            wrapper: Vec::new(),
            config,
            stdin: None,
        }
    }

    /// With these port mappings.
    pub(crate) fn mappings(self, mappings: &[Mapping]) -> Self {
        self.set("runtimeConfig", json!({ "portMappings": Mapping::list(mappings) }))
    }

    /// With a key of the configuration set.
    pub(crate) fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.into(), value);
        self
    }

    /// Without a key of the configuration.
    pub(crate) fn without(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    /// With a whole other configuration.
    pub(crate) fn replace_config(mut self, config: Value) -> Self {
        let Value::Object(config) = config else { panic!("a configuration is an object") };
        self.config = config;
        self
    }

    /// With raw bytes on stdin.
    pub(crate) fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// With a variable set, or with `""` as good as missing.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(key, _)| key != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Started by another program: `strace …`, `setpriv …`.
    pub(crate) fn under(mut self, wrapper: &[&str]) -> Self {
        require(wrapper[0]);
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Without the privilege to change the network.
    pub(crate) fn without_net_admin(self) -> Self {
        self.under(&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"])
    }

    /// Runs the portmap that is under test.
    #[track_caller]
    pub(crate) fn portmap(self, b: &TestBox) -> Outcome {
        self.portmap_of(b.implementation)
    }

    /// Runs an implementation's portmap.
    #[track_caller]
    pub(crate) fn portmap_of(self, implementation: Implementation) -> Outcome {
        self.run_named(implementation, "portmap")
    }

    /// Runs an implementation's plugin of this name.
    #[track_caller]
    pub(crate) fn run_named(mut self, implementation: Implementation, name: &str) -> Outcome {
        if let Some(backend) = implementation.backend() {
            self.config.entry("backend").or_insert_with(|| json!(backend));
        }
        let binary = implementation.plugin(name);
        let directory = binary.parent().expect("a directory").to_string_lossy().into_owned();
        self.run(&binary, &directory)
    }

    /// Runs a plugin and checks what every call must keep: exit status and stdout agree, and
    /// stdout holds at most one JSON value, of the kind the command allows.
    #[track_caller]
    pub(super) fn run(self, binary: &Path, cni_path: &str) -> Outcome {
        let mut words = self.wrapper.iter().map(String::as_str);
        let mut process = match words.next() {
            None => Command::new(binary),
            Some(wrapper) => {
                let mut process = Command::new(wrapper);
                process.args(words).arg(binary);
                process
            }
        };
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("CNI_")) {
            process.env_remove(key);
        }
        process.env("CNI_PATH", cni_path).envs(self.environment.iter().cloned());
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process.spawn().unwrap_or_else(|error| panic!("{process:?}: {error}"));
        let text = self.stdin.unwrap_or_else(|| Value::Object(self.config).to_string().into());
        let mut stdin = child.stdin.take().expect("piped");
        // A plugin that judges its environment first may leave without reading.
        let _ = stdin.write_all(&text);
        drop(stdin);
        let output = child.wait_with_output().expect("wait for the plugin");
        let outcome = Outcome {
            what: format!("{} {}", binary.display(), self.command),
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        println!("{}: {:?}\n{}{}", outcome.what, outcome.status, outcome.stdout, outcome.stderr);
        outcome.keeps_the_protocol(&self.command);
        outcome
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    what: String,
    status: Option<i32>,
    stdout: String,
    /// The plugin's log.
    pub(crate) stderr: String,
}

impl Outcome {
    #[track_caller]
    fn keeps_the_protocol(&self, command: &str) {
        match self.status {
            Some(0) if command == "ADD" => assert!(self.json().is_object(), "{self:?}"),
            Some(0) => assert_eq!(self.stdout, "", "{} must print nothing", self.what),
            Some(_) => {
                let error = self.json();
                assert!(error["code"].is_u64(), "an error has a number as its code: {self:?}");
                let msg = error["msg"].as_str().unwrap_or_default();
                assert!(!msg.is_empty(), "an error has a message: {self:?}");
            }
            None => panic!("killed by a signal: {self:?}"),
        }
    }

    /// The one JSON value on stdout; the parser refuses a second.
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not one JSON value: {error}: {self:?}"))
    }

    /// Success with a result.
    #[track_caller]
    pub(crate) fn expect_result(&self) -> Value {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.json()
    }

    /// Success.
    #[track_caller]
    pub(crate) fn expect_silence(&self) {
        assert_eq!(self.status, Some(0), "{self:?}");
    }

    /// Failure: the code, and message and details in one text.
    #[track_caller]
    pub(crate) fn expect_error(&self) -> (u64, String) {
        assert_ne!(self.status, Some(0), "{self:?} should have failed");
        let error = self.json();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (error["code"].as_u64().expect("checked"), format!("{}; {}", text("msg"), text("details")))
    }

    /// Failure with this code and all these words in its message.
    #[track_caller]
    pub(crate) fn expect_error_with(&self, code: u64, words: &[&str]) {
        let (found, text) = self.expect_error();
        assert_eq!(found, code, "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in the error {text:?}");
        }
    }
}

impl TestBox {
    /// portmap ADD that must succeed.
    #[track_caller]
    pub(crate) fn map(&self, attachment: &Attachment, mappings: &[Mapping]) -> Value {
        Call::new("ADD", attachment).mappings(mappings).portmap(self).expect_result()
    }

    /// portmap DEL, with what a runtime's cache gives, that must succeed.
    #[track_caller]
    pub(crate) fn unmap(&self, attachment: &Attachment, mappings: &[Mapping]) {
        Call::new("DEL", attachment).mappings(mappings).portmap(self).expect_silence();
    }
}
