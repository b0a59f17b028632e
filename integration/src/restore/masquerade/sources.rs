//! Which addresses are masqueraded for an attachment, and what its rules are called. Pure.

use cni_common::cni::attachment::go_digest;
use cni_common::cni::protocol::CniResult;
use cni_common::cni::protocol::json::Json;
use ipnet::IpNet;

use crate::runner::{PluginConf, RuntimeConf};

/// The plugins that know `ipMasq`.
const PLUGINS: [&str; 2] = ["bridge", "ptp"];

/// Where a plugin makes its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::restore) enum Place {
    Iptables,
    Nftables,
}

/// What is masqueraded for an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::restore) struct Sources {
    /// The plugin that asks for it.
    pub(in crate::restore) plugin_type: String,
    /// The container's addresses, each with the network that is reached without.
    pub(super) addresses: Vec<IpNet>,
    network: String,
    container_id: String,
    ifname: String,
    asked_for: Option<String>,
}

/// Whether an entry has its plugin make masquerade rules.
pub(in crate::restore) fn asks_for_masquerading(plugin: &PluginConf) -> bool {
    // Some install it under a name of their own, such as `buildkit-cni-bridge`.
    let kind = plugin.plugin_type.rsplit('-').next().unwrap_or_default();
    PLUGINS.contains(&kind) && plugin.object.get("ipMasq") == Some(&Json::Bool(true))
}

impl Sources {
    /// What the entry asks for; `None` if it is nothing.
    pub(in crate::restore) fn of(
        network: &str,
        plugin: &PluginConf,
        conf: &RuntimeConf,
        result: &CniResult,
    ) -> Option<Self> {
        if !asks_for_masquerading(plugin) {
            return None;
        }
        let addresses: Vec<IpNet> =
            result.ips_of_interface(&conf.ifname).map(|ip| ip.address).collect();
        let asked_for = plugin.object.get("ipMasqBackend").and_then(Json::as_str);
        (!addresses.is_empty()).then(|| Self {
            plugin_type: plugin.plugin_type.clone(),
            addresses,
            network: network.to_owned(),
            container_id: conf.container_id.clone(),
            ifname: conf.ifname.clone(),
            asked_for: asked_for.map(str::to_owned),
        })
    }

    /// Where the plugin makes the rules: before 1.6 it does not know the key; without it, it
    /// prefers iptables.
    pub(super) fn place(
        &self,
        knows_nftables: impl FnOnce() -> bool,
        has_iptables: impl FnOnce() -> bool,
    ) -> Place {
        let wants_nftables = match self.asked_for.as_deref() {
            Some(place) => place == "nftables",
            None => !has_iptables(),
        };
        if wants_nftables && knows_nftables() { Place::Nftables } else { Place::Iptables }
    }

    /// The chain in iptables. It knows no interface.
    pub(super) fn chain(&self) -> String {
        format!("CNI-{}", go_digest(&format!("{}{}", self.network, self.container_id), 24))
    }

    /// The comment of each rule in iptables.
    pub(super) fn comment(&self) -> String {
        format!("name: \"{}\" id: \"{}\"", self.network, self.container_id)
    }

    /// What the comment of each rule in nftables begins with: by that DEL finds them.
    pub(super) fn nft_prefix(&self) -> String {
        let instance = format!("{}:{}", self.ifname, self.container_id);
        format!("{}-{}", go_digest(&self.network, 16), go_digest(&instance, 16))
    }

    /// The comment of each rule in nftables.
    pub(super) fn nft_comment(&self) -> String {
        /// As many bytes as nft takes.
        const LONGEST: usize = 128;
        let Self { network, ifname, container_id, .. } = self;
        let mut comment =
            format!("{}, net: {network}, if: {ifname}, id: {container_id}", self.nft_prefix());
        // Names of networks and containers are ASCII.
        comment.truncate(LONGEST);
        comment
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What `ipMasq` made of containers in the Go plugins' own tests.
    pub(in crate::restore::masquerade) fn sources(
        (network, ifname, container_id): (&str, &str, &str),
        addresses: &[&str],
    ) -> Sources {
        Sources {
            plugin_type: "bridge".to_owned(),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            network: network.to_owned(),
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
            asked_for: None,
        }
    }

    #[test]
    fn names_of_the_go_plugins() {
        let web = sources(("podnet", "eth0", "abc123"), &[]);
        assert_eq!(web.chain(), "CNI-ebfe65ed52cb6bccee1e7fcd");
        assert_eq!(web.comment(), r#"name: "podnet" id: "abc123""#);
        assert_eq!(
            web.nft_comment(),
            "fa98a27bbcc17b2e-ebce0e3dd4dafae3, net: podnet, if: eth0, id: abc123"
        );
        let long = sources((&"n".repeat(100), "eth0", &"c".repeat(64)), &[]);
        assert_eq!(long.nft_comment().len(), 128);
        assert!(long.nft_comment().starts_with(&long.nft_prefix()));
    }

    #[test]
    fn where_which_plugin_makes_them() {
        use Place::{Iptables, Nftables};
        for (asked_for, knows_nftables, has_iptables, place) in [
            (None, true, true, Iptables),
            (None, true, false, Nftables),
            (None, false, false, Iptables),
            (Some("nftables"), true, true, Nftables),
            // An older one does not know the key.
            (Some("nftables"), false, true, Iptables),
            (Some("iptables"), true, false, Iptables),
        ] {
            let mut web = sources(("podnet", "eth0", "abc123"), &[]);
            web.asked_for = asked_for.map(str::to_owned);
            let found = web.place(|| knows_nftables, || has_iptables);
            assert_eq!(found, place, "{asked_for:?} {knows_nftables} {has_iptables}");
        }
    }
}
