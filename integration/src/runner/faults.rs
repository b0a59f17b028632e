//! What CHECK finds, for people: the claim that does not hold, what is missing grouped by where it
//! is missing from, and the remedy.

use std::fmt;

use cni_common::cni::protocol::CniError;

/// A CHECK error taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Faults {
    /// What is wrong as a whole.
    pub(crate) claim: String,
    /// What exactly, one group a line; empty if the claim says it all.
    pub(crate) groups: Vec<String>,
    /// What to do about it; may be empty.
    pub(crate) remedy: String,
}

impl Faults {
    pub(crate) fn of(error: &CniError) -> Self {
        let (first, remedy) = error.msg.split_once("; ").unwrap_or((&error.msg, ""));
        let (first, more) = without_count(first);
        let Some((claim, fault)) = first_fault(first) else {
            let claim = format!("{first}{}", more.map_or(String::new(), and_more));
            let groups = match error.details.as_str() {
                "" => Vec::new(),
                details => details.split("; ").map(str::to_owned).collect(),
            };
            return Self { claim, groups, remedy: remedy.to_owned() };
        };
        let others = error.details.split("; ").filter(|fault| !fault.is_empty());
        let faults: Vec<&str> = std::iter::once(fault).chain(others).collect();
        let mut groups = grouped(&faults);
        let untold = (more.unwrap_or_default() + 1).saturating_sub(faults.len());
        if untold > 0 {
            groups.push(format!("and {untold} more"));
        }
        Self { claim: claim.to_owned(), groups, remedy: remedy.to_owned() }
    }
}

/// Parts `… (and 3 more)`.
fn without_count(text: &str) -> (&str, Option<usize>) {
    let parted = text
        .rsplit_once(" (and ")
        .and_then(|(text, rest)| Some((text, rest.strip_suffix(" more)")?.parse().ok()?)));
    parted.map_or((text, None), |(text, count)| (text, Some(count)))
}

fn and_more(count: usize) -> String {
    format!(" (and {count} more)")
}

/// Parts the claim from the first fault, if that is one that can be grouped.
fn first_fault(text: &str) -> Option<(&str, &str)> {
    let (claim, fault) = text.split_once(": ")?;
    Missing::parse(fault).map(|_| (claim, fault))
}

/// Something missing, and from where.
struct Missing<'a> {
    from: String,
    kind: &'static str,
    what: &'a str,
}

impl<'a> Missing<'a> {
    /// Reads `element { … } is missing from map …`, `mapping … is missing from …` and
    /// `chain FAMILY TABLE NAME is missing`.
    fn parse(fault: &'a str) -> Option<Self> {
        if let Some((what, from)) = fault.split_once(" is missing from ") {
            let element = what.strip_prefix("element { ").and_then(|what| what.strip_suffix(" }"));
            let (kind, what) = match (element, what.strip_prefix("mapping ")) {
                (Some(element), _) => ("", element),
                (None, Some(mapping)) => ("mapping", mapping),
                (None, None) => ("", what),
            };
            return Some(Self { from: from.to_owned(), kind, what });
        }
        let chain = fault.strip_prefix("chain ")?.strip_suffix(" is missing")?;
        let (table, what) = chain.rsplit_once(' ')?;
        Some(Self { from: format!("table {table}"), kind: "chain", what })
    }
}

fn grouped(faults: &[&str]) -> Vec<String> {
    let mut groups: Vec<(Option<Missing<'_>>, Vec<&str>)> = Vec::new();
    for &fault in faults {
        let missing = Missing::parse(fault);
        let what = missing.as_ref().map_or(fault, |missing| missing.what);
        let known = groups.iter_mut().find(|(group, _)| match (group, &missing) {
            (Some(group), Some(missing)) => {
                (&group.from, group.kind) == (&missing.from, missing.kind)
            }
            _ => false,
        });
        match known {
            Some((_, members)) => members.push(what),
            None => groups.push((missing, vec![what])),
        }
    }
    let text = |(missing, members): &(Option<Missing<'_>>, Vec<&str>)| match missing {
        None => members.concat(),
        Some(Missing { from, kind, .. }) => {
            let members = match *kind {
                "mapping" => ranges(members),
                _ => members.iter().map(|&member| member.to_owned()).collect(),
            };
            let kind = match (*kind, members.len()) {
                ("", _) => String::new(),
                (kind, 1) => format!("{kind} "),
                (kind, _) => format!("{kind}s "),
            };
            format!("missing from {from}: {kind}{}", members.join(", "))
        }
    };
    groups.iter().map(text).collect()
}

/// A mapping such as `*:80/tcp -> 10.0.0.2:8080`.
struct Range<'a> {
    host: &'a str,
    protocol: &'a str,
    container: &'a str,
    from: (u16, u16),
    /// How many ports follow the first.
    more: u16,
}

impl<'a> Range<'a> {
    fn parse(mapping: &'a str) -> Option<Self> {
        let (from, to) = mapping.split_once(" -> ")?;
        let (from, protocol) = from.rsplit_once('/')?;
        let (host, host_port) = from.rsplit_once(':')?;
        let (container, port) = to.rsplit_once(':')?;
        let from = (host_port.parse().ok()?, port.parse().ok()?);
        Some(Self { host, protocol, container, from, more: 0 })
    }

    fn goes_on_with(&self, next: &Self) -> bool {
        let after = |port: u16| port.checked_add(self.more + 1);
        (self.host, self.protocol, self.container) == (next.host, next.protocol, next.container)
            && (after(self.from.0), after(self.from.1)) == (Some(next.from.0), Some(next.from.1))
    }
}

impl fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |first: u16| match self.more {
            0 => first.to_string(),
            more => format!("{first}-{}", first + more),
        };
        let Self { host, protocol, container, from, .. } = self;
        write!(f, "{host}:{}/{protocol} -> {container}:{}", ports(from.0), ports(from.1))
    }
}

/// Mappings of ports in a row as one, as in `*:8000-8009/tcp -> 10.0.0.2:80-89`.
fn ranges(mappings: &[&str]) -> Vec<String> {
    let mut ranges: Vec<Range<'_>> = Vec::new();
    for &mapping in mappings {
        let Some(next) = Range::parse(mapping) else {
            return mappings.iter().map(|&mapping| mapping.to_owned()).collect();
        };
        match ranges.iter_mut().find(|range| range.goes_on_with(&next)) {
            Some(range) => range.more += 1,
            None => ranges.push(next),
        }
    }
    ranges.iter().map(Range::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_common::cni::protocol::ErrorCode;

    fn faults(msg: &str, details: &str) -> Faults {
        Faults::of(&CniError::new(ErrorCode::CheckFailed, msg).with_details(details))
    }

    #[test]
    fn what_is_missing_is_told_by_where_it_is_missing_from() {
        let found = faults(
            "port mappings are not as ADD made them: element { tcp . 80 } is missing from map inet t m \
             (and 5 more); run cni-chain restore to put them back",
            "element { udp . 80 } is missing from map inet t m; chain inet t a is missing; x is odd; \
             chain inet t b is missing",
        );
        assert_eq!(
            found,
            Faults {
                claim: "port mappings are not as ADD made them".to_owned(),
                groups: [
                    "missing from map inet t m: tcp . 80, udp . 80",
                    "missing from table inet t: chains a, b",
                    "x is odd",
                    "and 1 more",
                ]
                .map(str::to_owned)
                .to_vec(),
                remedy: "run cni-chain restore to put them back".to_owned(),
            }
        );
    }

    #[test]
    fn mappings_are_told_together() {
        let found = faults(
            "port mappings are not as ADD made them: mapping *:80/tcp -> 10.0.0.2:80 is missing from \
             table inet t (and 1 more); run cni-chain restore to put them back",
            "mapping *:80/tcp -> [fd00::2]:80 is missing from table inet t",
        );
        let all =
            "missing from table inet t: mappings *:80/tcp -> 10.0.0.2:80, *:80/tcp -> [fd00::2]:80";
        assert_eq!(found.groups, [all]);
    }

    #[test]
    fn ports_in_a_row_are_told_as_one() {
        let all = [
            "*:80/tcp -> 10.0.0.2:8080",
            "*:80/tcp -> [fd00::2]:8080",
            "*:81/tcp -> 10.0.0.2:8081",
            "*:81/tcp -> [fd00::2]:8081",
            "*:81/udp -> 10.0.0.2:8081",
            "*:82/tcp -> 10.0.0.2:8080",
            "*:65535/tcp -> 10.0.0.2:8082",
        ];
        let told = [
            "*:80-81/tcp -> 10.0.0.2:8080-8081",
            "*:80-81/tcp -> [fd00::2]:8080-8081",
            "*:81/udp -> 10.0.0.2:8081",
            "*:82/tcp -> 10.0.0.2:8080",
            "*:65535/tcp -> 10.0.0.2:8082",
        ];
        assert_eq!(ranges(&all), told);
        assert_eq!(
            ranges(&["*:80/tcp -> 10.0.0.2:8080", "odd"]),
            ["*:80/tcp -> 10.0.0.2:8080", "odd"]
        );
        let found = faults(
            "it is not so: mapping *:1/tcp -> 10.0.0.2:1 is missing from table inet t",
            "mapping *:2/tcp -> 10.0.0.2:2 is missing from table inet t",
        );
        assert_eq!(found.groups, ["missing from table inet t: mapping *:1-2/tcp -> 10.0.0.2:1-2"]);
    }

    #[test]
    fn what_cannot_be_grouped_stays() {
        let found = faults("what tuning set was changed since: mtu is 1500", "");
        assert_eq!(found.claim, "what tuning set was changed since: mtu is 1500");
        assert!(found.groups.is_empty() && found.remedy.is_empty());
        let found = faults("a: b (and 2 more); do c", "d; e");
        assert_eq!((found.claim.as_str(), found.groups.len()), ("a: b (and 2 more)", 2));
    }
}
