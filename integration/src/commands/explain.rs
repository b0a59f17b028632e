//! `cni-chain explain`.

use std::process::ExitCode;

use anyhow::Context as _;
use cni_common::cni::protocol::json::Json;

use super::attachment::{arguments, require_a_taker, without_namespace};
use super::network::load;
use super::print;
use crate::cli::{BackendChoice, ExplainOptions};
use crate::explain::{Scene, Told, explain, json, text};
use crate::terminal::Terminal;

/// Says what ADD would do. The status says whether it would fail.
pub(super) fn run(options: &ExplainOptions) -> anyhow::Result<ExitCode> {
    let list = load(&options.conf)?;
    require_a_taker(&list, &options.arguments)?;
    let conf = arguments(&options.arguments, without_namespace(&options.container_id))?;
    let scene = match &options.prev_result {
        None => Scene::example(&list, &conf),
        Some(path) => {
            let file = || format!("cannot read the result in {}", path.display());
            let bytes = std::fs::read(path).with_context(file)?;
            let result = Json::parse(&bytes).with_context(file)?;
            Scene::of_result(&list, &result).map_err(anyhow::Error::msg).with_context(file)?
        }
    };
    let backend = options.backend.map(BackendChoice::as_str);
    let all = explain(&list, &conf, &scene, backend);
    if options.json {
        print(&(json(&list, &conf, &scene, &all).to_pretty() + "\n"))?;
    } else {
        print(&text(&list, &conf, &scene, &all, Terminal::stdout()))?;
    }
    let is_refused = all.iter().any(|explained| matches!(explained.told, Told::Refused(_)));
    Ok(if is_refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
