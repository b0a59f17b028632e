//! Changes of interfaces and of traffic control as lines for `ip`, `bridge` and `tc`. Pure.

use std::fmt::Write as _;

use super::link::LinkChange;
use super::mac;
use super::shell::word;
use super::tc::{
    Action, ETH_P_8021AD, ETH_P_8021Q, FqCodel, Hook, HookChange, InstalledFilter, PEAK, QdiscKind,
    Tbf,
};

/// What changes an interface.
#[must_use]
pub fn change_link(name: &str, change: &LinkChange) -> String {
    let mut line = format!("ip link set dev {}", word(name));
    properties(&mut line, change);
    let switches = [("promisc", change.promisc), ("allmulticast", change.allmulti)];
    for (switch, wanted) in switches {
        if let Some(on) = wanted {
            let _ = write!(line, " {switch} {}", on_or_off(on));
        }
    }
    if let Some(alias) = &change.alias {
        let _ = write!(line, " alias {}", word(alias));
    }
    if let Some(up) = change.up {
        line.push_str(if up { " up" } else { " down" });
    }
    line
}

/// What makes an IFB with an alias.
#[must_use]
pub fn create_ifb(name: &str, change: &LinkChange, alias: &str) -> [String; 2] {
    let mut line = format!("ip link add name {}", word(name));
    properties(&mut line, change);
    line.push_str(" type ifb");
    let rest = LinkChange { alias: Some(alias.to_owned()), up: change.up, ..LinkChange::default() };
    [line, change_link(name, &rest)]
}

/// What `ip link add` takes as well as `ip link set`.
fn properties(line: &mut String, change: &LinkChange) {
    if let Some(address) = &change.address {
        let _ = write!(line, " address {}", mac::text(address));
    }
    if let Some(mtu) = change.mtu {
        let _ = write!(line, " mtu {mtu}");
    }
    if let Some(length) = change.tx_queue_len {
        let _ = write!(line, " txqueuelen {length}");
    }
}

/// What deletes an interface.
#[must_use]
pub fn delete_link(name: &str) -> String {
    format!("ip link delete dev {}", word(name))
}

/// What isolates a bridge's port, or ends that.
#[must_use]
pub fn isolate_port(name: &str, isolated: bool) -> String {
    format!("bridge link set dev {} isolated {}", word(name), on_or_off(isolated))
}

fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// What makes a TBF the root qdisc of an interface, or changes it.
#[must_use]
pub fn set_tbf(name: &str, handle: u16, tbf: Tbf) -> String {
    // In tc, "bps" are bytes per second.
    let mut line = format!(
        "tc qdisc replace dev {} root handle {handle:x}: tbf rate {}bps burst {} limit {}",
        word(name),
        tbf.rate.0,
        tbf.burst.0,
        tbf.limit.0
    );
    if let Some(piece) = tbf.piece {
        let _ = write!(line, " peakrate {PEAK}bps minburst {}", piece.0);
    }
    line
}

/// What puts an `fq_codel` into a TBF of an interface, or changes it.
#[must_use]
pub fn set_fq_codel(name: &str, tbf: u16, handle: u16, queue: FqCodel) -> String {
    format!(
        "tc qdisc replace dev {} parent {tbf:x}:1 handle {handle:x}: fq_codel target {}us interval {}us \
         memory_limit {} ecn",
        word(name),
        queue.target.0,
        queue.interval.0,
        queue.memory_limit.0
    )
}

/// What gives an interface back the root qdisc that the kernel chooses.
#[must_use]
pub fn delete_root(name: &str) -> String {
    format!("tc qdisc delete dev {} root", word(name))
}

/// What changes the hooks of an interface. `name_of` names the interface with an index.
#[must_use]
pub fn change_hook(name: &str, change: &HookChange, name_of: impl Fn(u32) -> String) -> String {
    let name = word(name);
    match change {
        HookChange::AddClsact => format!("tc qdisc add dev {name} clsact"),
        HookChange::DeleteClsact(QdiscKind::Ingress) => {
            format!("tc qdisc delete dev {name} ingress")
        }
        HookChange::DeleteClsact(_) => format!("tc qdisc delete dev {name} clsact"),
        HookChange::DeleteFilters(hook, priority) => {
            format!("tc filter delete dev {name} {} prio {priority}", hook_name(*hook))
        }
        HookChange::AddFilter(hook, filter) => {
            let hook = hook_name(*hook);
            format!("tc filter add dev {name} {hook} {}", filter_words(filter, name_of))
        }
    }
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
    }
}

fn filter_words(filter: &InstalledFilter, name_of: impl Fn(u32) -> String) -> String {
    let mut words = format!("protocol {} prio {} u32", protocol(filter.protocol), filter.priority);
    for found in &filter.words {
        let _ = write!(
            words,
            " match u32 {:#010x} {:#010x} at {}",
            found.value, found.mask, found.offset
        );
    }
    let _ = write!(words, " classid 1:{:x}", filter.class_minor);
    if let Some(Action::Redirect(target)) = filter.action {
        let _ = write!(words, " action mirred egress redirect dev {}", word(&name_of(target)));
    }
    words
}

fn protocol(ethertype: u16) -> String {
    match ethertype {
        0x0003 => "all".to_owned(),
        0x0800 => "ip".to_owned(),
        0x86dd => "ipv6".to_owned(),
        ETH_P_8021Q => "802.1Q".to_owned(),
        ETH_P_8021AD => "802.1ad".to_owned(),
        other => format!("{other:#06x}"),
    }
}
