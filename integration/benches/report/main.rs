//! Measures what docs/performance.md shows, and prints it as lines of JSON, one for each series.
//!
//! `./dev bench --report [--quick] [--only SCENE] [--plugins NAME=DIRECTORY…]` runs it and makes the page of what it
//! prints (`integration/report`). Needs root, strace, iperf3 and Debian's `containernetworking-plugins`.
//! A scene that breaks off is told in the record, and the others go on.

#![forbid(unsafe_code)]

mod attachment;
mod floor;
mod host;
mod machine;
mod memory;
mod record;
mod replay;
mod scenes;
mod subject;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use cni_testbox::enter_box;

use scenes::{SCENES, Setup};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let setup = Setup::read(&words);
    enter_box();
    machine::tell(&setup);
    let is_wanted = |name: &str| setup.only.as_deref().is_none_or(|only| only == name);
    for (name, scene) in SCENES.iter().filter(|(name, _)| is_wanted(name)) {
        let start = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| scene(&setup)));
        let seconds = start.elapsed().as_secs();
        match ended {
            Ok(Ok(())) => eprintln!("report: {name}: {seconds} s"),
            Ok(Err(why)) => record::failed(name, &why),
            // What panicked has said so on stderr.
            Err(panic) => record::failed(name, &text_of(&*panic)),
        }
        host::remove_all();
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("it panicked").to_owned()
}
