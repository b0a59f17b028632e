//! How a call of a plugin ended, judged as the CNI specification has it.

use std::fmt;
use std::process::Output;

use serde_json::Value;

/// Exit status, stdout and stderr of a call.
#[derive(Debug)]
pub struct Outcome {
    /// The binary and the command.
    what: String,
    /// The beginning of stdin.
    asked: String,
    /// The exit status; none for a plugin that a signal ended.
    pub status: Option<i32>,
    /// The result, the error, or nothing.
    pub stdout: String,
    /// The plugin's log.
    pub stderr: String,
}

/// A CNI error object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error code.
    pub code: u64,
    /// What went wrong.
    pub msg: String,
    /// More about it, or nothing.
    pub details: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, asked, status, stdout, stderr } = self;
        write!(f, "{what}: {status:?}\nasked {asked}\nstdout {stdout}\nstderr {stderr}")
    }
}

impl Outcome {
    /// Of a finished process.
    pub fn new(what: String, stdin: &[u8], output: Output) -> Self {
        Self {
            what,
            asked: String::from_utf8_lossy(&stdin[..stdin.len().min(1000)]).into_owned(),
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub(crate) fn keeps_the_protocol(&self, command: &str) {
        match self.status {
            Some(0) if command == "ADD" || command == "VERSION" => {
                let result = self.json();
                assert!(result["cniVersion"].is_string() && result.get("code").is_none(), "{self}");
            }
            Some(0) => assert_eq!(self.stdout, "", "{} must print nothing", self.what),
            Some(_) => drop(self.expect_refusal()),
            None => panic!("killed by a signal: {self}"),
        }
    }

    /// What a plugin that may do anything tells, which must be a result, an error object, or nothing: the
    /// code of the error.
    pub(crate) fn tells_how_it_ended(&self, command: &str) -> Result<Option<u64>, String> {
        let json = serde_json::from_str::<Value>(&self.stdout);
        match (self.status, json) {
            (Some(0), Ok(result)) if command == "ADD" && result["cniVersion"].is_string() => {
                Ok(None)
            }
            (Some(0), _) if command != "ADD" && self.stdout.is_empty() => Ok(None),
            (Some(1), Ok(error)) if error["msg"].as_str().is_some_and(|msg| !msg.is_empty()) => {
                let code = error["code"].as_u64().ok_or("the error has no code\n")?;
                Ok(Some(code))
            }
            (Some(status), _) => Err(format!("it exits with {status}, and not as CNI has it\n")),
            (None, _) => Err("a signal ended it\n".to_owned()),
        }
    }

    /// The last of what it printed, in one line.
    pub(crate) fn said(&self) -> String {
        let text = format!("{:?} {} {}", self.status, self.stderr, self.stdout);
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").chars().take(400).collect()
    }

    /// Whether the plugin says that it succeeded.
    pub fn succeeded(&self) -> bool {
        self.status == Some(0)
    }

    /// The one JSON value on stdout; the parser refuses a second.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not one JSON value: {error}: {self}"))
    }

    /// Success with a result.
    #[track_caller]
    pub fn expect_result(&self) -> Value {
        assert_eq!(self.status, Some(0), "{self}");
        self.json()
    }

    /// Success of a command that prints nothing.
    #[track_caller]
    pub fn expect_silence(&self) {
        assert_eq!((self.status, self.stdout.as_str()), (Some(0), ""), "{self}");
    }

    /// Success, whatever the command may print.
    #[track_caller]
    pub fn expect_success(&self) {
        assert_eq!(self.status, Some(0), "{self}");
    }

    /// Success, and on with the outcome.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.status, Some(0), "{self}");
        self
    }

    /// Failure with one error object, and nothing else in it than the specification knows.
    #[track_caller]
    pub fn expect_refusal(&self) -> Refusal {
        assert_ne!(self.status, Some(0), "it should have failed: {self}");
        let error = self.json();
        let keys: Vec<_> = error.as_object().expect("an object").keys().collect();
        let known = ["cniVersion", "code", "msg", "details"];
        assert!(keys.iter().all(|key| known.contains(&key.as_str())), "{self}");
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        Refusal {
            code: error["code"].as_u64().expect("an error has a number as its code"),
            msg: text("msg").filter(|msg| !msg.is_empty()).expect("an error has a message"),
            details: text("details").unwrap_or_default(),
        }
    }

    /// Failure: the code, and message and details in one text.
    #[track_caller]
    pub fn expect_error(&self) -> (u64, String) {
        let Refusal { code, msg, details } = self.expect_refusal();
        (code, format!("{msg}; {details}"))
    }

    /// Failure with this code and all these words in its message or details.
    #[track_caller]
    pub fn expect_error_with(&self, code: u64, words: &[&str]) {
        let (found, text) = self.expect_error();
        assert_eq!(found, code, "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in the error {text:?}");
        }
    }

    /// The names of the interfaces in the result.
    #[track_caller]
    pub fn interfaces(&self) -> Vec<String> {
        let result = self.expect_result();
        let interfaces = result["interfaces"].as_array().expect("interfaces").iter();
        interfaces.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
    }
}
