//! What a call does, as strace sees it: system calls, programs, and every message over netlink, byte by byte.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use cni_testbox::Call;

/// Where strace writes a file for each thread.
const OUTPUT: &str = "/run/trace";
/// Of a process that strace starts, and dumped with what is written.
const STRACE: [&str; 8] = ["strace", "-ff", "-ttt", "-yy", "-e", "write=all", "-e", "signal=none"];

/// What was sent or written, in its order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// Over the socket of this number.
    Message { socket: usize, bytes: Vec<u8> },
    /// A sysctl.
    Sysctl { path: String, bytes: Vec<u8> },
}

#[derive(Debug, Default)]
pub(super) struct Traced {
    /// System calls of the plugin and of what it runs.
    pub(super) calls: usize,
    /// Programs that it ran.
    pub(super) ran: Vec<String>,
    /// Netlink messages that were sent; a datagram can hold several.
    pub(super) messages: usize,
    /// Of its netlink sockets.
    pub(super) protocols: Vec<isize>,
    pub(super) effects: Vec<Effect>,
    /// Whether it opened sockets after it had entered a namespace.
    pub(super) elsewhere: bool,
}

/// Runs a call that must succeed.
pub(super) fn run(call: &Call, program: &Path, command: &str) -> Result<Traced, String> {
    let _ = fs::remove_dir_all(OUTPUT);
    fs::create_dir(OUTPUT).expect("a directory of the box");
    let prefix = format!("{OUTPUT}/of");
    let words: Vec<&str> = STRACE.iter().copied().chain(["-o", &prefix]).collect();
    call.clone().under(&words).cost(program, command)?;
    let mut threads = Vec::new();
    for entry in fs::read_dir(OUTPUT).expect("strace writes there") {
        let path = entry.expect("readable").path();
        threads.push(String::from_utf8_lossy(&fs::read(path).expect("text")).into_owned());
    }
    Ok(read(&threads))
}

/// A line with what is dumped below it.
struct Event<'a> {
    thread: usize,
    at: &'a str,
    call: &'a str,
    dumped: Vec<u8>,
}

fn read(threads: &[String]) -> Traced {
    let mut events: Vec<Event<'_>> =
        threads.iter().enumerate().flat_map(|(thread, text)| events_of(thread, text)).collect();
    // A time has the same number of digits everywhere.
    events.sort_by(|one, other| one.at.cmp(other.at));
    let mut traced = Traced::default();
    let (mut elsewhere, mut sockets) = (HashSet::new(), HashMap::new());
    for Event { thread, call, dumped, .. } in events {
        let Some((name, arguments)) = call.split_once('(') else { continue };
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        traced.calls += 1;
        match name {
            "execve" if call.ends_with(" = 0") => {
                traced.ran.push(arguments.split('"').nth(1).unwrap_or_default().to_owned());
            }
            "setns" => {
                elsewhere.insert(thread);
            }
            "socket" if arguments.starts_with("AF_NETLINK") => {
                if let (Some(protocol), Some(fd)) = (protocol_of(arguments), returned(call)) {
                    sockets.insert(fd, traced.protocols.len());
                    traced.protocols.push(protocol);
                    traced.elsewhere |= elsewhere.contains(&thread);
                }
            }
            "sendto" | "sendmsg" | "send" if arguments.contains("<NETLINK:") => {
                traced.messages += messages_in(&dumped);
                let fd = arguments.split('<').next().unwrap_or_default();
                if let Some(socket) = sockets.get(fd) {
                    traced.effects.push(Effect::Message { socket: *socket, bytes: dumped });
                }
            }
            "write" | "pwrite64" => {
                let path = arguments.split_once('<').and_then(|(_, rest)| rest.split('>').next());
                if let Some(path) = path.filter(|path| path.starts_with("/proc/sys/")) {
                    traced.effects.push(Effect::Sysctl { path: path.to_owned(), bytes: dumped });
                }
            }
            _ => {}
        }
    }
    // The plugin itself is no program that it runs.
    traced.ran = traced.ran.split_off(traced.ran.len().min(1));
    traced
}

fn events_of(thread: usize, text: &str) -> Vec<Event<'_>> {
    let mut events: Vec<Event<'_>> = Vec::new();
    for line in text.lines() {
        if let Some(dump) = line.strip_prefix(" | ") {
            if let Some(event) = events.last_mut() {
                event.dumped.extend(bytes_of(dump));
            }
        } else if let Some((at, call)) = line.split_once(' ')
            && at.starts_with(|c: char| c.is_ascii_digit())
        {
            events.push(Event { thread, at, call, dumped: Vec::new() });
        }
    }
    events
}

/// As in `00010  08 00 01 00 …  00 00  ........ |`: an offset, two groups of eight bytes, and what they are as text.
fn bytes_of(dump: &str) -> impl Iterator<Item = u8> {
    const WIDTH: usize = 48;
    let columns = dump.split_once("  ").map_or("", |(_, rest)| rest);
    let columns = columns.get(..WIDTH).unwrap_or(columns);
    columns.split_whitespace().filter_map(|byte| u8::from_str_radix(byte, 16).ok())
}

fn protocol_of(arguments: &str) -> Option<isize> {
    let known = [("NETLINK_ROUTE", 0), ("NETLINK_NETFILTER", 12)];
    known.into_iter().find(|(name, _)| arguments.contains(name)).map(|(_, protocol)| protocol)
}

fn returned(call: &str) -> Option<String> {
    let (_, value) = call.rsplit_once(" = ")?;
    Some(value.split('<').next()?.to_owned())
}

/// The messages of a datagram.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    const HEADER: usize = 16;
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = datagram.get(at..).filter(|rest| rest.len() >= HEADER)?;
        let length = u32::from_ne_bytes(rest[..4].try_into().expect("four bytes"));
        let length = usize::try_from(length).ok().filter(|length| *length >= HEADER)?;
        let message = rest.get(..length)?;
        let start = at;
        at += length.next_multiple_of(4);
        Some((start, message))
    })
}

fn messages_in(datagram: &[u8]) -> usize {
    messages(datagram).count()
}
