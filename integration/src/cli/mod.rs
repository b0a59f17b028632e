//! The command line.

mod publish;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use cni_common::kernel::nft::L4Protocol;

use crate::restore::Part;
use crate::runner::ValidAttachment;
use crate::runner::plugins::MetaPlugin;
use crate::show::port;

pub(crate) use publish::Publish;

/// Runs chains of CNI plugins as a container runtime does, and shows, restores and removes what
/// they made.
#[derive(Debug, Parser)]
#[command(version, propagate_version = false, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ip netns add web
  cni-chain add mynet web --publish 8080:80
  cni-chain check mynet web
  cni-chain show 8080
  cni-chain del mynet web
  cni-chain add ./test.conflist /proc/4711/ns/net --ifname net1

mynet is the name of a network in /etc/cni/net.d.

Exit status: 0 success, 1 the operation failed, 2 wrong usage.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Attach a namespace to a network and print the result; if it fails, clean up with del
    #[command(after_help = "\
If it fails, run del: what came before the failed plugin in the chain is still there.

Exit status: 0 success, 1 a plugin failed or is missing, 2 wrong usage.")]
    Add(AttachmentOptions),
    /// Detach a namespace from a network
    #[command(after_help = "\
Whatever is gone already is no failure. Without the network's configuration, that of add is used.

Exit status: 0 success, 1 a plugin failed or is missing, 2 wrong usage.")]
    Del(AttachmentOptions),
    /// Verify that an attachment still is as `add` left it
    #[command(after_help = "\
Exit status: 0 it is, 1 it is not, or it cannot be told, 2 wrong usage.")]
    Check(AttachmentOptions),
    /// Show host ports, limits and settings with their owners
    Show(ShowOptions),
    /// Follow a connection to a host port and say where it stops
    Trace(TraceOptions),
    /// Delete a network's attachments whose containers are gone
    Gc(GcOptions),
    /// Take out everything that these plugins have made, also for containers that live
    Purge(PurgeOptions),
    /// Say what is wrong with a network's configuration
    #[command(after_help = "\
Keys that nobody reads, with the nearest that somebody does; capabilities that are not declared or \
do nothing; what a plugin would refuse; entries that cannot work where they stand; plugins that are \
missing or do not know the list's cniVersion. Nothing is changed, and no network is needed.

For instance: cni-chain lint ./my.conflist

Exit status: 0 no error, 1 there is one, or the file cannot be read, 2 wrong usage.")]
    Lint(LintOptions),
    /// Say what each plugin would do, without doing it
    Explain(ExplainOptions),
    /// Ask each of a network's plugins whether it could serve `add`
    Status(StatusOptions),
    /// Give running containers back what a flushed firewall or a deleted qdisc took from them
    Restore(RestoreOptions),
    /// Install the plugins and this command on this host
    Install(InstallOptions),
    /// Take them out again, and put back what was there before
    Uninstall(UninstallOptions),
    /// Print the versions of this command and of its plugins
    #[command(after_help = "\
Exit status: 0 success, also if a plugin is missing, 2 wrong usage.")]
    Version(PluginDirOptions),
    /// Publish a container's ports on a host made for the occasion, and try them from everywhere
    Demo(DemoOptions),
    /// Print completions for a shell
    #[command(after_help = "\
For bash: cni-chain completions bash > /usr/share/bash-completion/completions/cni-chain
For zsh:  cni-chain completions zsh > /usr/share/zsh/vendor-completions/_cni-chain
For fish: cni-chain completions fish > /usr/share/fish/vendor_completions.d/cni-chain.fish

Exit status: 0 success, 1 they cannot be written, 2 wrong usage.")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write man pages of this command and its subcommands
    #[command(after_help = "\
For instance: cni-chain man /usr/local/share/man/man1

Exit status: 0 success, 1 they cannot be written, 2 wrong usage.")]
    Man {
        /// Directory to write them to
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// A shell that completes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Cli {
    /// The script that completes this command's line.
    pub(crate) fn completions(shell: Shell) -> Vec<u8> {
        use clap_complete::shells::{Bash, Fish, Zsh};
        let (mut command, mut script) = (Self::command(), Vec::new());
        let name = command.get_name().to_owned();
        match shell {
            Shell::Bash => clap_complete::generate(Bash, &mut command, name, &mut script),
            Shell::Zsh => clap_complete::generate(Zsh, &mut command, name, &mut script),
            Shell::Fish => clap_complete::generate(Fish, &mut command, name, &mut script),
        }
        script
    }

    /// Writes a man page of the command and of each subcommand.
    pub(crate) fn man_pages(dir: &Path) -> std::io::Result<()> {
        clap_mangen::generate_to(Self::command().disable_help_subcommand(true), dir)
    }
}

/// Which network.
#[derive(Debug, Args)]
pub(crate) struct ConfOptions {
    /// Name of a network in the configuration directory, or path of a .conflist or .conf file
    pub(crate) network: String,

    /// Directory with the networks' configuration files [default: /etc/cni/net.d]
    #[arg(
        long,
        value_name = "DIR",
        env = "NETCONFPATH",
        hide_env_values = true,
        help_heading = LOCATIONS
    )]
    pub(crate) conf_dir: Option<String>,
}

/// Which network, and where everything is.
#[derive(Debug, Args)]
pub(crate) struct NetworkOptions {
    #[command(flatten)]
    pub(crate) conf: ConfOptions,

    #[command(flatten)]
    pub(crate) plugin_dirs: PluginDirOptions,

    #[command(flatten)]
    pub(crate) cache: CacheOptions,
}

/// Where attachments are remembered.
#[derive(Debug, Args)]
pub(crate) struct CacheOptions {
    /// Directory that remembers attachments; any libcni reads what is there
    #[arg(
        long = "cache-dir",
        value_name = "DIR",
        default_value = "/var/lib/cni",
        help_heading = LOCATIONS
    )]
    pub(crate) dir: PathBuf,
}

/// Where plugins are looked for.
#[derive(Debug, Args)]
pub(crate) struct PluginDirOptions {
    /// Directories with the plugins: repeat it, or separate them by colons [default: the one of
    /// cni-chain itself, then those that exist of /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni]
    #[arg(
        long = "plugin-dir",
        value_name = "DIR",
        env = "CNI_PATH",
        hide_env_values = true,
        value_delimiter = ':',
        help_heading = LOCATIONS
    )]
    pub(crate) dirs: Vec<String>,
}

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct LintOptions {
    #[command(flatten)]
    pub(crate) network: NetworkOptions,
}

/// One attachment.
#[derive(Debug, Args)]
pub(crate) struct AttachmentOptions {
    #[command(flatten)]
    pub(crate) network: NetworkOptions,

    /// Path of the network namespace, or its name in /run/netns (`ip netns`); for del also "",
    /// if it is gone
    pub(crate) netns: String,

    /// Container ID; for check and del, its beginning is enough [default: computed from the
    /// namespace's path, as cnitool does it]
    #[arg(long, value_name = "ID")]
    pub(crate) container_id: Option<String>,

    #[command(flatten)]
    pub(crate) arguments: ArgumentOptions,
}

/// What plugins are called with.
#[derive(Debug, Args)]
pub(crate) struct ArgumentOptions {
    /// Name of the interface inside the namespace [default: eth0]
    #[arg(long, short = 'i', value_name = "NAME", env = "CNI_IFNAME", hide_env_values = true)]
    pub(crate) ifname: Option<String>,

    #[arg(
        long,
        short = 'p',
        value_name = "[HOSTIP:]HOSTPORT:CONTAINERPORT[/PROTO]",
        help = "Publish a port: 8080:80, 53:53/udp, 127.0.0.1:8080:80, [fd00::1]:80:80, \
                8000-8009:80-89. Repeat it for more. A plugin of the network must declare the \
                capability portMappings"
    )]
    pub(crate) publish: Vec<Publish>,

    /// Capability arguments: a JSON object of data by capability. Without it, del and check
    /// take what add was given
    #[arg(long, value_name = "JSON", env = "CAP_ARGS", hide_env_values = true)]
    pub(crate) cap_args: Option<String>,

    /// Arguments for the plugins: KEY=VALUE;KEY=VALUE. Without them, del and check take what add
    /// was given
    #[arg(long, value_name = "PAIRS", env = "CNI_ARGS", hide_env_values = true)]
    pub(crate) args: Option<String>,
}

/// What to explain.
#[derive(Debug, Args)]
#[command(after_help = "\
The plugins' own plans are told in the words of nft, iptables-restore, tc, ip and sysctl, in the \
order of the chain. Nothing is run and nothing is changed; neither root nor a container is needed. \
The container's addresses and the host's interfaces are an example made from the list, or those of \
--prev-result.

Examples:
  cni-chain explain mynet --publish 8080:80
  cni-chain explain ./my.conflist --cap-args '{\"bandwidth\": {\"ingressRate\": 8000000}}'
  cni-chain explain mynet --backend iptables
  cni-chain explain mynet --json | jq -r '.plugins[].steps[] | select(.program == \"nft -f\").input'

Exit status: 0 success, 1 ADD would fail, or something cannot be read, 2 wrong usage.")]
pub(crate) struct ExplainOptions {
    #[command(flatten)]
    pub(crate) conf: ConfOptions,

    /// Container ID that owners' tags name
    #[arg(long, value_name = "ID", default_value = "example")]
    pub(crate) container_id: String,

    #[command(flatten)]
    pub(crate) arguments: ArgumentOptions,

    /// Result of the plugin that makes the interface, as `cni-chain add` prints it, in place of an
    /// example
    #[arg(long, value_name = "FILE")]
    pub(crate) prev_result: Option<PathBuf>,

    /// Where rules would be that an entry names no backend for [default: nftables]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<BackendChoice>,

    /// Print JSON, as docs/schema/explain.json describes it, with nft's own JSON beside its text
    #[arg(long)]
    pub(crate) json: bool,
}

/// A backend of portmap or firewall.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BackendChoice {
    Nftables,
    Iptables,
    Firewalld,
}

impl BackendChoice {
    /// As in a configuration.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Firewalld => "firewalld",
        }
    }
}

/// What to show.
#[derive(Debug, Args)]
#[command(after_help = "\
Without an argument, all there is. A number is a host port; then it is also shown which program of \
the host listens there and which rules of other programs name the port. An address is one of the \
host or of a container. A container ID may be cut off as long as only one begins so.

State of a host port: in TABLE (in force), missing (ADD was asked for it, and something took it \
away), waiting (a newer owner has it).

Examples:
  cni-chain show
  cni-chain show 8080
  cni-chain show 53/udp
  cni-chain show 3f2a9c
  cni-chain show podnet --json

Exit status: 0 success, 1 not all could be read or nothing is called so, 2 wrong usage.")]
pub(crate) struct ShowOptions {
    /// Host port, container ID, network, address, or NETWORK/CONTAINERID/IFNAME
    #[arg(value_name = "PORT[/PROTO]|CONTAINER|NETWORK|ADDRESS")]
    pub(crate) subject: Option<String>,

    /// Print JSON, as docs/schema/show.json describes it
    #[arg(long)]
    pub(crate) json: bool,

    /// Show it again every two seconds
    #[arg(long, short)]
    pub(crate) watch: bool,

    #[command(flatten)]
    pub(crate) cache: CacheOptions,
}

/// Which connection to follow.
#[derive(Debug, Args)]
#[command(after_help = "\
Each step of the connection's first packet is looked at, in the order in which it is met: the \
mapping, the host's address, rules that translate it first, forwarding, chains that drop, the way \
to the container, and what is in there. A line marked with \"?\" may stop it: a rule's condition \
cannot be judged by reading.

It reads and changes nothing; --live has a table of its own in the kernel for that time, which the \
kernel removes however the command ends. The first 20 packets are shown.

Examples:
  cni-chain trace 8080
  cni-chain trace 53/udp --from 192.0.2.7
  cni-chain trace 8080 --to 127.0.0.1
  cni-chain trace 8080 --live 10

Exit status: 0 nothing stops it, 1 something does, or it cannot be followed, 2 wrong usage.")]
pub(crate) struct TraceOptions {
    /// Host port
    #[arg(value_name = "PORT[/PROTO]", value_parser = host_port)]
    pub(crate) port: (u16, Option<L4Protocol>),

    /// The host's address that it is made to [default: the mapping's, or one that leads outside]
    #[arg(long, value_name = "HOSTADDRESS")]
    pub(crate) to: Option<IpAddr>,

    /// Who makes it: an address outside, of the host, or of the container itself [default: somebody
    /// outside]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<IpAddr>,

    /// Then watch real packets to the port for so long, and show each rule that they pass
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(crate) live: Option<u16>,

    /// Print JSON, as docs/schema/trace.json describes it
    #[arg(long, conflicts_with = "live")]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) cache: CacheOptions,
}

fn host_port(text: &str) -> Result<(u16, Option<L4Protocol>), String> {
    port(text).ok_or_else(|| {
        "it is a number from 1 to 65535, and /tcp, /udp or /sctp if need be".to_owned()
    })
}

/// What GC keeps.
#[derive(Debug, Args)]
#[command(after_help = "\
Of the attachments to the network that the cache directory remembers, whoever added them, those are \
deleted whose container is gone: there is no namespace at the path, or not with that interface. One \
whose container is there stays, unless --delete names it.

With --keep or --keep-none the plugins are also asked to remove what nobody remembers, as a runtime \
does it: they remove whatever of the network is not kept. A container that is there and was \
forgotten in the list ends the command before anything is deleted.

Exit status: 0 success, 1 something could not be looked at or deleted, 2 wrong usage.")]
pub(crate) struct GcOptions {
    #[command(flatten)]
    pub(crate) network: NetworkOptions,

    /// Ignored; accepted because cnitool demands it
    #[arg(hide = true)]
    pub(crate) netns: Option<String>,

    /// Keep this attachment, and have the plugins remove all others; repeat it for more
    #[arg(long, value_name = "CONTAINERID/IFNAME", value_parser = attachment)]
    pub(crate) keep: Vec<ValidAttachment>,

    /// Have the plugins remove everything of the network
    #[arg(long, conflicts_with = "keep")]
    pub(crate) keep_none: bool,

    /// Delete this attachment although its container is there, which loses its network; repeat it
    /// for more
    #[arg(long, value_name = "CONTAINERID/IFNAME", value_parser = attachment)]
    pub(crate) delete: Vec<ValidAttachment>,

    /// Say what would be deleted and change nothing
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
}

/// What to take out.
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("what").required(true)),
    after_help = "\
Host ports, accept rules and isolation, limits, and tuned settings go, in whatever table they are, \
and with them tables, IFBs, files and route_localnet that serve nobody any more. What others made \
stays. The cache stays, too: a later del of the runtime succeeds, and cni-chain restore gives \
everything back. The plugins need not be installed any more.

Exit status: 0 success, 1 something could not be removed or was not to be, 2 wrong usage.")]
pub(crate) struct PurgeOptions {
    /// What the attachments to this network have
    #[arg(long, value_name = "NAME", group = "what")]
    pub(crate) network: Option<String>,

    /// What this container has; the beginning of its ID is enough
    #[arg(long, value_name = "ID", group = "what")]
    pub(crate) container_id: Option<String>,

    /// Everything on this host
    #[arg(long, group = "what")]
    pub(crate) all: bool,

    /// Say what would go and change nothing
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,

    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,

    #[command(flatten)]
    pub(crate) cache: CacheOptions,
}

/// What STATUS needs.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 all that were asked can serve add, 1 a plugin cannot or is missing, 2 wrong usage.")]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    pub(crate) network: NetworkOptions,

    /// Ignored; accepted because cnitool demands it
    #[arg(hide = true)]
    pub(crate) netns: Option<String>,
}

/// What to restore.
#[derive(Debug, Args)]
#[command(after_help = "\
For when something flushed the tables under running containers: nft flush ruleset, iptables -F, a \
restart of nftables.service, a reload or restart of firewalld, tc qdisc del. For every attachment \
that the cache directory remembers, whichever runtime added it, the plugins of cni-chain in its \
chain are asked whether all is there (CHECK), and only those that miss something run ADD again.

The plugin that made the interface does not run again; the masquerade rules of bridge's and ptp's \
ipMasq are made again in its place. Plugins that are not cni-chain's are left alone. A host port \
stays with the container that was added last. It may run at any time, also twice at the same time.

Exit status: 0 success, 1 something is missing and could not be restored, 2 wrong usage, and with \
--exit-code 3 if something was missing.")]
pub(crate) struct RestoreOptions {
    /// Only attachments to this network
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,

    /// Only attachments of this container; the beginning of its ID is enough
    #[arg(long, value_name = "ID")]
    pub(crate) container_id: Option<String>,

    /// Only this plugin's part: portmap, bandwidth, firewall, tuning, or ipMasq for the masquerade
    /// rules of bridge and ptp; repeat it for more [default: all but tuning, whose settings no flush
    /// reaches]
    #[arg(long = "plugin", value_name = "PLUGIN")]
    pub(crate) parts: Vec<Part>,

    /// Say what is missing and change nothing
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) telling: TellingOptions,

    /// Stay, and restore whenever firewalld was reloaded or restarted or nftables tables or rules of
    /// containers were deleted; prints like --quiet
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) watch: bool,

    #[command(flatten)]
    pub(crate) plugin_dirs: PluginDirOptions,

    #[command(flatten)]
    pub(crate) cache: CacheOptions,
}

/// How `restore` tells what it found.
#[derive(Debug, Args)]
pub(crate) struct TellingOptions {
    /// Exit with status 3 if something was missing, restored or not
    #[arg(long, conflicts_with = "watch")]
    pub(crate) exit_code: bool,

    /// Print what was restored and what failed, and nothing else
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// What to install, and where.
#[derive(Debug, Args)]
#[command(after_help = "\
Each program is written beside its place, run once, and then renamed: a runtime that calls a plugin \
at this moment gets the old one or the new one. Nothing is replaced unless all of them run. A plugin \
of another that is replaced is kept as NAME.go-backup. Running containers keep what they have. Done \
again, it changes nothing.

Without --bin-dir it is the directory that the configuration of containerd (also k3s's, RKE2's, \
microk8s's) or CRI-O names, else the one with CNI plugins of /opt/cni/bin, /usr/lib/cni, \
/usr/libexec/cni, and those of k3s, microk8s and GKE, else /opt/cni/bin.

Examples:
  cni-chain install --dry-run
  cni-chain install --append portmap,firewall --conflist /etc/cni/net.d/10-podnet.conflist
  cni-chain install --bin-dir /usr/libexec/cni --systemd

Exit status: 0 success, 1 it failed, 2 wrong usage.")]
pub(crate) struct InstallOptions {
    /// Directory with the programs to install [default: the one of this cni-chain]
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) place: PlaceOptions,

    /// Only these plugins, and cni-chain
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = ALL_PLUGINS)]
    pub(crate) plugins: Vec<MetaPlugin>,

    /// Also give these plugins an entry in a network, where they have none: portmap,bandwidth
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "conflist")]
    pub(crate) append: Vec<MetaPlugin>,

    /// The network's file, of which every other byte stays
    #[arg(long, value_name = "FILE", requires = "append")]
    pub(crate) conflist: Option<PathBuf>,

    /// Also install systemd units that restore containers' rules after a flush or a reload
    #[arg(long, conflicts_with = "watch")]
    pub(crate) systemd: bool,

    /// Stay, and install again whenever somebody else has replaced what is installed
    #[arg(long)]
    pub(crate) watch: bool,

    /// Say what would be done and change nothing
    #[arg(long, short = 'n', conflicts_with = "watch")]
    pub(crate) dry_run: bool,
}

/// Where to install.
#[derive(Debug, Args)]
pub(crate) struct PlaceOptions {
    /// Directory where the runtime looks for plugins
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,

    /// Replace files that belong to a package of this host; its next update puts its own back
    #[arg(long)]
    pub(crate) replace_packaged: bool,
}

const ALL_PLUGINS: &str = "portmap,bandwidth,tuning,firewall";

/// What to take out.
#[derive(Debug, Args)]
#[command(after_help = "\
Plugins that were there before come back, the very files; entries that install put into networks go, \
and every other byte stays; the systemd units are disabled and deleted.

While containers run that have host ports, limits, settings or accept rules of cni-chain, it wants to \
know what becomes of those. With --hand-over the plugins that come back take them over, one \
container after the other, and the network goes on meanwhile; `cni-chain purge --all` before it takes \
them out; with --leave they stay as they are.

Exit status: 0 success, 1 it failed or was not to be, 2 wrong usage.")]
pub(crate) struct UninstallOptions {
    /// Directory of the plugins [default: as install finds it]
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,

    /// Where the network's file is, if install was given another path to it
    #[arg(long, value_name = "FILE")]
    pub(crate) conflist: Option<PathBuf>,

    /// Give running containers to the plugins that come back
    #[arg(long, conflicts_with = "leave")]
    pub(crate) hand_over: bool,

    /// Leave what running containers have; nothing takes it out when they end
    #[arg(long)]
    pub(crate) leave: bool,

    /// Say what would be done and change nothing
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) cache: CacheOptions,
}

/// How to run the demo.
#[derive(Debug, Args)]
#[command(after_help = "\
Needs no other program, and no root where the host allows user namespaces. The demo runs in network \
and mount namespaces of its own: the network of this machine is not touched, and nothing stays behind.

Exit status: 0 all was as it should be, 1 it was not, or the demo could not run, 2 wrong usage.")]
pub(crate) struct DemoOptions {
    #[command(flatten)]
    pub(crate) plugin_dirs: PluginDirOptions,

    /// Stop before the clean-up and say how to look around
    #[arg(long)]
    pub(crate) keep: bool,
}

const LOCATIONS: &str = "Locations";

fn attachment(text: &str) -> Result<ValidAttachment, String> {
    match text.split_once('/') {
        Some((container_id, ifname))
            if !container_id.is_empty() && !ifname.is_empty() && !ifname.contains('/') =>
        {
            Ok(ValidAttachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
        }
        _ => Err("an attachment is a container ID, a slash and an interface name".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_has_the_exit_status() {
        for mut command in Cli::command().get_subcommands().cloned() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Exit status: 0"), "{help}");
        }
    }

    /// A line that is broken by hand is broken again by a narrow terminal, at another word.
    #[test]
    fn the_terminal_breaks_lines() {
        let is_prose =
            |line: &&str| !line.is_empty() && !line.starts_with([' ', 'F']) && !line.ends_with(':');
        for command in Cli::command().get_subcommands() {
            let text = command.get_after_help().expect("a text").to_string();
            for pair in text.lines().collect::<Vec<_>>().windows(2) {
                assert!(!pair.iter().all(is_prose), "{}: {pair:?}", command.get_name());
            }
        }
    }

    #[test]
    fn completions_and_man_pages_know_every_subcommand() {
        let dir = tempfile::TempDir::new().expect("a directory");
        Cli::man_pages(dir.path()).expect("written");
        let names: Vec<String> =
            Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(Cli::completions(shell)).expect("UTF-8");
            for name in &names {
                assert!(script.contains(name.as_str()), "{shell:?}: {name}");
            }
        }
        for name in &names {
            let page = dir.path().join(format!("cni-chain-{name}.1"));
            let text = std::fs::read_to_string(page).expect("a page");
            assert!(text.contains("Exit status"), "{name}: {text}");
        }
    }

    #[test]
    fn attachments_to_keep() {
        let kept = attachment("c1/eth0").expect("valid");
        assert_eq!((kept.container_id.as_str(), kept.ifname.as_str()), ("c1", "eth0"));
        for bad in ["", "c1", "/eth0", "c1/", "c1/eth0/1"] {
            assert!(attachment(bad).is_err(), "{bad}");
        }
    }
}
