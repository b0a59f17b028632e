//! Words that an administrator's chain cannot be called by, because they mean something else to a
//! tool that has to read the chain's name.

/// Chains of this plugin, in iptables and in nftables, and those that the kernel has.
const OWN: &str = "
    CNI-FORWARD CNI-ISOLATION-STAGE-1 CNI-ISOLATION-STAGE-2 CNI-ISOLATION-SOURCES
    CNI-ISOLATION-MEMBERS CNI-ISOLATION-INPUT INPUT FORWARD OUTPUT admin forward input
    isolation
";

/// Targets of iptables: `-j LOG` logs, whatever chains there are. iptables refuses such a chain.
const TARGETS: &str = "
    ACCEPT AUDIT BALANCE CHECKSUM CLASSIFY CLUSTERIP CONNMARK CONNSECMARK CT DNAT DNPT DROP
    DSCP ECN HL HMARK IDLETIMER LED LOG MARK MASQUERADE MIRROR NAT NETMAP NFLOG NFQUEUE
    NOTRACK QUEUE RATEEST REDIRECT REJECT RETURN SAME SECMARK SET SNAT SNPT standard
    SYNPROXY TCPMSS TCPOPTSTRIP TEE TOS TPROXY TRACE TTL ULOG
";

/// Words of nft's grammar (1.0.6, and what newer versions added): nft lists a chain of such a name, and
/// then cannot load the list again.
const NFT_WORDS: &str = "
    accept add ah all and arp auto-merge bridge cgroup cgroupv2 chain chains comment comp
    constant continue counter counters cpu create ct day dccp define delete describe destroy
    device devices dnat drop dst dup dynamic ecn element elements eq esp ether exists
    expires export exthdr fib flags flow flowtable flowtables flush frag fwd gc-interval ge
    geneve get goto gre gretap gt handle hbh hook hour ibriport ibrname icmp icmpv6 igmp iif
    iifgroup iifname iiftype import include index inet inner insert interval ip ip6 ipsec
    jhash jump le level limit limits list log lshift lt map maps mark masquerade memory meta
    meter meters mh missing monitor nat ne netdev nftrace nop not notrack numgen obriport
    obrname offload oif oifgroup oifname oiftype or osf performance pkttype policy position
    priority queue quota quotas random redefine redirect reject rename replace reset return
    rshift rt rt0 rt2 rtclassid rule rules ruleset sctp secmark secmarks set sets size skgid
    skuid snat socket srh static symhash synproxy synproxys table tables tcp th time timeout
    tproxy trace transparent tunnel type typeof udp udplite undefine update vlan vxlan
    wildcard xor xt
";

/// Whether a chain cannot be called by this name.
pub(crate) fn is_reserved(name: &str) -> bool {
    [OWN, TARGETS, NFT_WORDS].iter().any(|words| words.split_whitespace().any(|word| word == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_list() {
        for word in ["CNI-ISOLATION-SOURCES", "isolation", "LOG", "RETURN", "ip", "th", "xor"] {
            assert!(is_reserved(word), "{word}");
        }
        for name in ["CNI-ADMIN", "MY-OWN", "log-all", "ips", "DROPS"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
