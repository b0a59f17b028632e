//! The configuration of a `bandwidth` entry, typed and validated. No I/O.

use cni_common::cni::protocol::{CniError, Field, Fields, NetworkConfig};
use ipnet::IpNet;

/// What the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The limit of what goes into the container.
    pub(crate) ingress: Option<Limit>,
    /// The limit of what comes out of it.
    pub(crate) egress: Option<Limit>,
    /// Which remote addresses the limits are about.
    pub(crate) subnets: Subnets,
    /// How packets wait that are too many for now.
    pub(crate) queue: QueueKind,
    /// How long a packet may wait in a full queue, in milliseconds.
    pub(crate) latency: u32,
    /// Take a runtime's placeholder for a burst at its word.
    pub(crate) honor_runtime_burst: bool,
}

/// A rate and the burst that goes with it, as they are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The average.
    pub(crate) rate: BitsPerSecond,
    /// How much may pass at once after a pause.
    pub(crate) burst: Bits,
}

/// A configured rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BitsPerSecond(pub(crate) u64);

/// A configured amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bits(pub(crate) u64);

/// How packets wait for a token bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum QueueKind {
    /// As [`Self::FqCodel`] if the kernel has it, else as [`Self::Fifo`].
    #[default]
    Best,
    /// A queue for each flow, none of which is left to stand.
    FqCodel,
    /// One queue for all.
    Fifo,
}

/// Which remote addresses the limits are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subnets {
    /// Every frame, whatever it carries.
    All,
    /// Packets from and to these (`shapedSubnets`).
    Only(Vec<IpNet>),
    /// All but packets from and to these (`unshapedSubnets`).
    Except(Vec<IpNet>),
}

/// The default of `latency`: the Go plugin's constant.
pub(crate) const DEFAULT_LATENCY: u32 = 25;
/// A minute in a queue is as good as a loss.
const LONGEST_LATENCY: u64 = 60_000;
/// The largest burst that the Go plugin takes is the last below this, in bytes.
const BURST_END: u64 = 0xffff_ffff;

/// The keys that decide whether the entry's own limits count, or the runtime's.
const LIMIT_KEYS: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];

/// What runtimes send as a burst because their user cannot choose one: kubelet's 2^31 - 1,
/// containerd's 2^32 - 1, CRI-O's 8 * (2^32 - 1) - 1.
const PLACEHOLDERS: [Bits; 3] = [Bits(0x7fff_ffff), Bits(0xffff_ffff), Bits(34_359_738_359)];

impl Bits {
    /// Whether this is a number that means that nobody chose one.
    pub(crate) fn is_placeholder(self) -> bool {
        PLACEHOLDERS.contains(&self)
    }
}

impl Config {
    /// Reads the configuration.
    pub(crate) fn read(network: &NetworkConfig) -> Result<Self, CniError> {
        network.with_fields(|top| {
            let queue = queue(&top.field("queue"))?;
            let latency = top.field("latency").integer(1..=LONGEST_LATENCY)?;
            let honor_runtime_burst = top.field("honorRuntimeBurst").boolean()?.unwrap_or(false);
            let config = |limits: Fields<'_>, subnets| {
                Ok(Self {
                    ingress: limit(limits, "ingressRate", "ingressBurst")?,
                    egress: limit(limits, "egressRate", "egressBurst")?,
                    subnets,
                    queue,
                    latency: latency.and_then(|l| l.try_into().ok()).unwrap_or(DEFAULT_LATENCY),
                    honor_runtime_burst,
                })
            };
            // Even a key that holds null counts: the set is replaced as a whole, never merged.
            let own = |key: &str| LIMIT_KEYS.iter().any(|limit| limit.eq_ignore_ascii_case(key));
            if top.members().iter().any(|(key, _)| own(key)) {
                return config(top, subnets(top)?);
            }
            let runtime = top.field("runtimeConfig");
            let Some(runtime) = runtime.object()? else { return config(top, Subnets::All) };
            let bandwidth = runtime.field("bandwidth");
            let Some(limits) = bandwidth.object()? else { return config(top, Subnets::All) };
            let chosen = match subnets(limits)? {
                // The rate is a pod's, the subnets are the network's.
                Subnets::All => subnets(top)?,
                chosen => chosen,
            };
            config(limits, chosen)
        })
    }

    /// An error if the entry's own subnets are none, whether or not there are limits for them.
    pub(crate) fn judge_subnets(network: &NetworkConfig) -> Result<(), CniError> {
        network.with_fields(|top| subnets(top).map(drop))
    }

    /// What DEL can know of the configuration; none if it is not valid, which must not keep DEL from
    /// its work.
    pub(crate) fn read_leniently(network: &NetworkConfig) -> Option<Self> {
        Self::read(network).ok()
    }

    /// Whether there is nothing to limit.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

fn limit(
    fields: Fields<'_>,
    rate_key: &'static str,
    burst_key: &'static str,
) -> Result<Option<Limit>, CniError> {
    let number = |key| fields.field(key).integer(0..=u64::MAX).map(Option::unwrap_or_default);
    let (rate, burst) = (number(rate_key)?, number(burst_key)?);
    let fail = |text: &str, remedy: String| Err(CniError::config(text).with_details(remedy));
    match (rate, burst) {
        (0, 0) => Ok(None),
        (_, 0) => fail(
            "if rate is set, burst must also be set",
            format!("{rate_key} is {rate} bits per second: set {burst_key}, in bits"),
        ),
        (0, _) => fail(
            "if burst is set, rate must also be set",
            format!("{burst_key} is {burst} bits: set {rate_key}, in bits per second"),
        ),
        _ if burst / 8 >= BURST_END => fail(
            "burst cannot be more than 4GB",
            format!("{burst_key} is {burst} bits: set at most {}", BURST_END * 8 - 1),
        ),
        _ if rate < 8 => fail(
            &format!("{rate_key} of {rate} bits per second is less than a byte per second"),
            format!("set {rate_key} to at least 8, or both it and {burst_key} to 0 for no limit"),
        ),
        _ => Ok(Some(Limit { rate: BitsPerSecond(rate), burst: Bits(burst) })),
    }
}

fn queue(field: &Field<'_>) -> Result<QueueKind, CniError> {
    match field.string()? {
        None => Ok(QueueKind::Best),
        Some("fq_codel") => Ok(QueueKind::FqCodel),
        Some("fifo") => Ok(QueueKind::Fifo),
        Some(other) => Err(CniError::config(format!(
            "unrecognized queue {other:?}: use \"fq_codel\" or \"fifo\", or remove the key"
        ))),
    }
}

fn subnets(fields: Fields<'_>) -> Result<Subnets, CniError> {
    let shaped = networks(&fields.field("shapedSubnets"))?;
    let unshaped = networks(&fields.field("unshapedSubnets"))?;
    match (shaped.is_empty(), unshaped.is_empty()) {
        (true, true) => Ok(Subnets::All),
        (false, true) => Ok(Subnets::Only(shaped)),
        (true, false) => Ok(Subnets::Except(unshaped)),
        (false, false) => Err(CniError::config(
            "unshapedSubnets and shapedSubnets cannot be both specified, one of them should be discarded",
        )),
    }
}

/// Without host bits and duplicates: each becomes a filter.
fn networks(list: &Field<'_>) -> Result<Vec<IpNet>, CniError> {
    let mut networks: Vec<IpNet> = Vec::new();
    for item in list.list()?.into_iter().flatten() {
        let text = item.string()?.ok_or_else(|| item.expected("a string"))?;
        let network: IpNet = text.parse().map_err(|error: ipnet::AddrParseError| {
            CniError::config(format!(
                "bad subnet {text:?} provided: {item} must be an address and a prefix length, as in 10.0.0.0/8"
            ))
            .with_details(error.to_string())
        })?;
        if !networks.contains(&network.trunc()) {
            networks.push(network.trunc());
        }
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(members: &str) -> Result<Config, String> {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"bandwidth",{members}}}"#);
        let network = NetworkConfig::from_stdin(text.as_bytes()).expect("JSON");
        Config::read(&network).map_err(|error| error.msg)
    }

    fn limit_of(rate: u64, burst: u64) -> Limit {
        Limit { rate: BitsPerSecond(rate), burst: Bits(burst) }
    }

    #[test]
    fn keys_match_in_any_case() {
        let config = read(
            r#""RuntimeConfig":{"bandWidth":{"IngressRate":1,"INGRESSBURST":2,"egressrate":0}}"#,
        );
        assert!(config.expect_err("1 bit per second").starts_with("ingressRate of 1 bits"));
        let config = read(r#""RUNTIMECONFIG":{"bandWidth":{"INGRESSRATE":800,"ingressburst":2}}"#);
        assert_eq!(config.expect("valid").ingress, Some(limit_of(800, 2)));
    }

    #[test]
    fn the_entry_s_own_limits_mask_the_runtime_s_as_a_whole() {
        const RUNTIME: &str =
            r#""runtimeConfig":{"bandwidth":{"ingressRate":8000,"ingressBurst":8000}}"#;
        let read = |own: &str| read(&format!("{own}{RUNTIME}"));
        assert_eq!(read("").expect("valid").ingress, Some(limit_of(8000, 8000)));
        for own in [r#""ingressRate":0,"#, r#""egressBurst":null,"#] {
            assert!(read(own).expect("valid").is_unlimited(), "{own}");
        }
        let own = read(r#""egressRate":80,"egressBurst":90,"#).expect("valid");
        assert_eq!((own.ingress, own.egress), (None, Some(limit_of(80, 90))));
        assert_eq!(
            read(r#""ingressBurst":123,"#),
            Err("if burst is set, rate must also be set".to_owned())
        );
    }

    #[test]
    fn a_masked_set_is_not_even_looked_at() {
        let config = read(r#""ingressRate":0,"runtimeConfig":{"bandwidth":{"ingressRate":"x"}}"#);
        assert!(config.expect("valid").is_unlimited());
    }

    #[test]
    fn pairs_that_make_no_limit() {
        for (rate, burst, expected) in [
            (1_u64, 0_u64, "if rate is set, burst must also be set"),
            (0, 1, "if burst is set, rate must also be set"),
            (5000, 34_359_738_360, "burst cannot be more than 4GB"),
            (5000, 1_u64 << 35, "burst cannot be more than 4GB"),
            (7, 8, "ingressRate of 7 bits per second is less than a byte per second"),
        ] {
            let text = format!(r#""ingressRate":{rate},"ingressBurst":{burst}"#);
            assert_eq!(read(&text), Err(expected.to_owned()), "{text}");
        }
        let largest = read(r#""ingressRate":5000,"ingressBurst":34359738352"#).expect("valid");
        assert_eq!(largest.ingress, Some(limit_of(5000, 34_359_738_352)));
        assert!(read(r#""ingressRate":0,"ingressBurst":0"#).expect("valid").is_unlimited());
    }

    #[test]
    fn the_ingress_pair_is_judged_first() {
        let error = read(r#""ingressRate":1,"egressBurst":1"#).expect_err("both are wrong");
        assert_eq!(error, "if rate is set, burst must also be set");
    }

    #[test]
    fn numbers_must_be_whole_and_not_negative() {
        for bad in ["-1", "1.5", "\"1M\"", "18446744073709551616", "true"] {
            let error = read(&format!(r#""ingressRate":{bad},"ingressBurst":1"#));
            assert!(error.expect_err(bad).starts_with("ingressRate must be an integer"), "{bad}");
        }
    }

    #[test]
    fn subnets_of_both_families() {
        let text = r#""shapedSubnets":["10.1.2.3/8","fd00::/8","10.0.0.0/8"]"#;
        let limits = r#""ingressRate":8000,"ingressBurst":8000"#;
        let shaped = vec!["10.0.0.0/8".parse().expect("v4"), "fd00::/8".parse().expect("v6")];
        let config = read(&format!("{limits},{text}")).expect("valid");
        assert_eq!(config.subnets, Subnets::Only(shaped.clone()));
        // The network's subnets go with a pod's rate.
        let config = read(&format!(r#"{text},"runtimeConfig":{{"bandwidth":{{{limits}}}}}"#));
        assert_eq!(config.expect("valid").subnets, Subnets::Only(shaped));
        let own = r#""unshapedSubnets":["192.0.2.0/24"]"#;
        let config = read(&format!(r#"{text},"runtimeConfig":{{"bandwidth":{{{limits},{own}}}}}"#));
        let expected = Subnets::Except(vec!["192.0.2.0/24".parse().expect("v4")]);
        assert_eq!(config.expect("valid").subnets, expected);
        assert_eq!(
            read(&format!("{limits},{text},{own}")),
            Err("unshapedSubnets and shapedSubnets cannot be both specified, one of them should \
                 be discarded"
                .to_owned())
        );
        let error = read(&format!(r#"{limits},"shapedSubnets":["10.0.0.0"]"#));
        assert!(error.expect_err("no length").starts_with("bad subnet \"10.0.0.0\" provided"));
    }

    #[test]
    fn latency_is_a_number_of_milliseconds() {
        assert_eq!(read(r#""latency":5"#).expect("valid").latency, 5);
        assert_eq!(read(r#""latency":null"#).expect("valid").latency, DEFAULT_LATENCY);
        for bad in ["0", "60001", "\"25ms\""] {
            assert!(read(&format!(r#""latency":{bad}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn queues_have_two_names() {
        let queue = |text: &str| read(&format!(r#""queue":{text}"#)).map(|config| config.queue);
        assert_eq!(read("\"latency\":5").map(|config| config.queue), Ok(QueueKind::Best));
        assert_eq!(queue("null"), Ok(QueueKind::Best));
        assert_eq!(queue("\"fq_codel\""), Ok(QueueKind::FqCodel));
        assert_eq!(queue("\"fifo\""), Ok(QueueKind::Fifo));
        for bad in ["\"\"", "\"FIFO\"", "\"cake\"", "1"] {
            assert!(queue(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_runtimes_send() {
        for burst in [2_147_483_647, 4_294_967_295, 34_359_738_359] {
            assert!(Bits(burst).is_placeholder());
            assert!(!Bits(burst - 1).is_placeholder());
        }
    }

    proptest! {
        #[test]
        fn every_pair_is_judged(rate: u64, burst: u64) {
            let config = read(&format!(r#""egressRate":{rate},"egressBurst":{burst}"#));
            let valid = rate >= 8 && (1..34_359_738_360).contains(&burst);
            prop_assert_eq!(config.is_ok(), valid || (rate, burst) == (0, 0));
        }
    }
}
