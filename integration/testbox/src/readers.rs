//! What the kernel holds, read by programs and crates that are not ours.

/// `nf_tables`, as `nft -j` prints it and the crate `nftables` reads it.
pub mod nft {
    use nftables::expr::{Expression, NamedExpression};
    use nftables::schema::{Chain, NfListObject};
    use serde_json::Value;

    use crate::tool::{run, tool};

    /// An element of a map whose key and data are concatenations, with a comment.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Element {
        /// The map it is in.
        pub map: String,
        /// The parts of its key as nft writes them.
        pub key: Vec<String>,
        /// The parts of what it maps to.
        pub data: Vec<String>,
        /// The owner tag in its comment.
        pub owner: String,
    }

    impl Element {
        /// A pair of an element with a comment, and of data.
        fn read(map: &str, pair: &Expression<'_>) -> Option<Self> {
            let Expression::List(pair) = pair else { return None };
            let [Expression::Named(NamedExpression::Elem(element)), data] = &pair[..] else {
                return None;
            };
            Some(Self {
                map: map.to_owned(),
                key: parts(&element.val)?,
                data: parts(data)?,
                owner: element.comment.clone()?.into_owned(),
            })
        }

        /// Its key in the words of nft: `tcp . 8080`.
        pub fn key_words(&self) -> String {
            self.key.join(" . ")
        }
    }

    fn parts(concatenation: &Expression<'_>) -> Option<Vec<String>> {
        let Expression::Named(NamedExpression::Concat(parts)) = concatenation else { return None };
        let part = |part: &Expression<'_>| match part {
            Expression::String(text) => Some(text.clone().into_owned()),
            Expression::Number(number) => Some(number.to_string()),
            _ => None,
        };
        parts.iter().map(part).collect()
    }

    /// The elements of a table's maps that are of the shape of [`Element`].
    #[track_caller]
    pub fn elements(table: &str) -> Vec<Element> {
        let mut found = Vec::new();
        for object in objects(&["map"]) {
            let NfListObject::Map(map) = object else { continue };
            let pairs = map.elem.iter().flat_map(|list| list.iter()).filter(|_| map.table == table);
            found.extend(pairs.filter_map(|pair| Element::read(&map.name, pair)));
        }
        found
    }

    /// The sets and maps of a table that have elements, as `map by_port4`.
    #[track_caller]
    pub fn filled_sets(table: &str) -> Vec<String> {
        let name = |object| match object {
            NfListObject::Map(map) if map.table == table && map.elem.is_some() => {
                Some(format!("map {}", map.name))
            }
            NfListObject::Set(set) if set.table == table && set.elem.is_some() => {
                Some(format!("set {}", set.name))
            }
            _ => None,
        };
        objects(&["map", "set"]).into_iter().filter_map(name).collect()
    }

    /// Every object of these kinds (`table`, `chain`, `rule`, `set`, `map`, …) in the ruleset. Only
    /// they are read: the crate does not know every expression that a rule may have.
    #[track_caller]
    pub fn objects(kinds: &[&str]) -> Vec<NfListObject<'static>> {
        let text = run(tool("nft").args(["-j", "list", "ruleset"]));
        let ruleset: Value = serde_json::from_str(&text).expect("nft prints JSON");
        let objects = ruleset["nftables"].as_array().expect("a list of objects").iter();
        let wanted = objects.filter(|object| kinds.iter().any(|kind| object.get(kind).is_some()));
        wanted.map(|object| read(object.clone())).collect()
    }

    fn read(mut object: Value) -> NfListObject<'static> {
        // nft 1.0.6 lists the type of a key as an array and that of data as text with dots.
        if let Some(data) = object["map"]["map"].as_str().filter(|data| data.contains(" . ")) {
            let parts: Vec<&str> = data.split(" . ").collect();
            object["map"]["map"] = parts.into();
        }
        let text = object.to_string();
        serde_json::from_value(object).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The chains of a table, with hook and priority where they have one.
    #[track_caller]
    pub fn chains(table: &str) -> Vec<Chain<'static>> {
        let chain = |object| match object {
            NfListObject::Chain(chain) if chain.table == table => Some(chain),
            _ => None,
        };
        objects(&["chain"]).into_iter().filter_map(chain).collect()
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
        objects(&["table"]).into_iter().filter_map(table).collect()
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

    /// The qdiscs of a link, but for those that are inside of another.
    #[track_caller]
    pub fn qdiscs(link: &str) -> Vec<Value> {
        let mut found = all_qdiscs(link);
        found.retain(|qdisc| !is_inside(qdisc));
        found
    }

    /// The queue that a link's TBF was given, if it was given one.
    #[track_caller]
    pub fn queue(link: &str) -> Option<Value> {
        all_qdiscs(link).into_iter().find(is_inside)
    }

    #[track_caller]
    fn all_qdiscs(link: &str) -> Vec<Value> {
        listed(&format!("tc -j qdisc show dev {link}"))
    }

    /// The hooks are inside of nothing, and have a parent that says so.
    fn is_inside(qdisc: &Value) -> bool {
        qdisc["parent"].as_str().is_some_and(|parent| !parent.starts_with("ffff:"))
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

    /// The hooks that a qdisc of this kind has filters at.
    pub(crate) fn hooks(kind: &str) -> &'static [&'static str] {
        match kind {
            "clsact" => &["ingress", "egress"],
            "ingress" => &["ingress"],
            _ => &[],
        }
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
