//! `conditionsV4` and `conditionsV6` in nft's words, turned into typed statements.
//!
//! The words are compiled here, never handed to `nft`: what is not understood is refused by
//! name. `{ a, b }` after `==` becomes alternatives (one rule each), after `!=` several
//! statements of one rule.

use std::net::IpAddr;

use cni_common::cni::protocol::CniError;
use cni_common::kernel::IpVersion;
use cni_common::kernel::nft::{L4Protocol, Operand, Selector, Statement};
use ipnet::IpNet;

use super::layout::Alternatives;

/// More alternatives than anyone writes by hand; keeps a product of lists from exploding.
const MAX_ALTERNATIVES: usize = 64;

/// The conditions as alternatives: a packet must match every statement of one of them. No words
/// make one alternative without statements.
pub(super) fn compile(words: &[String], version: IpVersion) -> Result<Alternatives, CniError> {
    let tokens = tokens(words);
    let mut reader = Reader { tokens: &tokens, version };
    let mut alternatives = vec![Vec::new()];
    while !reader.tokens.is_empty() {
        let (selector, protocol) = reader.selector()?;
        let negated = reader.negated();
        let operands = reader.operands(selector)?;
        if let Some(protocol) = protocol {
            let only = Statement::Match {
                selector: Selector::L4Protocol,
                negated: false,
                operand: Operand::Protocol(protocol),
            };
            for statements in &mut alternatives {
                statements.push(only.clone());
            }
        }
        let statement =
            |operand: &Operand| Statement::Match { selector, negated, operand: operand.clone() };
        if negated {
            let all: Vec<_> = operands.iter().map(statement).collect();
            for statements in &mut alternatives {
                statements.extend(all.clone());
            }
        } else {
            alternatives = operands
                .iter()
                .flat_map(|operand| {
                    alternatives
                        .iter()
                        .map(|before| [before.clone(), vec![statement(operand)]].concat())
                })
                .collect();
        }
        if alternatives.len() > MAX_ALTERNATIVES {
            return Err(reader.error(&format!(
                "expands to more than {MAX_ALTERNATIVES} rules; use networks instead of single addresses"
            )));
        }
    }
    Ok(alternatives)
}

/// Words with braces and commas set free.
fn tokens(words: &[String]) -> Vec<String> {
    let spaced: Vec<String> = words
        .iter()
        .map(|word| word.replace('{', " { ").replace('}', " } ").replace(',', " , "))
        .collect();
    spaced.join(" ").split_whitespace().map(str::to_owned).collect()
}

struct Reader<'a> {
    tokens: &'a [String],
    version: IpVersion,
}

impl Reader<'_> {
    fn error(&self, what: &str) -> CniError {
        CniError::config(format!("conditionsV{} {what}", self.version.digit())).with_details(
            "supported: ip|ip6 saddr|daddr, iifname, tcp|udp|sctp|th sport|dport, meta l4proto, \
             meta mark [& mask], each with == or != and a value or { list }",
        )
    }

    fn peek(&self) -> &str {
        self.tokens.first().map_or("", String::as_str)
    }

    fn next(&mut self) -> Result<String, CniError> {
        let (first, rest) = self
            .tokens
            .split_first()
            .ok_or_else(|| self.error("end in the middle of a condition"))?;
        self.tokens = rest;
        Ok(first.clone())
    }

    fn skip(&mut self, token: &str) -> bool {
        let found = self.peek() == token;
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    /// The packet property, and the protocol that naming it implies.
    fn selector(&mut self) -> Result<(Selector, Option<L4Protocol>), CniError> {
        let first = self.next()?;
        let only = |selector| Ok((selector, None));
        let v4 = self.version.is_v4();
        match first.as_str() {
            "ip" if !v4 => Err(self.error("cannot match ip addresses; use ip6")),
            "ip6" if v4 => Err(self.error("cannot match ip6 addresses; use ip")),
            "ip" | "ip6" => match (self.next()?.as_str(), v4) {
                ("saddr", true) => only(Selector::Ip4Source),
                ("daddr", true) => only(Selector::Ip4Destination),
                ("saddr", false) => only(Selector::Ip6Source),
                ("daddr", false) => only(Selector::Ip6Destination),
                (other, _) => {
                    Err(self.error(&format!("hold the unsupported words \"{first} {other}\"")))
                }
            },
            "tcp" | "udp" | "sctp" | "th" => {
                let protocol = L4Protocol::from_text(&first);
                match self.next()?.as_str() {
                    "sport" => Ok((Selector::SourcePort, protocol)),
                    "dport" => Ok((Selector::DestinationPort, protocol)),
                    other => {
                        Err(self.error(&format!("hold the unsupported words \"{first} {other}\"")))
                    }
                }
            }
            "iifname" => only(Selector::InputInterface),
            "mark" => only(Selector::PacketMark),
            "meta" => match self.next()?.as_str() {
                "iifname" => only(Selector::InputInterface),
                "mark" => only(Selector::PacketMark),
                "l4proto" => only(Selector::L4Protocol),
                other => Err(self.error(&format!("hold the unsupported words \"meta {other}\""))),
            },
            other => Err(self.error(&format!("hold the unsupported word {other:?}"))),
        }
    }

    fn negated(&mut self) -> bool {
        // `meta mark & 1 != 1` has its operator after the mask; operands() looks there.
        !self.skip("==") && self.skip("!=")
    }

    fn operands(&mut self, selector: Selector) -> Result<Vec<Operand>, CniError> {
        if selector == Selector::PacketMark && (self.peek() == "&" || self.peek() == "and") {
            self.next()?;
            let mask = self.number()?;
            if !self.skip("==") {
                return Err(self.error("must compare a masked mark with =="));
            }
            let value = self.number()?;
            return Ok(vec![Operand::Mark { value, mask }]);
        }
        if !self.skip("{") {
            return Ok(vec![self.operand(selector)?]);
        }
        let mut operands = vec![self.operand(selector)?];
        while self.skip(",") {
            operands.push(self.operand(selector)?);
        }
        if self.skip("}") {
            Ok(operands)
        } else {
            Err(self.error("hold a list without its closing brace"))
        }
    }

    fn number(&mut self) -> Result<u32, CniError> {
        let token = self.next()?;
        let parsed = match token.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => token.parse(),
        };
        parsed.map_err(|_| self.error(&format!("hold {token:?} where a 32-bit number belongs")))
    }

    fn operand(&mut self, selector: Selector) -> Result<Operand, CniError> {
        if selector == Selector::PacketMark {
            return Ok(Operand::Mark { value: self.number()?, mask: u32::MAX });
        }
        let token = self.next()?;
        let found = |what: &str| self.error(&format!("hold {token:?} where {what} belongs"));
        match selector {
            Selector::SourcePort | Selector::DestinationPort => {
                token.parse().map(Operand::Port).map_err(|_| found("a port"))
            }
            Selector::L4Protocol => L4Protocol::from_text(&token)
                .map(Operand::Protocol)
                .ok_or_else(|| found("tcp, udp or sctp")),
            Selector::InputInterface | Selector::OutputInterface => {
                let name = token.trim_matches('"');
                let stem = name.strip_suffix('*').unwrap_or(name);
                // `*` alone would match everything, which nft refuses too.
                let valid = cni_common::cni::protocol::environment::validate_ifname(stem).is_ok();
                valid
                    .then(|| Operand::Interface(name.to_owned()))
                    .ok_or_else(|| found("an interface name"))
            }
            _ => network(&token)
                .filter(|network| IpVersion::of(network.addr()) == self.version)
                .map(Operand::Network)
                .ok_or_else(|| found(&format!("an {} network", self.version))),
        }
    }
}

fn network(token: &str) -> Option<IpNet> {
    let address = || token.parse::<IpAddr>().ok().map(IpNet::from);
    token.parse().ok().or_else(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, version: IpVersion) -> Result<Vec<String>, String> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let rules = compile(&words, version).map_err(|error| error.msg)?;
        let join = |rule: Vec<Statement>| {
            rule.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        Ok(rules.into_iter().map(join).collect())
    }

    #[test]
    fn what_is_supported() {
        for (text, rules) in [
            ("", vec![""]),
            ("ip daddr != 192.0.2.0/24", vec!["ip daddr != 192.0.2.0/24"]),
            ("ip saddr == 10.0.0.7", vec!["ip saddr 10.0.0.7"]),
            (
                "ip saddr { 10.0.0.0/8, 192.0.2.1 }",
                vec!["ip saddr 10.0.0.0/8", "ip saddr 192.0.2.1"],
            ),
            (
                "ip saddr != {10.0.0.0/8,192.0.2.1}",
                vec!["ip saddr != 10.0.0.0/8 ip saddr != 192.0.2.1"],
            ),
            (
                "iifname \"eth0\" tcp sport 1024",
                vec!["iifname \"eth0\" meta l4proto tcp th sport 1024"],
            ),
            ("meta iifname != veth*", vec!["iifname != \"veth*\""]),
            ("meta mark 0x10", vec!["meta mark 0x00000010"]),
            ("meta mark & 0xff == 0x1", vec!["meta mark & 0x000000ff == 0x00000001"]),
            ("meta l4proto udp", vec!["meta l4proto udp"]),
        ] {
            assert_eq!(
                render(text, IpVersion::V4),
                Ok(rules.into_iter().map(str::to_owned).collect()),
                "{text}"
            );
        }
        assert_eq!(
            render("ip6 saddr fd00::/8", IpVersion::V6),
            Ok(vec!["ip6 saddr fd00::/8".to_owned()])
        );
    }

    #[test]
    fn what_is_not_is_named() {
        for (text, word) in [
            ("ip ttl 1", "ip ttl"),
            ("jump evil", "jump"),
            ("ip saddr 10.0.0.0/33", "10.0.0.0/33"),
            ("ip saddr fd00::1", "fd00::1"),
            ("ip6 saddr fd00::1", "ip6"),
            ("ip saddr { 10.0.0.1", "closing brace"),
            ("ip saddr", "end in the middle"),
            ("iifname *", "*"),
            ("iifname abcdefghijklmnopq", "abcdefghijklmnopq"),
            ("tcp dport http", "http"),
            ("meta mark 0x1ffffffff", "0x1ffffffff"),
            ("accept;", "accept;"),
        ] {
            let error = render(text, IpVersion::V4).expect_err(text);
            assert!(error.contains(word) && error.starts_with("conditionsV4"), "{text}: {error}");
        }
    }

    #[test]
    fn products_are_bounded() {
        let list = format!(
            "{{ {} }}",
            (1..=9).map(|n| format!("10.0.0.{n}")).collect::<Vec<_>>().join(", ")
        );
        let text = format!("ip saddr {list} ip daddr {list}");
        assert!(render(&text, IpVersion::V4).expect_err("81 rules").contains("more than 64"));
    }
}
