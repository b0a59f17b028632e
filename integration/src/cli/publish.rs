//! Published ports as container engines write them on a command line.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use cni_common::cni::protocol::json::{Json, Object};

/// `[HOSTIP:]HOSTPORT:CONTAINERPORT[/PROTO]`, where both ports may be ranges of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    host_ip: Option<IpAddr>,
    host: RangeInclusive<u16>,
    container: RangeInclusive<u16>,
    protocol: &'static str,
}

impl Publish {
    /// The entries of the capability `portMappings`, one a port.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = Json> {
        self.host.clone().zip(self.container.clone()).map(|(host, container)| {
            let mut entry = Object::default();
            entry.push("hostPort", u64::from(host));
            entry.push("containerPort", u64::from(container));
            entry.push("protocol", self.protocol);
            if let Some(ip) = self.host_ip {
                entry.push("hostIP", ip.to_string());
            }
            entry.into()
        })
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = ["tcp", "udp", "sctp"]
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(protocol))
            .ok_or_else(|| format!("protocol {protocol:?} is none of tcp, udp and sctp"))?;
        let (rest, container) = ports
            .rsplit_once(':')
            .ok_or("a host port and a container port are needed, as in 8080:80")?;
        let (host_ip, host) = match rest.rsplit_once(':') {
            Some((ip, host)) => (Some(host_address(ip)?), host),
            None => (None, rest),
        };
        let (host, container) = (port_range(host)?, port_range(container)?);
        if host.len() != container.len() {
            return Err(format!(
                "{} host ports cannot be mapped to {} container ports",
                host.len(),
                container.len()
            ));
        }
        Ok(Self { host_ip, host, container, protocol })
    }
}

fn host_address(text: &str) -> Result<IpAddr, String> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match bracketed {
        Some(v6) => v6.parse().map(IpAddr::V6).map_err(|_| format!("[{v6}] is no IPv6 address")),
        None if text.contains(':') => Err("an IPv6 address needs brackets: [fd00::1]:80:80".into()),
        None => text.parse().map_err(|_| format!("{text:?} is no IP address")),
    }
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("port range {text} ends before it starts"));
    }
    Ok(first..=last)
}

fn port(text: &str) -> Result<u16, String> {
    // A sign would parse as part of the number.
    match text.parse() {
        Ok(port) if port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(format!("{text:?} is no port: one is a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(text: &str) -> String {
        let publish: Publish = text.parse().expect(text);
        Json::Array(publish.mappings().collect()).to_string()
    }

    #[test]
    fn what_engines_accept() {
        for (text, expected) in [
            ("8080:80", r#"[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]"#),
            ("53:5353/UDP", r#"[{"hostPort":53,"containerPort":5353,"protocol":"udp"}]"#),
            (
                "127.0.0.1:8080:80/sctp",
                r#"[{"hostPort":8080,"containerPort":80,"protocol":"sctp","hostIP":"127.0.0.1"}]"#,
            ),
            (
                "[fd00::1]:65535:1",
                r#"[{"hostPort":65535,"containerPort":1,"protocol":"tcp","hostIP":"fd00::1"}]"#,
            ),
            (
                "8000-8001:80-81/udp",
                r#"[{"hostPort":8000,"containerPort":80,"protocol":"udp"},{"hostPort":8001,"containerPort":81,"protocol":"udp"}]"#,
            ),
        ] {
            assert_eq!(mappings(text), expected, "{text}");
        }
        let all: Publish = "1-65535:1-65535".parse().expect("every port");
        assert_eq!(all.mappings().count(), 65535);
    }

    #[test]
    fn what_is_refused_and_why() {
        for (text, reason) in [
            ("80", "a host port and a container port"),
            ("", "a host port and a container port"),
            (":80", "\"\" is no port"),
            ("0:80", "\"0\" is no port"),
            ("+1:80", "\"+1\" is no port"),
            ("65536:80", "\"65536\" is no port"),
            ("80:80/icmp", "protocol \"icmp\""),
            ("80:80/", "protocol \"\""),
            ("host:80:80", "\"host\" is no IP address"),
            ("::1:80:80", "needs brackets"),
            ("[127.0.0.1]:80:80", "is no IPv6 address"),
            ("81-80:80-81", "ends before it starts"),
            ("80-82:80", "3 host ports cannot be mapped to 1 container ports"),
        ] {
            let error = text.parse::<Publish>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
