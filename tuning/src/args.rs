//! What tuning takes from `CNI_ARGS`. No I/O.

use cni_common::cni::protocol::args::pairs;
use cni_common::cni::protocol::{CniError, ErrorCode};

/// The value of `MAC` in `CNI_ARGS`, empty if there is none.
///
/// Names match in their exact case. One that is neither `MAC` nor `IgnoreUnknown` is an error
/// unless `IgnoreUnknown` is true, as the Go plugins have it. Values may hold `=`, which theirs
/// may not: Nomad sends such.
pub(crate) fn mac(args: &str) -> Result<&str, CniError> {
    let (mut mac, mut ignore_unknown, mut unknown) = ("", false, Vec::new());
    for pair in pairs(args) {
        let (name, value) = pair.map_err(|pair| {
            refuse(&format!("ARGS: invalid pair {pair:?}: write NAME=VALUE, with ; between pairs"))
        })?;
        match name {
            "MAC" => mac = value,
            "IgnoreUnknown" => ignore_unknown = flag(value)?,
            _ => unknown.push(format!("{name}={value}")),
        }
    }
    if ignore_unknown || unknown.is_empty() {
        return Ok(mac);
    }
    Err(refuse(&format!("ARGS: unknown args {unknown:?}: remove them or add IgnoreUnknown=true")))
}

fn flag(value: &str) -> Result<bool, CniError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(refuse(&format!("ARGS: IgnoreUnknown must be true or false, but is {value:?}"))),
    }
}

fn refuse(what: &str) -> CniError {
    CniError::new(ErrorCode::InvalidEnvironment, format!("CNI_{what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_found() {
        for (args, expected) in [
            ("", ""),
            ("MAC=c2:11:22:33:44:55", "c2:11:22:33:44:55"),
            ("IgnoreUnknown=true;MAC=a", "a"),
            ("MAC=a;K8S_POD_NAME=x;IgnoreUnknown=1", "a"),
            ("IgnoreUnknown=1;X={\"a\"=\"b\"};mac=b", ""),
            ("IgnoreUnknown=FALSE;MAC=a", "a"),
        ] {
            assert_eq!(mac(args), Ok(expected), "{args}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (args, word) in [
            ("FOO", "invalid pair \"FOO\""),
            ("MAC=a;", "invalid pair \"\""),
            ("FOO=bar", "unknown args [\"FOO=bar\"]"),
            ("mac=a", "unknown args [\"mac=a\"]"),
            ("IgnoreUnknown=yes", "IgnoreUnknown must be"),
            ("IgnoreUnknown=false;A=b", "unknown args"),
        ] {
            let error = mac(args).expect_err(args);
            assert!(error.msg.contains(word), "{}", error.msg);
            assert_eq!(error.code, ErrorCode::InvalidEnvironment);
        }
    }
}
