//! `cni-chain trace`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use cni_common::kernel::IpVersion;
use cni_common::kernel::iptables::legacy_table_loaded;
use cni_common::kernel::nft::L4Protocol;

use super::privilege::may_administer_network;
use super::{print, say};
use crate::cli::TraceOptions;
use crate::runner::Cache;
use crate::terminal::Terminal;
use crate::trace::live::{Packet, watch};
use crate::trace::{Question, Trace, follow, json, packet_text, text};

/// Follows a connection. The status says whether something stops it.
pub(super) fn trace(options: &TraceOptions) -> anyhow::Result<ExitCode> {
    if !may_administer_network() {
        bail!("only root can see what the kernel holds: run this command with sudo");
    }
    let (port, protocol) = options.port;
    let question = Question { port, protocol, to: options.to, from: options.from };
    let traces = follow(&Cache::new(&options.cache.dir), &question)?;
    print(&if options.json {
        json(&traces).to_pretty() + "\n"
    } else {
        text(&traces, Terminal::stdout())
    })?;
    if let Some(seconds) = options.live {
        return live(port, protocol, Duration::from_secs(seconds.into()));
    }
    let stops = traces.iter().any(|trace: &Trace| trace.end().is_some());
    Ok(if stops { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Shows what becomes of real packets.
fn live(port: u16, protocol: Option<L4Protocol>, span: Duration) -> anyhow::Result<ExitCode> {
    let seconds = span.as_secs();
    let has_legacy = |version| {
        ["nat", "filter"].iter().any(|table| legacy_table_loaded(version, table).unwrap_or(false))
    };
    if IpVersion::ALL.into_iter().any(has_legacy) {
        say("\nRules of iptables-legacy are not among those that the kernel tells of.")?;
    }
    say(&format!("\nPackets to port {port}, for {seconds} s; now try to connect:"))?;
    let (mut seen, mut dropped) = (0, 0);
    watch(port, protocol, span, |packet: &Packet| {
        seen += 1;
        dropped += usize::from(packet.dropped().is_some());
        print(&packet_text(packet, Terminal::stdout()))
    })?;
    if seen == 0 {
        bail!(
            "no packet to port {port} was seen in {seconds} s: it does not reach this host's rules; look at the \
             client, the network before this host, and iptables-legacy's table raw"
        );
    }
    Ok(if dropped > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
