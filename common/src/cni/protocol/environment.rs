//! The `CNI_*` variables: which command needs which, in what order they are judged, and the
//! rules for their values (CNI spec, "Parameters"; libcni's skel for the order).

use std::ffi::OsString;

use super::error::{CniError, ErrorCode};

/// What the runtime asks for in `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Compare with what ADD made.
    Check,
    /// Remove what no valid attachment owns.
    Gc,
    /// Say whether ADD could be served.
    Status,
    /// Print the supported versions.
    Version,
}

impl Command {
    /// The command in text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The command with exactly this text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|command| command.as_str() == text)
    }
}

/// The variables of one call, validated for its command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`; `Err` holds the text of one that does not exist, which is reported only
    /// after stdin has been validated.
    pub command: Result<Command, String>,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; empty when the runtime gave none.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`, not parsed.
    pub args: String,
    /// `CNI_PATH`.
    pub path: String,
    /// Whether `CNI_NETNS_OVERRIDE` switches the namespace identity check off.
    pub netns_override: bool,
}

impl Environment {
    /// Reads and validates the variables. `None` when `CNI_COMMAND` is not set: the caller then
    /// prints what this program is.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, CniError> {
        let get = |name: &str| -> Result<String, CniError> {
            let value = lookup(name).unwrap_or_default();
            value.into_string().map_err(|raw| {
                CniError::new(ErrorCode::InvalidEnvironment, format!("{name} is not valid UTF-8"))
                    .with_details(raw.to_string_lossy())
            })
        };
        let command_text = get("CNI_COMMAND")?;
        if command_text.is_empty() {
            return Ok(None);
        }
        let command = Command::from_text(&command_text).ok_or(command_text);
        let attachment = matches!(command, Ok(Command::Add | Command::Check | Command::Del));
        let netns = matches!(command, Ok(Command::Add | Command::Check));
        let path = matches!(command, Ok(c) if c != Command::Version);
        // DEL removes whatever another plugin made, under whatever name.
        let ifname_rule = if netns { validate_new_ifname } else { validate_ifname };

        let mut missing = Vec::new();
        let mut require =
            |name: &'static str, required: bool, valid: fn(&str) -> Result<(), CniError>| {
                // Values nobody looks at must not fail the call.
                let value = if required { get(name)? } else { get(name).unwrap_or_default() };
                if required && value.is_empty() {
                    missing.push(name);
                } else if required {
                    // An invalid value is reported at once, even when an earlier one is missing.
                    valid(&value)?;
                }
                Ok::<String, CniError>(value)
            };
        let any = |_: &str| Ok(());
        let environment = Self {
            container_id: require("CNI_CONTAINERID", attachment, validate_container_id)?,
            netns: require("CNI_NETNS", netns, any)?,
            ifname: require("CNI_IFNAME", attachment, ifname_rule)?,
            args: require("CNI_ARGS", false, any)?,
            path: require("CNI_PATH", path, any)?,
            netns_override: matches!(
                get("CNI_NETNS_OVERRIDE").unwrap_or_default().to_ascii_lowercase().as_str(),
                "1" | "true"
            ),
            command,
        };
        if missing.is_empty() {
            return Ok(Some(environment));
        }
        Err(CniError::new(
            ErrorCode::InvalidEnvironment,
            format!("required env variables [{}] missing", missing.join(",")),
        ))
    }
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`, the rule for container IDs and network names.
#[must_use]
pub fn is_valid_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Container IDs: the name rule, code 4.
pub fn validate_container_id(id: &str) -> Result<(), CniError> {
    if is_valid_name(id) {
        return Ok(());
    }
    Err(CniError::new(ErrorCode::InvalidEnvironment, "invalid characters in containerID")
        .with_details(id))
}

/// Network names: the name rule, code 7.
pub fn validate_network_name(name: &str) -> Result<(), CniError> {
    if name.is_empty() {
        return Err(CniError::config("missing network name"));
    }
    if is_valid_name(name) {
        return Ok(());
    }
    Err(CniError::config("invalid characters found in network name").with_details(name))
}

/// Interface names: what the kernel's `dev_valid_name()` accepts, code 4.
pub fn validate_ifname(name: &str) -> Result<(), CniError> {
    let refuse = |msg: &str, details: &str| {
        Err(CniError::new(ErrorCode::InvalidEnvironment, msg).with_details(details))
    };
    match name {
        "" => refuse("interface name is empty", ""),
        "." | ".." => refuse("interface name is . or ..", ""),
        // IFNAMSIZ counts bytes, and one of the 16 is the terminator.
        _ if name.len() > 15 => {
            refuse("interface name is too long", "interface name should be less than 16 characters")
        }
        _ if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) => {
            refuse("interface name contains / or : or whitespace characters", name)
        }
        _ => Ok(()),
    }
}

/// Interface names whose attachment gets an owner tag: without what Linux permits and no ruleset
/// can hold. nft cannot load a comment with a quote again, and with it the whole saved ruleset;
/// iptables shows control characters as something else than what they are.
fn validate_new_ifname(name: &str) -> Result<(), CniError> {
    validate_ifname(name)?;
    if !name.contains(|c: char| c == '"' || c.is_control()) {
        return Ok(());
    }
    let details = format!(
        "{name:?} is a name that Linux takes, but nftables and iptables cannot keep it in a comment: \
         call the interface otherwise"
    );
    Err(CniError::new(
        ErrorCode::InvalidEnvironment,
        "interface name contains a quote or a control character",
    )
    .with_details(details))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 6] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", ""),
        ("CNI_PATH", "/opt/cni/bin"),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Option<Environment>, (u32, String)> {
        Environment::read(|name| {
            let from = |list: &[(&str, &str)]| {
                list.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(*value))
            };
            from(changes).or_else(|| from(&ALL))
        })
        .map_err(|error| (error.code.number(), error.to_string()))
    }

    #[test]
    fn each_missing_variable_is_named() {
        for (name, _) in &ALL[1..] {
            let result = read(&[(name, "")]);
            if *name == "CNI_ARGS" {
                assert!(result.is_ok());
            } else {
                assert_eq!(result, Err((4, format!("required env variables [{name}] missing"))));
            }
        }
        let none =
            [("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", ""), ("CNI_PATH", "")];
        assert_eq!(
            read(&none),
            Err((
                4,
                "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing"
                    .into()
            ))
        );
    }

    #[test]
    fn what_each_command_needs() {
        assert!(read(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]).is_ok());
        assert!(read(&[("CNI_COMMAND", "CHECK"), ("CNI_NETNS", "")]).is_err());
        for command in ["GC", "STATUS"] {
            let odd = [
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", "a/b"),
                ("CNI_IFNAME", "a b"),
                ("CNI_NETNS", ""),
            ];
            assert!(read(&odd).is_ok());
        }
        let bare = [
            ("CNI_COMMAND", "VERSION"),
            ("CNI_CONTAINERID", ""),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", ""),
            ("CNI_PATH", ""),
        ];
        assert!(read(&bare).is_ok());
        assert_eq!(read(&[("CNI_COMMAND", "")]), Ok(None));
        let unknown = read(&[("CNI_COMMAND", "add"), ("CNI_PATH", "")]).expect("no requirement");
        assert_eq!(unknown.map(|e| e.command), Some(Err("add".to_owned())));
    }

    #[test]
    fn a_bad_value_is_reported_before_a_missing_one() {
        let error =
            read(&[("CNI_CONTAINERID", ""), ("CNI_IFNAME", "a/b")]).expect_err("bad ifname");
        assert!(error.1.contains("interface name contains"), "{error:?}");
    }

    #[test]
    fn container_ids() {
        for good in ["a", "A0_.-", "0"] {
            assert!(validate_container_id(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "-a", ".a", "a b", "a\n", "é", "a\"b"] {
            assert!(validate_container_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names() {
        assert!(validate_ifname("123456789012345").is_ok());
        for bad in
            ["", "1234567890123456", "éééééééé", ".", "..", "a/b", "a:b", "a b", "a\u{a0}b", "a\n"]
        {
            assert!(validate_ifname(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_that_no_ruleset_can_hold() {
        for name in ["a\"b", "\"", "a\u{1}b", "\u{1b}[31m", "a\u{7f}", "a\u{9b}m"] {
            for command in ["ADD", "CHECK"] {
                let (code, text) =
                    read(&[("CNI_COMMAND", command), ("CNI_IFNAME", name)]).expect_err(name);
                assert!(code == 4 && text.contains("a quote or a control character"), "{text}");
                assert!(!text.contains(char::is_control), "{text:?}");
            }
            assert!(read(&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", name)]).is_ok(), "{name:?}");
        }
        for name in ["a'b", "a\\b", "é", "a$b`", "a*"] {
            assert!(read(&[("CNI_IFNAME", name)]).is_ok(), "{name}");
        }
    }

    #[test]
    fn netns_override() {
        for (text, expected) in
            [("1", true), ("true", true), ("TRUE", true), ("yes", false), ("", false)]
        {
            let environment =
                read(&[("CNI_NETNS_OVERRIDE", text)]).expect("valid").expect("command");
            assert_eq!(environment.netns_override, expected, "{text}");
        }
    }
}
