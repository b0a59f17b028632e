//! Whether limits hold, and how long a ping takes while they are used up.

use cni_testbox::flood::{Flow, PLACEHOLDER, call, clean, furnish_host, measure};

use super::Setup;
use crate::record::Of;

const SCENE: &str = "limits";

pub(super) fn run(setup: &Setup) -> Result<(), String> {
    furnish_host();
    let rates: &[u64] = if setup.quick { &[10] } else { &[10, 100] };
    let flows = Flow::ALL.into_iter().filter(|flow| !flow.udp).take(setup.rounds(2, 1));
    for flow in flows.collect::<Vec<_>>() {
        for mbit in rates {
            let rate = mbit * 1_000_000;
            let bursts = [(PLACEHOLDER, "placeholder"), (rate * 3 / 50, "60 ms")];
            for (burst, name) in bursts.into_iter().take(setup.rounds(2, 1)) {
                for by in &setup.implementations {
                    let program = by.directory.join("bandwidth");
                    let call = call(rate, burst, None);
                    call.cost(&program, "ADD")?;
                    let seen = measure(rate, flow);
                    let _ = call.cost(&program, "DEL");
                    clean();
                    let of = Of {
                        scene: SCENE,
                        plugin: flow.name().into(),
                        by: by.name.clone(),
                        backend: name.into(),
                        at: usize::try_from(*mbit).expect("Mbit/s"),
                        ..Of::default()
                    };
                    of.tell("most", &[seen.most]);
                    of.tell("least", &[seen.least]);
                    // Behind a limit that lets all through for seconds, none may come back.
                    if seen.ping.is_finite() {
                        of.tell("ping", &[seen.ping]);
                    }
                }
            }
        }
    }
    Ok(())
}
