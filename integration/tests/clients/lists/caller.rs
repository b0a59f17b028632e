//! What each runtime sends to the plugins of its lists: IDs, `CNI_ARGS`, and data of capabilities in its own
//! spelling.

use cni_chain::RuntimeConf;
use cni_testbox::{Container, arguments};
use serde_json::{Value, json};

/// The host port, which leads to port 80 of the container over TCP and UDP.
pub(super) const PORT: u16 = 8080;
/// The MAC that a runtime asks for, if it does.
pub(super) const MAC: &str = "9e:0c:d9:b2:f0:a6";
/// Bits per second into the container and out of it, as a pod's annotations have them.
const INGRESS: u64 = 16_000_000;
const EGRESS: u64 = 8_000_000;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Containerd,
    /// `ctr run --cni`.
    Ctr,
    CriO,
    CriDockerd,
    Podman,
    Nerdctl,
    Nomad,
    Buildkit,
    Multus,
}

impl Caller {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd CRI",
            Self::Ctr => "ctr",
            Self::CriO => "CRI-O",
            Self::CriDockerd => "cri-dockerd",
            Self::Podman => "podman",
            Self::Nerdctl => "nerdctl",
            Self::Nomad => "Nomad",
            Self::Buildkit => "buildkit",
            Self::Multus => "multus",
        }
    }

    /// Whether it asks every plugin for its versions before it uses a list.
    pub(super) fn validates(self) -> bool {
        matches!(self, Self::CriO | Self::Podman)
    }

    /// Whether it sends host ports. CRI-O does those itself.
    pub(super) fn maps_ports(self) -> bool {
        self.capabilities().get("portMappings").is_some()
    }

    /// Whether the host port is one of IPv6, too.
    pub(super) fn maps_ipv6(self) -> bool {
        self.maps_ports() && self != Self::Nerdctl
    }

    /// The limits it sends.
    pub(super) fn limits(self) -> (Option<u64>, Option<u64>) {
        match self {
            Self::Containerd | Self::CriO => (Some(INGRESS), Some(EGRESS)),
            Self::CriDockerd => (Some(INGRESS), None),
            _ => (None, None),
        }
    }

    /// Whether it asks for [`MAC`].
    pub(super) fn wants_a_mac(self) -> bool {
        matches!(self, Self::Podman | Self::Multus)
    }

    /// Whether DEL comes after the container's namespace is gone.
    pub(super) fn deletes_after_the_end(self) -> bool {
        matches!(self, Self::Ctr | Self::Nerdctl)
    }

    /// ADD of a container.
    pub(super) fn add(self, container: &Container) -> RuntimeConf {
        let id = self.container_id(&container.id);
        RuntimeConf {
            args: self.args(&container.id, &id),
            container_id: id,
            netns: container.netns.path().display().to_string(),
            ifname: if self == Self::Multus { "net1" } else { "eth0" }.to_owned(),
            capability_args: arguments(&self.capabilities()),
        }
    }

    /// DEL of what it added.
    pub(super) fn del(self, added: &RuntimeConf) -> RuntimeConf {
        let mut conf = added.clone();
        match self {
            // Out of a map, whose order is another each time.
            Self::Containerd => conf.args.reverse(),
            Self::Nomad => conf.args.clear(),
            Self::Nerdctl => {
                conf.netns.clear();
                conf.args.retain(|(key, _)| key == "IP" || key == "MAC");
            }
            Self::Ctr => conf.netns.clear(),
            _ => {}
        }
        conf
    }

    fn container_id(self, name: &str) -> String {
        let number = name.bytes().fold(0, |number: u64, byte| number << 8 | u64::from(byte));
        let long: String = format!("{number:x}").chars().cycle().take(64).collect();
        match self {
            Self::Nomad => format!("6f0c8a52-8f0b-4b5e-9d3a-{number:012x}"),
            Self::Ctr => format!("k8s.io-{name}"),
            Self::Nerdctl => format!("default-{long}"),
            _ => long,
        }
    }

    fn args(self, name: &str, id: &str) -> Vec<(String, String)> {
        let uid = "8c9cd2c8-1b8e-4f0f-9a4e-6a1a0e5c1c11";
        let pairs: Vec<(&str, &str)> = match self {
            Self::Containerd => vec![
                ("K8S_POD_NAME", name),
                ("K8S_POD_UID", uid),
                ("IgnoreUnknown", "1"),
                ("K8S_POD_INFRA_CONTAINER_ID", id),
                ("K8S_POD_NAMESPACE", "default"),
            ],
            Self::CriO | Self::CriDockerd => vec![
                ("IgnoreUnknown", "1"),
                ("K8S_POD_NAMESPACE", "default"),
                ("K8S_POD_NAME", name),
                ("K8S_POD_INFRA_CONTAINER_ID", id),
                ("K8S_POD_UID", uid),
            ],
            Self::Multus => vec![
                ("IgnoreUnknown", "true"),
                ("K8S_POD_NAMESPACE", "default"),
                ("K8S_POD_NAME", name),
                ("K8S_POD_INFRA_CONTAINER_ID", id),
                ("K8S_POD_UID", uid),
                ("MAC", MAC),
            ],
            Self::Podman => vec![("IgnoreUnknown", "1"), ("K8S_POD_NAME", name), ("MAC", MAC)],
            Self::Nerdctl => {
                vec![("IgnoreUnknown", "1"), ("NERDCTL_CNI_DHCP_HOSTNAME", name)]
            }
            Self::Nomad => vec![
                ("IgnoreUnknown", "true"),
                ("NOMAD_GROUP_NAME", name),
                ("NOMAD_JOB_ID", "job"),
                // Without a "=", which it may have: Debian's bridge refuses that.
                ("CONSUL_IPTABLES_CONFIG", r#"{"ProxyUserID":"101","ProxyInboundPort":20000}"#),
            ],
            Self::Buildkit => vec![("K8S_POD_NAME", name), ("IgnoreUnknown", "1")],
            Self::Ctr => vec![],
        };
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        pairs.into_iter().map(owned).collect()
    }

    fn capabilities(self) -> Value {
        // go-cni's structures have no names for JSON.
        let go_cni = |host_ip: &str| {
            let protocols = ["tcp", "udp"].map(|protocol| {
                json!({ "HostPort": PORT, "ContainerPort": 80, "Protocol": protocol, "HostIP": host_ip })
            });
            json!(protocols)
        };
        let camel_case = ["tcp", "udp"]
            .map(|protocol| json!({ "hostPort": PORT, "containerPort": 80, "protocol": protocol }));
        let annotations = json!({
            "kubernetes.io/ingress-bandwidth": "16M",
            "kubernetes.io/egress-bandwidth": "8M",
        });
        match self {
            Self::Containerd => json!({
                "io.kubernetes.cri.pod-annotations": annotations,
                "portMappings": go_cni(""),
                "bandwidth": { "IngressRate": INGRESS, "IngressBurst": 4_294_967_295u64,
                    "EgressRate": EGRESS, "EgressBurst": 4_294_967_295u64 },
                "dns": { "Servers": ["10.96.0.10"], "Searches": null, "Options": ["ndots:5"] },
                "cgroupPath": "/kubepods/besteffort/pod8c9cd2c8",
            }),
            Self::CriO => json!({
                "io.kubernetes.cri.pod-annotations": annotations,
                "cgroupPath": "/kubepods.slice/pod8c9cd2c8.slice",
                "bandwidth": { "ingressRate": INGRESS, "ingressBurst": 34_359_738_359u64,
                    "egressRate": EGRESS, "egressBurst": 34_359_738_359u64 },
            }),
            Self::CriDockerd => json!({
                "portMappings": camel_case,
                "bandwidth": { "ingressRate": INGRESS, "ingressBurst": 2_147_483_647 },
            }),
            Self::Podman => json!({ "portMappings": camel_case }),
            Self::Nerdctl => json!({ "portMappings": go_cni("0.0.0.0") }),
            Self::Nomad => json!({ "portMappings": go_cni("") }),
            Self::Multus => json!({ "mac": MAC }),
            Self::Buildkit | Self::Ctr => json!({}),
        }
    }
}
