//! The configuration of a `tuning` entry, typed, merged and validated. No I/O.

use std::path::PathBuf;

use cni_common::cni::protocol::json::Json;
use cni_common::cni::protocol::{CniError, ErrorCode, Field, Fields, NetworkConfig};

use crate::args;
use crate::key::Key;
use crate::mac::Mac;

/// Where the originals are kept unless `dataDir` says otherwise: the Go plugin's place.
pub(crate) const DEFAULT_DATA_DIR: &str = "/run/cni/tuning";

/// What IP can work with; a device may allow less.
const MTU_MIN: u32 = 68;
const MTU_MAX: u64 = 65535;
/// The kernel would take -1 as four billion.
const TX_QUEUE_LEN_MAX: u64 = i32::MAX as u64;
/// A page: the kernel refuses longer values.
const VALUE_MAX: usize = 4095;

/// What the configuration asks for; `None` leaves something alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Sysctls in the order written, each file once.
    pub(crate) sysctls: Vec<WantedSysctl>,
    pub(crate) mac: Option<Mac>,
    /// Switch promiscuous mode on. There is no way to ask for off.
    pub(crate) promisc: bool,
    /// In bytes.
    pub(crate) mtu: Option<u32>,
    /// All-multicast mode, on or off.
    pub(crate) allmulti: Option<bool>,
    /// Length of the transmit queue in packets.
    pub(crate) tx_queue_len: Option<u32>,
    pub(crate) data_dir: PathBuf,
    /// Whether a missing allowlist denies every sysctl.
    pub(crate) allowlist_strict: bool,
}

/// A sysctl that is to have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedSysctl {
    pub(crate) key: Key,
    /// The value as it was written.
    pub(crate) value: String,
}

/// What a source says about a property.
enum Said<T> {
    Nothing,
    /// `""` or 0.
    LeaveAlone,
    Value(T),
}

impl<T> Said<T> {
    /// What holds after this source, if `earlier` held before.
    fn over(self, earlier: Option<T>) -> Option<T> {
        match self {
            Self::Nothing => earlier,
            Self::LeaveAlone => None,
            Self::Value(value) => Some(value),
        }
    }
}

impl Config {
    /// Reads and validates `network`'s entry and `CNI_ARGS`.
    ///
    /// Later sources win: top-level keys, `CNI_ARGS` and `runtimeConfig` (both for the MAC
    /// only), `args.cni`.
    pub(crate) fn read(
        network: &NetworkConfig,
        cni_args: &str,
        ifname: &str,
    ) -> Result<Self, CniError> {
        let args_mac = args::mac(cni_args)?;
        network.with_fields(|top| {
            let mut config = Self {
                sysctls: sysctls(&top.field("sysctl"), ifname)?,
                mac: mac(&top.field("mac"))?.over(None),
                promisc: top.field("promisc").boolean()?.unwrap_or(false),
                mtu: mtu(&top.field("mtu"))?.over(None),
                allmulti: top.field("allmulti").boolean()?,
                tx_queue_len: tx_queue_len(&top.field("txQLen"))?,
                data_dir: data_dir(top)?,
                allowlist_strict: top.field("allowlistStrict").boolean()?.unwrap_or(false),
            };
            if !args_mac.is_empty() {
                let bad = |why| {
                    CniError::config(format!("MAC in CNI_ARGS must be {why}, but is {args_mac:?}"))
                };
                config.mac = Some(Mac::parse(args_mac).map_err(bad)?);
            }
            if let Some(runtime) = top.field("runtimeConfig").object()?
                && let Said::Value(mac) = mac(&runtime.field("mac"))?
            {
                config.mac = Some(mac);
            }
            if let Some(args) = top.field("args").object()?
                && let Some(cni) = args.field("cni").object()?
            {
                config.override_with(cni, ifname)?;
            }
            Ok(config)
        })
    }

    /// `args.cni`: what is given there wins, also where it says "leave it alone".
    fn override_with(&mut self, cni: Fields<'_>, ifname: &str) -> Result<(), CniError> {
        for sysctl in sysctls(&cni.field("sysctl"), ifname)? {
            match self.sysctls.iter_mut().find(|earlier| earlier.key.meets(&sysctl.key)) {
                Some(earlier) => *earlier = sysctl,
                None => self.sysctls.push(sysctl),
            }
        }
        self.mac = mac(&cni.field("mac"))?.over(self.mac);
        self.promisc = cni.field("promisc").boolean()?.unwrap_or(self.promisc);
        self.mtu = mtu(&cni.field("mtu"))?.over(self.mtu);
        self.allmulti = cni.field("allmulti").boolean()?.or(self.allmulti);
        self.tx_queue_len = tx_queue_len(&cni.field("txQLen"))?.or(self.tx_queue_len);
        Ok(())
    }

    /// What DEL and GC need, whatever else is wrong: where the originals are. They give back what
    /// was kept, not what the configuration says by now.
    pub(crate) fn read_leniently(network: &NetworkConfig) -> Self {
        let data_dir = network.with_fields(data_dir);
        Self {
            data_dir: data_dir.unwrap_or_else(|_| DEFAULT_DATA_DIR.into()),
            sysctls: Vec::new(),
            mac: None,
            promisc: false,
            mtu: None,
            allmulti: None,
            tx_queue_len: None,
            allowlist_strict: false,
        }
    }
}

fn data_dir(top: Fields<'_>) -> Result<PathBuf, CniError> {
    let text = top.field("dataDir").string()?.filter(|text| !text.is_empty());
    Ok(text.unwrap_or(DEFAULT_DATA_DIR).into())
}

fn mac(field: &Field<'_>) -> Result<Said<Mac>, CniError> {
    match field.string()? {
        None => Ok(Said::Nothing),
        Some("") => Ok(Said::LeaveAlone),
        Some(text) => Mac::parse(text).map(Said::Value).map_err(|why| field.expected(why)),
    }
}

fn mtu(field: &Field<'_>) -> Result<Said<u32>, CniError> {
    let wrong = || field.expected("0 to leave it alone, or an integer from 68 to 65535");
    match field.integer(0..=MTU_MAX).map_err(|_| wrong())?.map(u32::try_from) {
        None => Ok(Said::Nothing),
        Some(Ok(0)) => Ok(Said::LeaveAlone),
        Some(Ok(mtu)) if mtu >= MTU_MIN => Ok(Said::Value(mtu)),
        Some(_) => Err(wrong()),
    }
}

fn tx_queue_len(field: &Field<'_>) -> Result<Option<u32>, CniError> {
    Ok(field.integer(0..=TX_QUEUE_LEN_MAX)?.and_then(|length| u32::try_from(length).ok()))
}

fn sysctls(field: &Field<'_>, ifname: &str) -> Result<Vec<WantedSysctl>, CniError> {
    let mut sysctls: Vec<WantedSysctl> = Vec::new();
    let mut seen: Vec<Key> = Vec::new();
    let Some(fields) = field.object()? else { return Ok(sysctls) };
    for (text, value) in fields.members().iter() {
        if Key::names_interface(text) && is_no_interface(ifname) {
            return Err(CniError::new(
                ErrorCode::InvalidEnvironment,
                format!(
                    "CNI_IFNAME {ifname:?} cannot stand for IFNAME in {text:?} of {field}: Linux has no interface of that name, but settings of all interfaces; name the container's interface"
                ),
            ));
        }
        let key = Key::parse(text, ifname).ok_or_else(|| {
            CniError::config(format!(
                "invalid net sysctl key: {text:?} in {field}: it must name a file below /proc/sys/net, \
                 as in net.ipv4.conf.IFNAME.arp_filter"
            ))
        })?;
        if let Some(first) = seen.iter().find(|earlier| earlier.meets(&key)) {
            return Err(CniError::config(format!(
                "duplicated sysctl keys are not allowed: {:?} and {text:?} in {field} are the same: remove one",
                first.text()
            )));
        }
        seen.push(key.clone());
        // An empty value changes nothing, as in the Go plugin.
        if let Some(value) = value_of(field, text, value)?.filter(|value| !value.is_empty()) {
            sysctls.push(WantedSysctl { key, value });
        }
    }
    Ok(sysctls)
}

/// What `/proc/sys/net` has beside the interfaces. An allowlist that lets networks set something of
/// their own interface does not let them set it of every one.
fn is_no_interface(ifname: &str) -> bool {
    matches!(ifname, "all" | "default")
}

fn value_of(field: &Field<'_>, key: &str, value: &Json) -> Result<Option<String>, CniError> {
    let wrong = |what: &str| Err(CniError::config(format!("{field}[{key:?}] must be {what}")));
    let text = match value {
        Json::Null => return Ok(None),
        Json::String(text) => text.clone(),
        // Not in the Go plugin, which wants quotes around numbers.
        Json::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        other => return wrong(&format!("a string or an integer, but is {}", other.kind())),
    };
    if text.len() > VALUE_MAX {
        return wrong(&format!("no longer than {VALUE_MAX} bytes"));
    }
    if text.contains(|c: char| c.is_control() && c != '\t') {
        return wrong("one line of text without control characters");
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    fn read_with(args: &str, text: &str) -> Result<Config, CniError> {
        let text = format!(r#"{{"name":"n","cniVersion":"1.0.0",{text}}}"#);
        let network = NetworkConfig::from_stdin(text.as_bytes()).expect("envelope");
        Config::read(&network, args, "eth0")
    }

    fn read(text: &str) -> Result<Config, CniError> {
        read_with("", text)
    }

    fn sysctls_of(text: &str) -> Vec<(String, String)> {
        let sysctls = read(text).expect("valid").sysctls;
        sysctls.into_iter().map(|s| (s.key.text().to_owned(), s.value)).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn defaults() {
        let config = read(r#""sysctl":null,"mac":"","mtu":0,"promisc":false,"args":null"#);
        let config = config.expect("valid");
        assert!(Plan::new(&config).is_empty() && !config.allowlist_strict);
        assert_eq!(config.data_dir, PathBuf::from(DEFAULT_DATA_DIR));
    }

    #[test]
    fn sysctls_keep_their_order() {
        assert_eq!(
            sysctls_of(
                r#""sysctl":{"net.z.z":"1","net.a.a":"2","net.m.m":3,"net.e.e":"","net.n.n":null}"#
            ),
            pairs(&[("net.z.z", "1"), ("net.a.a", "2"), ("net.m.m", "3")])
        );
    }

    #[test]
    fn args_override_by_file_and_work_alone() {
        assert_eq!(
            sysctls_of(
                r#""sysctl":{"net.a.a":"1","net.b.b":"1"},"args":{"cni":{"sysctl":{"net/a/a":"2","net.c.c":"3"}}}"#
            ),
            pairs(&[("net/a/a", "2"), ("net.b.b", "1"), ("net.c.c", "3")])
        );
        assert_eq!(
            sysctls_of(r#""args":{"cni":{"sysctl":{"net.c.c":"3"}}}"#),
            pairs(&[("net.c.c", "3")])
        );
    }

    #[test]
    fn duplicates_are_found_in_any_spelling() {
        for keys in [
            r#""net.a.a":"1","net.a.a":"1""#,
            r#""net.a.a":"1","net/a/a":"2""#,
            r#""net.a.a":"","net.a.a":"2""#,
            r#""net.ipv4.conf.IFNAME.x":"1","net.ipv4.conf.eth0.x":"2""#,
        ] {
            for text in [
                format!(r#""sysctl":{{{keys}}}"#),
                format!(r#""args":{{"cni":{{"sysctl":{{{keys}}}}}}}"#),
            ] {
                let error = read(&text).expect_err(&text);
                assert!(error.msg.contains("duplicated sysctl keys"), "{}", error.msg);
            }
        }
    }

    #[test]
    fn macs_and_their_precedence() {
        let mac = |args: &str, text: &str| {
            read_with(args, text).expect("valid").mac.map(|mac| mac.to_string())
        };
        let (base, args) = (r#""mac":"02:00:00:00:00:01""#, "MAC=02:00:00:00:00:02");
        let runtime = r#""RuntimeConfig":{"mac":"02:00:00:00:00:03"}"#;
        let cni = r#""args":{"cni":{"mac":"02:00:00:00:00:04"}}"#;
        let expect = |last: u8| Some(format!("02:00:00:00:00:{last:02}"));
        assert_eq!(mac("", base), expect(1));
        assert_eq!(mac(args, base), expect(2));
        assert_eq!(mac(args, &format!("{base},{runtime}")), expect(3));
        assert_eq!(mac(args, &format!("{base},{runtime},{cni}")), expect(4));
        assert_eq!(mac("", &format!(r#"{base},"runtimeConfig":{{"mac":""}}"#)), expect(1));
        assert_eq!(mac("", &format!(r#"{base},"args":{{"cni":{{"mac":""}}}}"#)), None);
    }

    #[test]
    fn args_can_say_leave_it_alone() {
        let config = read(
            r#""promisc":true,"mtu":1400,"allmulti":true,"txQLen":5,
               "args":{"cni":{"promisc":false,"mtu":0,"allmulti":false,"txQLen":0}}"#,
        );
        let config = config.expect("valid");
        assert_eq!((config.promisc, config.mtu), (false, None));
        assert_eq!((config.allmulti, config.tx_queue_len), (Some(false), Some(0)));
    }

    #[test]
    fn errors_name_the_field_and_what_is_allowed() {
        for (text, words) in [
            (r#""mtu":10"#, ["mtu must be", "68 to 65535"]),
            (r#""mtu":-5"#, ["mtu must be", "but is -5"]),
            (r#""mtu":70000"#, ["mtu must be", "70000"]),
            (r#""txQLen":-1"#, ["txQLen must be", "0 to 2147483647"]),
            (r#""mac":"zz""#, ["mac must be six bytes", "\"zz\""]),
            (r#""mac":"01:00:5e:00:00:01""#, ["mac must be a unicast address", "01:00"]),
            (r#""args":{"cni":{"mac":"x"}}"#, ["args.cni.mac must be", "\"x\""]),
            (r#""runtimeConfig":{"mac":"x"}"#, ["runtimeConfig.mac must be", "\"x\""]),
            (
                r#""sysctl":{"kernel.msgmax":"1"}"#,
                ["invalid net sysctl key: \"kernel.msgmax\"", "below"],
            ),
            (r#""sysctl":{"net.a.a":true}"#, ["sysctl[\"net.a.a\"]", "a string or an integer"]),
            (r#""sysctl":{"net.a.a":1.5}"#, ["sysctl[\"net.a.a\"]", "a string or an integer"]),
            (r#""sysctl":{"net.a.a":"1\n2"}"#, ["sysctl[\"net.a.a\"]", "one line"]),
            (r#""sysctl":["net.a.a"]"#, ["sysctl must be an object", "a list"]),
            (r#""promisc":"yes""#, ["promisc must be", "\"yes\""]),
            (r#""allowlistStrict":1"#, ["allowlistStrict must be", "1"]),
        ] {
            let error = read(text).expect_err(text);
            assert_eq!(error.code.number(), 7);
            for word in words {
                assert!(error.msg.contains(word), "{word}: {}", error.msg);
            }
        }
        assert!(read_with("MAC=zz", r#""mtu":0"#).expect_err("zz").msg.contains("MAC in CNI_ARGS"));
    }
}
