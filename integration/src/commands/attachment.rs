//! `add`, `del` and `check`: one attachment.

use std::path::{Path, absolute};

use anyhow::{Context as _, anyhow, bail};
use cni_common::cni::attachment::go_digest;
use cni_common::cni::protocol::args;
use cni_common::cni::protocol::json::{Json, Object};

use super::network::{Network, complete_id, load};
use super::{given, runner};
use crate::cli::{ArgumentOptions, AttachmentOptions};
use crate::runner::faults::Faults;
use crate::runner::{NetworkList, Runner, RuntimeConf};

const NETNS_DIR: &str = "/run/netns";
const DEFAULT_IFNAME: &str = "eth0";
const PORT_MAPPINGS: &str = "portMappings";

/// ADD; the text is the result.
pub(super) fn add(options: &AttachmentOptions) -> anyhow::Result<String> {
    let list = load(&options.network.conf)?;
    let conf = attachment(options)?;
    require_a_taker(&list, &options.arguments)?;
    let result = runner(&options.network).add(&list, &conf)?;
    Ok(result.to_pretty() + "\n")
}

/// Ports that no plugin would be told of are an error.
pub(super) fn require_a_taker(
    list: &NetworkList,
    arguments: &ArgumentOptions,
) -> anyhow::Result<()> {
    let takes_ports =
        list.plugins.iter().any(|plugin| plugin.capabilities.iter().any(|c| c == PORT_MAPPINGS));
    if !arguments.publish.is_empty() && !takes_ports {
        bail!(
            "--publish would do nothing: no plugin of network {:?} declares the capability \
             {PORT_MAPPINGS}; append {{\"type\": \"portmap\", \"capabilities\": \
             {{\"{PORT_MAPPINGS}\": true}}}} to its plugins",
            list.name
        );
    }
    Ok(())
}

/// DEL.
pub(super) fn del(options: &AttachmentOptions) -> anyhow::Result<()> {
    let (runner, list, conf) = as_added(options)?;
    Ok(runner.del(&list, &conf)?)
}

/// CHECK.
pub(super) fn check(options: &AttachmentOptions) -> anyhow::Result<()> {
    let (runner, list, conf) = as_added(options)?;
    let Err(error) = runner.check(&list, &conf) else { return Ok(()) };
    match error.cni_error().map(Faults::of) {
        Some(Faults { claim, groups, remedy }) if !groups.is_empty() => {
            let separator = if remedy.is_empty() { "" } else { "; " };
            bail!("{claim}{separator}{remedy}\n    {}", groups.join("\n    "))
        }
        _ => Err(error.into()),
    }
}

fn attachment(options: &AttachmentOptions) -> anyhow::Result<RuntimeConf> {
    let netns = netns_path(&options.netns)?;
    let container_id = match &options.container_id {
        Some(id) => id.clone(),
        None if netns.is_empty() => bail!("without a namespace, --container-id is needed"),
        None => default_container_id(&netns),
    };
    arguments(&options.arguments, RuntimeConf { container_id, netns, ..RuntimeConf::default() })
}

/// A container of this ID in a namespace that need not exist.
pub(super) fn without_namespace(container_id: &str) -> RuntimeConf {
    RuntimeConf {
        container_id: container_id.to_owned(),
        netns: format!("{NETNS_DIR}/{container_id}"),
        ..RuntimeConf::default()
    }
}

/// The attachment with what plugins are called with.
pub(super) fn arguments(
    options: &ArgumentOptions,
    conf: RuntimeConf,
) -> anyhow::Result<RuntimeConf> {
    let mut capability_args = match given(options.cap_args.as_ref()) {
        Some(text) => parse_capability_args(text)?,
        None => Object::default(),
    };
    publish(options, &mut capability_args)?;
    Ok(RuntimeConf {
        ifname: given(options.ifname.as_ref()).unwrap_or(DEFAULT_IFNAME).to_owned(),
        args: given(options.args.as_ref()).map_or(Ok(Vec::new()), parse_args)?,
        capability_args,
        ..conf
    })
}

/// An attachment that was added before, with the arguments that ADD was given where this call gives
/// none: plugins must see the same in DEL and CHECK.
fn as_added(options: &AttachmentOptions) -> anyhow::Result<(Runner, NetworkList, RuntimeConf)> {
    let runner = runner(&options.network);
    let cache = runner.cache();
    let network = Network::find(&options.network, &cache)?;
    let mut conf = attachment(options)?;
    // An unreadable cache is CHECK's to report, and DEL has to do without.
    let mut added = cache.attachment(&network.name, &conf).unwrap_or_default();
    if added.is_none() && options.container_id.is_some() {
        let remembered = cache.attachments(None).unwrap_or_default();
        conf.container_id = complete_id(&conf.container_id, &remembered, Some(&network.name))?;
        added = cache.attachment(&network.name, &conf).unwrap_or_default();
    }
    let Some(added) = added else { return Ok((runner, load(&options.network.conf)?, conf)) };
    let list = network.list_for(&added)?;
    let given_now = &options.arguments;
    if given_now.publish.is_empty() && given(given_now.cap_args.as_ref()).is_none() {
        conf.capability_args = added.conf.capability_args;
    }
    if given(given_now.args.as_ref()).is_none() {
        conf.args = added.conf.args;
    }
    Ok((runner, list, conf))
}

fn netns_path(text: &str) -> anyhow::Result<String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let path = if text.contains('/') { absolute(text)? } else { Path::new(NETNS_DIR).join(text) };
    path.into_os_string()
        .into_string()
        .ok()
        .with_context(|| format!("the absolute path of {text:?} is not valid UTF-8"))
}

/// cnitool's, so that each can delete what the other added.
fn default_container_id(netns: &str) -> String {
    format!("cnitool-{}", go_digest(netns, 20))
}

/// As strict as cnitool: nothing is empty, and no value has a `=`.
fn parse_args(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let judge = |pair: Result<(&str, &str), &str>| match pair {
        Ok((name, value)) if !name.is_empty() && !value.is_empty() && !value.contains('=') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        Ok((name, value)) => Err(format!("{name}={value}")),
        Err(pair) => Err(pair.to_owned()),
    };
    args::pairs(text).map(judge).collect::<Result<_, _>>().map_err(|pair: String| {
        anyhow!("invalid CNI_ARGS pair {pair:?}: write KEY=VALUE;KEY=VALUE")
    })
}

fn parse_capability_args(text: &str) -> anyhow::Result<Object> {
    match Json::parse(text.as_bytes()) {
        Ok(Json::Object(args)) => Ok(args),
        Ok(other) => bail!("CAP_ARGS must be a JSON object, but is {}", other.kind()),
        Err(error) => bail!("CAP_ARGS must be a JSON object: {error}"),
    }
}

/// Appends the published ports to the mappings that the capability arguments may hold.
fn publish(options: &ArgumentOptions, capability_args: &mut Object) -> anyhow::Result<()> {
    if options.publish.is_empty() {
        return Ok(());
    }
    let mut mappings = match capability_args.get_exact(PORT_MAPPINGS) {
        None => Vec::new(),
        Some(Json::Array(mappings)) => mappings.clone(),
        Some(other) => {
            bail!("{PORT_MAPPINGS} in CAP_ARGS must be a list, but is {}", other.kind())
        }
    };
    mappings.extend(options.publish.iter().flat_map(crate::cli::Publish::mappings));
    capability_args.set(PORT_MAPPINGS, mappings);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_are_cnitools() {
        for (netns, id) in [
            ("/var/run/netns/cnitest", "cnitool-20c433bb2b1d6ede56d6"),
            ("/var/run/netns/testing", "cnitool-77383ca0a0715733ca6f"),
        ] {
            assert_eq!(default_container_id(netns), id);
        }
    }

    #[test]
    fn namespaces_by_name_and_by_path() {
        let path = |text| netns_path(text).expect(text);
        assert_eq!(path("web"), "/run/netns/web");
        assert_eq!(path("/proc/1/ns/net"), "/proc/1/ns/net");
        assert_eq!(path(""), "");
        assert!(path("./web").starts_with('/'));
    }

    #[test]
    fn args_pairs() {
        let args = parse_args("A=1;B=2;A=3").expect("valid");
        let args: Vec<(&str, &str)> = args.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(args, [("A", "1"), ("B", "2"), ("A", "3")]);
        for bad in ["A", "A=", "=1", "A=1;", "A=B=C", ";"] {
            let error = parse_args(bad).expect_err(bad).to_string();
            assert!(error.starts_with("invalid CNI_ARGS pair"), "{bad}: {error}");
        }
    }
}
