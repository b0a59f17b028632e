//! A client of the Container Runtime Interface: `protoc` writes and reads the messages, `curl` carries
//! them. gRPC without a client library is a message behind five bytes, over HTTP/2.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use cni_testbox::tool;

/// A byte that says whether the message is compressed, and its length.
const PREFIX: usize = 5;

/// A runtime's socket.
#[derive(Clone, Debug)]
pub(crate) struct Cri {
    socket: PathBuf,
}

impl Cri {
    pub(crate) fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Calls a method with a request in protobuf's text format. The answer in the same format, or what
    /// the runtime says is wrong.
    pub(crate) fn call(&self, method: &str, request: &str) -> Result<String, String> {
        let message = protoc(&format!("--encode=runtime.v1.{method}Request"), request.as_bytes());
        let answer = self.send(method, &framed(&message))?;
        let message = answer.get(PREFIX..).unwrap_or_default();
        let text = protoc(&format!("--decode=runtime.v1.{}", response(method)), message);
        Ok(String::from_utf8(text).expect("protoc writes text"))
    }

    fn send(&self, method: &str, request: &[u8]) -> Result<Vec<u8>, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let headers = format!("/run/cri-headers-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut curl = tool("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60", "--http2-prior-knowledge"])
            .arg("--unix-socket")
            .arg(&self.socket)
            .args(["--header", "content-type: application/grpc", "--header", "te: trailers"])
            .args(["--data-binary", "@-", "--dump-header", &headers])
            .arg(format!("http://localhost/runtime.v1.RuntimeService/{method}"));
        let output = fed(&mut curl, request);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        // gRPC's status is in the trailers.
        let trailers = fs::read_to_string(&headers).expect("curl wrote the headers");
        fs::remove_file(&headers).expect("a file of our own");
        match field(&trailers, "grpc-status") {
            Some("0") => Ok(output.stdout),
            status => {
                let said = field(&trailers, "grpc-message").unwrap_or_default();
                Err(format!("{method}: status {status:?}: {}", decoded(said)))
            }
        }
    }
}

fn response(method: &str) -> String {
    match method {
        // Nothing is in these answers.
        "StopPodSandbox" | "RemovePodSandbox" => "Empty".to_owned(),
        _ => format!("{method}Response"),
    }
}

fn protoc(what: &str, input: &[u8]) -> Vec<u8> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
    let mut protoc = tool("protoc");
    protoc.args(["-I", directory, what, "cri.proto"]);
    let output = fed(&mut protoc, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "protoc {what}: {said}: {}", String::from_utf8_lossy(input));
    output.stdout
}

fn fed(command: &mut std::process::Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().expect("piped").write_all(input).expect("it reads its input");
    child.wait_with_output().expect("it ends")
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

fn field<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

/// gRPC writes a status message with percent signs, as in a URL.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let code = || u8::from_str_radix(std::str::from_utf8(others.get(..2)?).ok()?, 16).ok();
        if let (b'%', Some(code)) = (first, code()) {
            bytes.push(code);
            rest = &others[2..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
