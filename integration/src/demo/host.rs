//! The private host: namespaces of the demo's own, so that the machine's network is never
//! touched and everything dies with the process, however it ends.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cni_common::kernel::netns::Netns;
use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::plan::{Plan, UPLINK};
use super::trip::Namespace;
use super::wire::Wire;
use super::{look, sysctl, user_namespace};

/// Covered by a file system of the demo's own, so that no file outlives the process and the
/// plugins meet none of the machine's daemons and lock files.
pub(super) const PRIVATE: &str = "/run";

/// The private host with its two neighbours.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) own: Netns,
    pub(super) outside: Netns,
    pub(super) container: Netns,
    /// `CNI_NETNS`.
    pub(super) container_path: PathBuf,
    /// A plugin directory with `demo-bridge` in it.
    pub(super) bin: PathBuf,
    /// The runner's cache.
    pub(super) cache: PathBuf,
    /// Whether whoever started the demo is root in here only.
    pub(super) in_user_namespace: bool,
}

impl Host {
    /// Moves this process, which must have one thread only, into a host of its own, and says whether
    /// that took a user namespace.
    pub(super) fn enter() -> Result<bool> {
        let needs_user_namespace = !nix::unistd::geteuid().is_root();
        if needs_user_namespace {
            user_namespace::enter()?;
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context(
            "cannot make namespaces: does this container or sandbox lack CAP_SYS_ADMIN?",
        )?;
        let none = None::<&str>;
        // Without this, the mounts below would appear on the machine, too.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("cannot make the demo's mounts private")?;
        mount(Some("cni-chain-demo"), PRIVATE, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .with_context(|| format!("cannot mount a tmpfs on {PRIVATE}"))?;
        Ok(needs_user_namespace)
    }

    /// Makes the neighbours and the link to the outside.
    pub(super) fn build(plan: &Plan, ipv6: bool, in_user_namespace: bool) -> Result<Self> {
        let [bin, cache] =
            ["bin", "cache"].map(|name| Path::new(PRIVATE).join("cni-chain").join(name));
        fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
        let program = std::env::current_exe().context("cannot find this program's file")?;
        std::os::unix::fs::symlink(&program, bin.join("demo-bridge"))
            .with_context(|| format!("cannot link demo-bridge to {}", program.display()))?;

        settle(ipv6).context("cannot set the host up")?;
        let container_path = make_namespace(Namespace::Container, ipv6)?;
        let outside_path = make_namespace(Namespace::Outside, ipv6)?;
        let host = Self {
            own: Netns::own().context("cannot open the demo's namespace")?,
            outside: open(&outside_path)?,
            container: open(&container_path)?,
            container_path,
            bin,
            cache,
            in_user_namespace,
        };
        link_outside(&host, &outside_path, plan)?;
        Ok(host)
    }
}

fn open(path: &Path) -> Result<Netns> {
    Netns::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Where the namespace is kept. `ip netns` looks there, too.
pub(super) fn namespace_path(place: Namespace) -> PathBuf {
    Path::new(PRIVATE).join("netns").join(place.to_string())
}

fn make_namespace(place: Namespace, ipv6: bool) -> Result<PathBuf> {
    let path = namespace_path(place);
    let make = || -> Result<()> {
        fs::create_dir_all(path.with_file_name(""))?;
        fs::File::create(&path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none = None::<&str>;
        mount(Some("/proc/thread-self/ns/net"), &path, none, MsFlags::MS_BIND, none)?;
        settle(ipv6)
    };
    // On a thread of its own, which takes the namespace on and then ends.
    std::thread::scope(|scope| scope.spawn(make).join())
        .unwrap_or_else(|_| bail!("the thread panicked"))
        .with_context(|| format!("cannot make the namespace of the {place}"))?;
    Ok(path)
}

/// Kernel settings and the loopback of a fresh namespace.
fn settle(ipv6: bool) -> Result<()> {
    sysctl::settle(ipv6)?;
    up_with_addresses(&Wire::open()?, "lo", &[])
}

fn link_outside(host: &Host, outside_path: &Path, plan: &Plan) -> Result<()> {
    let wire = Wire::open()?;
    let outside = fs::File::open(outside_path)?;
    let far_end = LinkUnspec::new_with_name(UPLINK).setns_by_fd(outside.as_raw_fd()).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(UPLINK)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far_end)))
        .build();
    wire.create("link the host to the outside", pair)?;
    up_with_addresses(&wire, UPLINK, &plan.host)?;
    host.outside.run(|| up_with_addresses(&Wire::open()?, UPLINK, &plan.outside))?
}

fn up_with_addresses(wire: &Wire, name: &str, addresses: &[IpNet]) -> Result<()> {
    let link = look::link(name)?.with_context(|| format!("{name} is gone"))?;
    wire.up(&format!("switch {name} on"), link.index)?;
    for address in addresses {
        wire.add_address(link.index, *address)?;
    }
    Ok(())
}

/// The addresses without their prefix lengths.
pub(super) fn bare(addresses: &[IpNet]) -> Vec<IpAddr> {
    addresses.iter().map(IpNet::addr).collect()
}
