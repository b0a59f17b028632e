//! `cni-chain purge`.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};

use super::privilege::may_administer_network;
use super::say;
use crate::cli::PurgeOptions;
use crate::progress::Progress;
use crate::purge::{Purge, Scope, Victim};
use crate::runner::{Cache, container_id};

/// Says what goes, asks, and takes it out.
pub(super) fn purge(options: &PurgeOptions) -> anyhow::Result<()> {
    if !may_administer_network() {
        bail!("only root can change what the kernel holds: run this command with sudo");
    }
    let cache = Cache::new(&options.cache.dir);
    let purge = Purge::look(&cache, scope(options, &cache)?)?;
    if let [first, ..] = purge.unreadable() {
        bail!("nothing was removed, because not all can be read: {first}");
    }
    let victims = purge.victims();
    for victim in &victims {
        say(&format!("{}: {}", victim.name(), victim.losses()))?;
    }
    if options.dry_run {
        return say(&format!("{} would lose all of that", attachments(victims.len())));
    }
    warn(&victims)?;
    if !options.yes && !victims.is_empty() && !confirmed()? {
        bail!("nothing was removed");
    }
    let mut failed = 0;
    let mut progress = Progress::of(victims.len());
    for victim in &victims {
        let outcome = purge.remove(victim);
        progress.step();
        if let Err(failures) = outcome {
            failed += 1;
            progress.hide();
            say(&format!("{}: failed: {}", victim.name(), failures.join("; ")))?;
        }
    }
    drop(progress);
    let (done, failures) = purge.clean_up(&cache);
    done.iter().try_for_each(|line| say(line))?;
    failures.iter().try_for_each(|line| say(&format!("failed: {line}")))?;
    say(&format!("removed from {}", attachments(victims.len() - failed)))?;
    if failed > 0 || !failures.is_empty() {
        bail!("not everything could be removed; the lines above say why");
    }
    let left = Purge::look(&cache, scope(options, &cache)?)?;
    match left.victims().as_slice() {
        [] => Ok(()),
        [first, ..] => {
            bail!("{} has something again: does a restore or a runtime put it back?", first.name())
        }
    }
}

fn scope(options: &PurgeOptions, cache: &Cache) -> anyhow::Result<Scope> {
    if let Some(network) = &options.network {
        return Ok(Scope::Network(network.clone()));
    }
    let Some(id) = &options.container_id else { return Ok(Scope::All) };
    let owners = crate::show::owners(cache)?;
    let ids = owners.iter().map(|owner| owner.container_id.as_str());
    Ok(Scope::Container(container_id::complete(id, ids)?))
}

fn attachments(count: usize) -> String {
    if count == 1 { "1 attachment".to_owned() } else { format!("{count} attachments") }
}

fn warn(victims: &[Victim<'_>]) -> anyhow::Result<()> {
    let living: Vec<_> = victims.iter().filter(|victim| victim.lives()).collect();
    if living.is_empty() {
        return Ok(());
    }
    let forgotten = living.iter().filter(|victim| !victim.is_remembered()).count();
    let (live, back) = match (forgotten, living.len() - forgotten) {
        (0, known) => (format!("{known} of these live"), "gives it all back"),
        (unknown, 0) => (format!("{unknown} of these may live"), "knows nothing of them"),
        (unknown, known) => (
            format!("{known} of these live, and {unknown} may, which the cache knows nothing of"),
            "gives it back to those that live",
        ),
    };
    say(&format!(
        "{live}: their ports stop answering, their limits end, tuned settings go back to what they were, and \
         where the host drops what it forwards, they lose the network. `cni-chain restore` {back}; stop \
         cni-chain-restore-watch.service if it runs."
    ))
}

/// Whether the person at the terminal says so.
fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nothing was removed: there is no terminal to ask at; add --yes");
    }
    print!("Go on? Type yes: ");
    std::io::stdout().flush().context("cannot write to stdout")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == "yes")
}
