//! One thing that tuning changes, and its value: what is wanted, what was there, what is kept
//! for DEL. No I/O.

use std::fmt;

use cni_common::cni::protocol::json::{Json, Object};
use cni_common::kernel::link::{Link, LinkChange};

use crate::key::SysctlPath;
use crate::mac::Mac;

/// A property of the namespace or of the interface, with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Sysctl {
        path: SysctlPath,
        /// Its content, without the newline at its end.
        value: String,
    },
    Link(LinkSetting),
}

/// A property of the interface, with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkSetting {
    Mac(Mac),
    /// `IFF_PROMISC`
    Promisc(bool),
    /// MTU in bytes.
    Mtu(u32),
    /// `IFF_ALLMULTI`
    Allmulti(bool),
    /// Length of the transmit queue in packets.
    TxQueueLen(u32),
}

impl Setting {
    /// Whether both are about the same property.
    pub(crate) fn same_property(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sysctl { path: one, .. }, Self::Sysctl { path: two, .. }) => one == two,
            (Self::Link(one), Self::Link(two)) => one.name() == two.name(),
            _ => false,
        }
    }

    /// The property's name, and its value, in words.
    pub(crate) fn in_words(&self) -> (String, String) {
        match self {
            Self::Sysctl { path, value } => (format!("net/{}", path.below_net()), value.clone()),
            Self::Link(setting) => (setting.name().to_owned(), setting.to_string()),
        }
    }

    /// Whether the property goes away with the interface.
    pub(crate) fn is_of_interface(&self, ifname: &str) -> bool {
        match self {
            Self::Sysctl { path, .. } => path.is_of_interface(ifname),
            Self::Link(_) => true,
        }
    }

    /// One object with the name of the property as its key.
    pub(crate) fn to_json(&self) -> Json {
        let mut object = Object::default();
        match self {
            Self::Sysctl { path, value } => {
                object.push("sysctl", path.to_string());
                object.push("value", value.as_str());
            }
            Self::Link(setting) => object.push(setting.name(), setting.value()),
        }
        object.into()
    }

    /// Reads what [`Setting::to_json`] wrote; `None` for anything else.
    pub(crate) fn from_json(json: &Json) -> Option<Self> {
        let object = json.as_object()?;
        if let Some(path) = object.get_exact("sysctl") {
            let path = SysctlPath::from_text(path.as_str()?)?;
            let value = object.get_exact("value")?.as_str()?.to_owned();
            return Some(Self::Sysctl { path, value });
        }
        let (name, value) = object.iter().next()?;
        LinkSetting::from_json(name, value).map(Self::Link)
    }
}

impl LinkSetting {
    /// The same property as it is on a link; `None` for a hardware address that is no Ethernet
    /// address and could not be set either.
    pub(crate) fn on(self, link: &Link) -> Option<Self> {
        Some(match self {
            Self::Mac(_) => Self::Mac(Mac::from_bytes(&link.address).ok()?),
            Self::Promisc(_) => Self::Promisc(link.promisc),
            Self::Mtu(_) => Self::Mtu(link.mtu),
            Self::Allmulti(_) => Self::Allmulti(link.allmulti),
            Self::TxQueueLen(_) => Self::TxQueueLen(link.tx_queue_len),
        })
    }

    /// The request that sets it.
    pub(crate) fn change(self) -> LinkChange {
        let mut change = LinkChange::default();
        match self {
            Self::Mac(mac) => change.address = Some(mac.bytes().to_vec()),
            Self::Promisc(on) => change.promisc = Some(on),
            Self::Mtu(mtu) => change.mtu = Some(mtu),
            Self::Allmulti(on) => change.allmulti = Some(on),
            Self::TxQueueLen(length) => change.tx_queue_len = Some(length),
        }
        change
    }

    /// The key of the configuration, and of the Go plugin's backup.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mac(_) => "mac",
            Self::Promisc(_) => "promisc",
            Self::Mtu(_) => "mtu",
            Self::Allmulti(_) => "allmulti",
            Self::TxQueueLen(_) => "txQLen",
        }
    }

    pub(crate) fn value(self) -> Json {
        match self {
            Self::Mac(mac) => mac.to_string().into(),
            Self::Promisc(on) | Self::Allmulti(on) => on.into(),
            Self::Mtu(number) | Self::TxQueueLen(number) => u64::from(number).into(),
        }
    }

    /// Reads a name and its value; `None` if they are not of a link.
    pub(crate) fn from_json(name: &str, value: &Json) -> Option<Self> {
        let number = || match value {
            Json::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            _ => None,
        };
        let flag = || match value {
            Json::Bool(flag) => Some(*flag),
            _ => None,
        };
        match name {
            "mac" => Mac::parse(value.as_str()?).ok().map(Self::Mac),
            "promisc" => flag().map(Self::Promisc),
            "mtu" => number().filter(|mtu| *mtu != 0).map(Self::Mtu),
            "allmulti" => flag().map(Self::Allmulti),
            "txQLen" => number().map(Self::TxQueueLen),
            _ => None,
        }
    }
}

impl fmt::Display for LinkSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Promisc(on) | Self::Allmulti(on) => f.write_str(if *on { "on" } else { "off" }),
            Self::Mtu(number) | Self::TxQueueLen(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_being_written() {
        let mac = Mac::parse("02:00:00:00:00:01").expect("mac");
        let path = SysctlPath::from_text("/proc/sys/net/ipv4/conf/eth0.1/arp_filter");
        for setting in [
            Setting::Sysctl { path: path.expect("path"), value: "1\t2 \"x\"".into() },
            Setting::Link(LinkSetting::Mac(mac)),
            Setting::Link(LinkSetting::Promisc(false)),
            Setting::Link(LinkSetting::Mtu(1500)),
            Setting::Link(LinkSetting::Allmulti(true)),
            Setting::Link(LinkSetting::TxQueueLen(0)),
        ] {
            assert_eq!(Setting::from_json(&setting.to_json()), Some(setting));
        }
    }

    #[test]
    fn what_nobody_wrote_is_not_read() {
        for text in [
            "1",
            "{}",
            r#"{"sysctl":"/proc/sys/kernel/x","value":"1"}"#,
            r#"{"mtu":"1"}"#,
            r#"{"mtu":0}"#,
            r#"{"sysctl":"/proc/sys/net/../../etc/passwd","value":"1"}"#,
            r#"{"mac":"x"}"#,
            r#"{"sysctl":"/proc/sys/net/core/x"}"#,
            r#"{"promisc":1}"#,
            r#"{"what":1}"#,
        ] {
            let json = Json::parse(text.as_bytes()).expect("json");
            assert_eq!(Setting::from_json(&json), None, "{text}");
        }
    }
}
