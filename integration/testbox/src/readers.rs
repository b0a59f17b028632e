//! What the kernel holds, read by programs and crates that are not ours.

/// `nf_tables`, as `nft -j` prints it and the crate `nftables` reads it.
pub mod nft {
    use nftables::helper::get_current_ruleset;
    use nftables::schema::{Chain, NfListObject, NfObject};

    /// Every object of the ruleset.
    #[track_caller]
    pub fn objects() -> Vec<NfListObject<'static>> {
        let ruleset = get_current_ruleset().expect("nft lists its ruleset");
        let all = ruleset.objects.iter().cloned();
        all.filter_map(|object| match object {
            NfObject::ListObject(object) => Some(object),
            NfObject::CmdObject(_) => None,
        })
        .collect()
    }

    /// The chains of a table, with hook and priority where they have one.
    #[track_caller]
    pub fn chains(table: &str) -> Vec<Chain<'static>> {
        let chain = |object| match object {
            NfListObject::Chain(chain) if chain.table == table => Some(chain),
            _ => None,
        };
        objects().into_iter().filter_map(chain).collect()
    }

    /// The names of all tables, with their families in front: `inet cni_portmap`.
    #[track_caller]
    pub fn tables() -> Vec<String> {
        let table = |object| match object {
            NfListObject::Table(table) => {
                let family = serde_json::to_value(table.family).expect("a family has a name");
                Some(format!("{} {}", family.as_str()?, table.name))
            }
            _ => None,
        };
        objects().into_iter().filter_map(table).collect()
    }
}

/// iptables, as the crate `iptables` reads it.
pub mod iptables {
    use iptables::IPTables;

    fn of(v6: bool) -> IPTables {
        iptables::new(v6).expect("iptables is installed")
    }

    /// The rules of a chain, in the words of `iptables -S`; none where there is no such chain.
    #[track_caller]
    pub fn rules(v6: bool, table: &str, chain: &str) -> Vec<String> {
        if !has_chain(v6, table, chain) {
            return Vec::new();
        }
        let lines = of(v6).list(table, chain).expect("iptables lists a chain");
        lines.into_iter().filter(|line| line.starts_with("-A ")).collect()
    }

    /// Whether there is such a chain.
    #[track_caller]
    pub fn has_chain(v6: bool, table: &str, chain: &str) -> bool {
        chains(v6, table).iter().any(|known| known == chain)
    }

    /// The chains of a table.
    #[track_caller]
    pub fn chains(v6: bool, table: &str) -> Vec<String> {
        of(v6).list_chains(table).expect("iptables lists chains")
    }

    /// Whether a chain has a rule of these words.
    #[track_caller]
    pub fn has_rule(v6: bool, table: &str, chain: &str, rule: &str) -> bool {
        of(v6).exists(table, chain, rule).unwrap_or(false)
    }
}

/// Qdiscs and filters, as `tc -j` prints them.
pub mod tc {
    use serde_json::Value;

    use crate::tool::listed;

    /// The qdiscs of a link.
    #[track_caller]
    pub fn qdiscs(link: &str) -> Vec<Value> {
        listed(&format!("tc -j qdisc show dev {link}"))
    }

    /// The options of a link's TBF: `rate` in bytes per second, `burst` in bytes.
    #[track_caller]
    pub fn tbf(link: &str) -> Option<Value> {
        let tbf = |qdisc: &Value| qdisc["kind"] == "tbf";
        Some(qdiscs(link).into_iter().find(tbf)?["options"].clone())
    }

    /// The rate of a link's TBF in bytes per second.
    #[track_caller]
    pub fn rate(link: &str) -> Option<u64> {
        tbf(link)?["rate"].as_u64()
    }

    /// The names of all IFBs.
    #[track_caller]
    pub fn ifbs() -> Vec<String> {
        let links = listed("ip -j link show type ifb");
        links.iter().filter_map(|link| Some(link["ifname"].as_str()?.to_owned())).collect()
    }

    /// The filters at a hook (`ingress`, `egress`) of a link.
    #[track_caller]
    pub fn filters(link: &str, hook: &str) -> Vec<Value> {
        listed(&format!("tc -j filter show dev {link} {hook}"))
    }
}

/// A link as `ip -j -d link` shows it, in a namespace of `ip netns` or on the host (`""`).
#[track_caller]
pub fn link(namespace: &str, name: &str) -> Option<serde_json::Value> {
    links(namespace).into_iter().find(|link| link["ifname"] == name)
}

/// All links, as `ip -j -d link` shows them, in a namespace of `ip netns` or on the host (`""`).
#[track_caller]
pub fn links(namespace: &str) -> Vec<serde_json::Value> {
    let place = if namespace.is_empty() { String::new() } else { format!("-n {namespace}") };
    crate::tool::listed(&format!("ip {place} -j -d link show"))
}
