//! A stand-in for crictl, which Debian 12 does not have: the commands of docs/guide-containerd.md, by the same calls of
//! the CRI, with the same words, files and answers. Its socket is containerd's usual one.

#[path = "cri.rs"]
mod cri;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use cri::Cri;

const SOCKET: &str = "/run/containerd/containerd.sock";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match answer(&Cri::at(Path::new(SOCKET)), &words) {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("crictl: {error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(cri: &Cri, words: &[&str]) -> Result<String, String> {
    match words {
        ["runp", pod] => {
            let request = format!("config {{ {} }}", message(&read(pod)?));
            id(&run(cri, &request)?)
        }
        ["create", pod, container, config] => {
            let (container, config) = (message(&read(container)?), message(&read(config)?));
            let request = format!(
                "pod_sandbox_id: {pod:?} config {{ {container} }} sandbox_config {{ {config} }}"
            );
            id(&cri.call("CreateContainer", &request)?)
        }
        ["start", container] => {
            cri.call("StartContainer", &format!("container_id: {container:?}"))?;
            Ok(format!("{container}\n"))
        }
        ["pods", "--quiet", "--name", name] => {
            let pods = cri.call("ListPodSandbox", "")?;
            let named =
                pods.split("items {").filter(|pod| pod.contains(&format!("name: {name:?}")));
            named.map(id).collect()
        }
        ["stopp", pod] => {
            cri.call("StopPodSandbox", &format!("pod_sandbox_id: {pod:?}"))?;
            Ok(format!("Stopped sandbox {pod}\n"))
        }
        ["rmp", pod] => {
            cri.call("RemovePodSandbox", &format!("pod_sandbox_id: {pod:?}"))?;
            Ok(format!("Removed sandbox {pod}\n"))
        }
        _ => Err(format!("this stand-in does not know {words:?}")),
    }
}

/// How long containerd may take to notice the network's file.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a pod once there is a network: the reader who types is not as quick as this is.
fn run(cri: &Cri, request: &str) -> Result<String, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match cri.call("RunPodSandbox", request) {
            Err(error) if error.contains("not initialized") && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(200));
            }
            answer => return answer,
        }
    }
}

/// The first ID in an answer.
fn id(answer: &str) -> Result<String, String> {
    let id = answer.split("id: \"").nth(1).and_then(|rest| rest.split('"').next());
    id.map(|id| format!("{id}\n")).ok_or_else(|| format!("no ID in {answer}"))
}

fn read(file: &str) -> Result<Value, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))
}

/// Fields that are maps, whose keys are data.
const MAPS: [&str; 2] = ["annotations", "labels"];

/// A message's fields, from JSON to protobuf's text format.
fn message(json: &Value) -> String {
    let fields = json.as_object().into_iter().flatten();
    fields.map(|(name, value)| field(name, value)).collect()
}

fn field(name: &str, value: &Value) -> String {
    match value {
        Value::Array(values) => values.iter().map(|value| field(name, value)).collect(),
        Value::Object(entries) if MAPS.contains(&name) => entries
            .iter()
            .map(|(key, value)| format!("{name} {{ key: {key:?} value: {value} }} "))
            .collect::<Vec<_>>()
            .concat(),
        Value::Object(_) => format!("{name} {{ {} }} ", message(value)),
        scalar => format!("{name}: {scalar} "),
    }
}
