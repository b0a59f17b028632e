//! What this process may do.

/// `CAP_NET_ADMIN`, which whoever reads or changes a host's tables needs.
const NET_ADMIN: u32 = 12;

/// Whether this process may administer the network of its namespace.
pub(super) fn may_administer_network() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|text| has_capability(&text, NET_ADMIN))
}

/// Reads the effective set of `proc_pid_status(5)`.
fn has_capability(status: &str, number: u32) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    set.is_some_and(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_decides() {
        let status = |effective: &str| format!("CapPrm:\t000001ffffffffff\nCapEff:\t{effective}\n");
        assert!(has_capability(&status("000001ffffffffff"), NET_ADMIN));
        assert!(has_capability(&status("0000000000001000"), NET_ADMIN));
        assert!(!has_capability(&status("00000000a80425fb"), NET_ADMIN), "docker's default");
        assert!(!has_capability("", NET_ADMIN));
    }
}
