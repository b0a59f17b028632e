//! Whose tables and chains are, as their names tell. Pure.

/// What portmaps, ours and Go's, call their chains.
const PORTMAPS: [&str; 3] = ["CNI-HOSTPORT-", "CNI-DN-", "CNI-SN-"];
/// Whose chains begin so.
const PROGRAMS: [(&str, &str); 4] = [
    ("KUBE-", "kube-proxy"),
    ("DOCKER", "docker"),
    ("NETAVARK", "netavark"),
    ("LIBVIRT", "libvirt"),
];

/// Whose tables are called so.
const TABLES: [(&str, &str); 8] = [
    ("cni_portmap", "portmap"),
    ("cni_firewall", "firewall"),
    ("cni_hostport", "portmap of Go"),
    ("firewalld", "firewalld"),
    ("kube-proxy", "kube-proxy"),
    ("netavark", "netavark"),
    ("docker-bridges", "docker"),
    ("libvirt_network", "libvirt"),
];

/// Whose a chain is, as names tell.
pub(crate) fn owner(table: &str, chain: &str) -> Option<&'static str> {
    let of_table = TABLES.iter().find(|(name, _)| *name == table).map(|(_, owner)| *owner);
    of_table.or_else(|| program(chain)).or_else(|| is_of_a_portmap(chain).then_some("portmap"))
}

/// The program whose chain this is, by its name.
pub(crate) fn program(chain: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|(prefix, _)| chain.starts_with(prefix)).map(|(_, program)| *program)
}

/// Whether a chain is a portmap's, ours or Go's.
pub(crate) fn is_of_a_portmap(chain: &str) -> bool {
    PORTMAPS.iter().any(|own| chain.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        assert_eq!(owner("cni_portmap", "prerouting"), Some("portmap"));
        assert_eq!(owner("nat", "DOCKER"), Some("docker"));
        assert_eq!(owner("nat", "CNI-HOSTPORT-DNAT"), Some("portmap"));
        assert_eq!(owner("site", "fwd"), None);
    }

    #[test]
    fn programs() {
        assert_eq!(program("KUBE-NODEPORTS"), Some("kube-proxy"));
        assert_eq!(program("PREROUTING"), None);
    }
}
