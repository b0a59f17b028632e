//! The stage of a test: a directory of spy plugins, a configuration directory, a cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cni_chain::{NetworkList, Runner, RuntimeConf};
use cni_common::cni::protocol::json::{Json, Object};
use cni_testbox::spy::{self, Call};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) struct Stage {
    dir: TempDir,
}

impl Stage {
    /// A stage with these plugins.
    pub(crate) fn new(plugins: &[&str]) -> Self {
        let stage = Self { dir: TempDir::new().expect("a temporary directory") };
        for dir in [stage.plugin_dir(), stage.conf_dir()] {
            fs::create_dir(dir).expect("a directory");
        }
        for plugin in plugins {
            symlink(spy::program(), stage.plugin_dir().join(plugin)).expect("a link to the spy");
        }
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub(crate) fn plugin_dir(&self) -> PathBuf {
        self.path("bin")
    }
    pub(crate) fn conf_dir(&self) -> PathBuf {
        self.path("net.d")
    }
    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.path("cache")
    }

    pub(crate) fn runner(&self) -> Runner {
        Runner::new(vec![self.plugin_dir()], self.cache_dir())
    }

    /// Writes a file into the configuration directory.
    pub(crate) fn configure(&self, name: &str, content: &str) -> PathBuf {
        write(&self.conf_dir().join(name), content)
    }

    /// Writes a file into the cache.
    pub(crate) fn remember(&self, name: &str, content: &str) -> PathBuf {
        write(&self.cache_dir().join("results").join(name), content)
    }

    /// The names of the cache's files.
    pub(crate) fn remembered(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.cache_dir().join("results")) else { return vec![] };
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    /// Tells a plugin what to do, by command.
    pub(crate) fn tell(&self, plugin: &str, instructions: &Value) {
        write(&self.plugin_dir().join(format!("{plugin}.json")), &instructions.to_string());
    }

    /// Everything that was called so far, in order.
    pub(crate) fn calls(&self) -> Vec<Call> {
        spy::calls(&self.plugin_dir())
    }

    /// `PLUGIN COMMAND` of everything that was called so far, in order.
    pub(crate) fn order(&self) -> Vec<String> {
        self.calls().iter().map(|call| format!("{} {}", call.plugin, call.command)).collect()
    }

    /// Forgets the calls so far.
    pub(crate) fn forget_calls(&self) {
        let _ = fs::remove_file(self.plugin_dir().join("calls"));
    }
}

fn write(path: &Path, content: &str) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a directory");
    fs::write(path, content).expect("a file");
    path.to_owned()
}

/// A list called `net` of plugins without options.
pub(crate) fn list(version: &str, plugins: &[&str]) -> NetworkList {
    let plugins: Vec<Value> = plugins.iter().map(|plugin| json!({"type": plugin})).collect();
    parse(&json!({"cniVersion": version, "name": "net", "plugins": plugins}))
}

pub(crate) fn parse(list: &Value) -> NetworkList {
    NetworkList::from_bytes(list.to_string().as_bytes()).expect("a valid list")
}

/// The usual attachment.
pub(crate) fn conf() -> RuntimeConf {
    RuntimeConf {
        container_id: "c1".into(),
        netns: "/run/netns/c1".into(),
        ifname: "eth0".into(),
        ..RuntimeConf::default()
    }
}

pub(crate) fn object(value: &Value) -> Object {
    match Json::parse(value.to_string().as_bytes()) {
        Ok(Json::Object(object)) => object,
        other => panic!("{value} is no object: {other:?}"),
    }
}

pub(crate) fn value(json: &Json) -> Value {
    serde_json::from_str(&json.to_string()).expect("JSON")
}

/// Instructions: print this, successfully.
pub(crate) fn says(stdout: &Value) -> Value {
    json!({"stdout": stdout.to_string()})
}

/// Instructions: fail with a CNI error.
pub(crate) fn fails(code: u32, msg: &str) -> Value {
    json!({"stdout": json!({"code": code, "msg": msg}).to_string(), "exit": 1})
}
