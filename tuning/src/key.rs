//! Sysctl keys and the files they name. No I/O.
//!
//! A key is taken apart into names before anything is put in place of `IFNAME`, and only names
//! that cannot lead upwards make a [`SysctlPath`].

use std::fmt;

/// What stands for the interface in a key.
const IFNAME: &str = "IFNAME";
/// The kernel's limit for one name of a path.
const NAME_MAX: usize = 255;

/// A file below `/proc/sys/net`, which no value of this type can leave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SysctlPath {
    /// At least one name, none of them empty, `.`, `..` or with a `/` or a control character.
    names: Vec<String>,
}

impl SysctlPath {
    fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut names = names.into_iter().filter(|name| !name.is_empty());
        if names.next() != Some("net") {
            return None;
        }
        let names: Vec<String> = names.map(str::to_owned).collect();
        let harmless = |name: &String| {
            name.len() <= NAME_MAX
                && !matches!(name.as_str(), "." | "..")
                && !name.contains(|c: char| c == '/' || c.is_control())
        };
        (!names.is_empty() && names.iter().all(harmless)).then_some(Self { names })
    }

    /// Reads the form that [`fmt::Display`] writes, `/proc/sys/net/…`.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Self::new(text.strip_prefix("/proc/sys/")?.split('/'))
    }

    /// The path from `/proc/sys/net` on.
    pub(crate) fn below_net(&self) -> String {
        self.names.join("/")
    }

    /// The names of that path, at least one.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether the file is one of those that the kernel keeps for each interface.
    pub(crate) fn is_of_interface(&self, ifname: &str) -> bool {
        self.names.iter().any(|name| name == ifname)
    }

    fn with_interface(mut self, ifname: &str) -> Option<Self> {
        if let Some(name) = self.names.iter_mut().find(|name| name.contains(IFNAME)) {
            *name = name.replacen(IFNAME, ifname, 1);
        }
        Self::new(std::iter::once("net").chain(self.names.iter().map(String::as_str)))
    }
}

impl fmt::Display for SysctlPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/proc/sys/net/{}", self.below_net())
    }
}

/// A key as it was written, and what it may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    text: String,
    readings: Vec<Reading>,
}

/// One meaning of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// With `IFNAME` as it was written.
    pattern: SysctlPath,
    /// With the interface's name.
    path: SysctlPath,
}

impl Key {
    /// Takes a key apart; `None` if it names nothing below `/proc/sys/net`.
    ///
    /// The first reading is the Go plugin's, for which `.` and `/` both separate. The second one,
    /// for keys with both, is sysctl(8)'s: the separator that comes first is the separator, and
    /// the other one stands for a dot in a name, as in `net/ipv4/conf/eth0.100/arp_filter`.
    pub(crate) fn parse(text: &str, ifname: &str) -> Option<Self> {
        let mut readings = Vec::new();
        readings.extend(Reading::new(text.split(['.', '/']), ifname));
        if text.contains('.') && text.contains('/') {
            let inner = text.trim_start_matches(['.', '/']);
            let second = match inner.find(['.', '/']).map(|first| inner.as_bytes()[first]) {
                Some(b'.') => {
                    let names: Vec<String> =
                        inner.split('.').map(|name| name.replace('/', ".")).collect();
                    Reading::new(names.iter().map(String::as_str), ifname)
                }
                _ => Reading::new(inner.split('/'), ifname),
            };
            readings.extend(second.filter(|second| !readings.contains(second)));
        }
        (!readings.is_empty()).then(|| Self { text: text.to_owned(), readings })
    }

    /// Whether `IFNAME` in a key stands for the interface.
    pub(crate) fn names_interface(text: &str) -> bool {
        text.contains(IFNAME)
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The files it may mean, in the order in which they are to be tried.
    pub(crate) fn readings(&self) -> &[Reading] {
        &self.readings
    }

    /// The one that is tried first.
    pub(crate) fn first_reading(&self) -> &Reading {
        // A key without one is none.
        &self.readings[0]
    }

    /// Whether both keys may mean the same file.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.readings.iter().any(|one| other.readings.iter().any(|two| one.path == two.path))
    }
}

impl Reading {
    fn new<'a>(names: impl IntoIterator<Item = &'a str>, ifname: &str) -> Option<Self> {
        let pattern = SysctlPath::new(names)?;
        Some(Self { path: pattern.clone().with_interface(ifname)?, pattern })
    }

    pub(crate) fn path(&self) -> &SysctlPath {
        &self.path
    }

    /// The spellings of this meaning that an allowlist may use: with slashes, and with dots
    /// unless a name holds one, which would make `eth0.100` look like a part of `eth0`.
    pub(crate) fn spellings(&self) -> Vec<String> {
        let names = &self.pattern.names;
        let mut spellings = vec![format!("net/{}", names.join("/"))];
        if !names.iter().any(|name| name.contains('.')) {
            spellings.push(format!("net.{}", names.join(".")));
        }
        spellings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::Config as Runs;

    fn paths(key: &str, ifname: &str) -> Vec<String> {
        let key = Key::parse(key, ifname);
        let readings = key.iter().flat_map(Key::readings);
        readings.map(|reading| reading.path().below_net()).collect()
    }

    #[test]
    fn dots_and_slashes_both_separate() {
        for key in [
            "net.core.somaxconn",
            "net/core/somaxconn",
            "/net..core/somaxconn",
            "net/../core/somaxconn",
            "net.core.somaxconn.",
        ] {
            assert_eq!(paths(key, "eth0")[0], "core/somaxconn", "{key}");
        }
    }

    #[test]
    fn the_interface_is_one_name_whatever_it_holds() {
        let path = "ipv4/conf/eth0.100/log_martians";
        assert_eq!(paths("net.ipv4.conf.IFNAME.log_martians", "eth0.100"), [path]);
        assert_eq!(paths("net/ipv4/conf/IFNAME/log_martians", "eth0.100"), [path]);
        assert_eq!(paths("net.ipv4.conf.xIFNAME.IFNAME", "e"), ["ipv4/conf/xe/IFNAME"]);
        assert_eq!(paths("net.core.IFNAME", "net"), ["core/net"]);
    }

    #[test]
    fn dotted_names_are_the_second_reading() {
        let both = ["ipv4/conf/eth0/100/arp_filter", "ipv4/conf/eth0.100/arp_filter"];
        assert_eq!(paths("net/ipv4/conf/eth0.100/arp_filter", "eth1"), both);
        assert_eq!(paths("net.ipv4.conf.eth0/100.arp_filter", "eth1"), both);
        assert_eq!(paths("net.ipv4.conf.eth0.100.arp_filter", "eth1"), both[..1]);
        // Keys with one kind of separator have one reading.
        assert_eq!(paths("net/ipv4/ip_forward", "eth1"), ["ipv4/ip_forward"]);
    }

    #[test]
    fn what_is_not_below_net_is_no_key() {
        for key in [
            "",
            "net",
            "net.",
            "net/",
            "kernel.msgmax",
            "kernel/msgmax",
            "netfilter.x",
            "NET.core.x",
            ".",
            "..",
            "../net",
            "net.core.a\0b",
            "net.core.a\nb",
            "IFNAME.core.x",
        ] {
            assert_eq!(Key::parse(key, "net"), None, "{key:?}");
        }
        assert_eq!(Key::parse(&format!("net.{}", "x".repeat(256)), "eth0"), None);
        assert_eq!(paths("net/../kernel/msgmax", "eth0"), ["kernel/msgmax"], "net/kernel/msgmax");
        assert_eq!(paths("net.core.IFNAME", ".."), [""; 0]);
        assert_eq!(paths("net.core.IFNAME", "a/b"), [""; 0]);
    }

    #[test]
    fn aliases_meet() {
        let key = |text| Key::parse(text, "eth0").expect("key");
        assert!(key("net.core.x").meets(&key("net/core/x")));
        assert!(key("net.ipv4.conf.IFNAME.x").meets(&key("net.ipv4.conf.eth0.x")));
        assert!(!key("net.core.x").meets(&key("net.core.y")));
        let dotted = |text| Key::parse(text, "eth0.1").expect("key");
        assert!(dotted("net/ipv4/conf/eth0.1/x").meets(&dotted("net.ipv4.conf.IFNAME.x")));
    }

    #[test]
    fn spellings_for_allowlists() {
        let of = |text| Key::parse(text, "eth0").expect("key").readings[0].spellings();
        assert_eq!(
            of("net/ipv4.conf/IFNAME.x"),
            ["net/ipv4/conf/IFNAME/x", "net.ipv4.conf.IFNAME.x"]
        );
        let key = Key::parse("net/ipv4/conf/eth0.100/x", "eth0").expect("key");
        assert_eq!(key.readings[1].spellings(), ["net/ipv4/conf/eth0.100/x"]);
    }

    fn hostile_word() -> impl Strategy<Value = String> {
        let known = [
            "net", "IFNAME", "..", ".", "/", "//", "\0", "%2e%2e/", "self", "eth0.1", "\u{2024}",
            "../..", "proc", "\n", "\\", "ipv4", "all", " ", "~", "-",
        ];
        prop_oneof![
            4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ]
    }

    proptest! {
        #![proptest_config(Runs { cases: 100_000, ..Runs::default() })]

        /// Resolved as a kernel would do it, without knowledge of how the path was made.
        #[test]
        fn no_key_and_no_interface_leads_out_of_net(
            words in prop::collection::vec(hostile_word(), 0..6),
            joint in prop::sample::select(vec!["", ".", "/", "..", "//", "/.", "./", "../", "/../"]),
            anchored: bool,
            ifname in prop::collection::vec(hostile_word(), 0..3),
        ) {
            let ifname = ifname.concat();
            let head = if anchored { "net" } else { "" };
            let key = format!("{head}{joint}{}", words.join(joint));
            for reading in Key::parse(&key, &ifname).iter().flat_map(Key::readings) {
                let text = reading.path().to_string();
                let mut stack = Vec::new();
                for name in text.split('/') {
                    match name {
                        "" | "." => {}
                        ".." => { stack.pop(); }
                        name => stack.push(name),
                    }
                    if stack.len() >= 3 {
                        prop_assert_eq!(&stack[..3], &["proc", "sys", "net"]);
                    }
                }
                prop_assert!(stack.len() > 3 && !text.contains('\0'), "{}", text);
                prop_assert!(!text.split('/').any(|name| name == ".."));
                let again = SysctlPath::from_text(&text);
                prop_assert_eq!(again.as_ref(), Some(reading.path()));
            }
            if let Some(path) = SysctlPath::from_text(&key) {
                prop_assert!(!path.to_string().split('/').any(|name| name == ".."));
            }
        }
    }
}
