//! What a call does, as strace sees it: system calls, programs, and every message over netlink, byte by byte.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use crate::Call;

/// Where strace writes a file for each thread.
const OUTPUT: &str = "/run/trace";
/// Of a process that strace starts, and dumped with what is written.
const STRACE: [&str; 8] = ["strace", "-ff", "-ttt", "-yy", "-e", "write=all", "-e", "signal=none"];

/// What was sent or written, in its order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Over the socket of this number.
    Message {
        /// Its place in [`Traced::protocols`].
        socket: usize,
        /// A datagram.
        bytes: Vec<u8>,
    },
    /// A sysctl.
    Sysctl {
        /// As the kernel names the file.
        path: String,
        /// What was written.
        bytes: Vec<u8>,
    },
}

/// What a call did.
#[derive(Debug, Default)]
pub struct Traced {
    /// System calls of the plugin and of what it runs.
    pub calls: usize,
    /// Programs that it ran.
    pub ran: Vec<String>,
    /// Netlink messages that were sent; a datagram can hold several.
    pub messages: usize,
    /// Of its netlink sockets.
    pub protocols: Vec<isize>,
    /// In their order.
    pub effects: Vec<Effect>,
    /// Whether it opened sockets after it had entered a namespace.
    pub elsewhere: bool,
}

/// Runs a call that must succeed.
pub fn run(call: &Call, program: &Path, command: &str) -> Result<Traced, String> {
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
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As strace 6.1 writes them, of two threads.
    const MAIN: &str = r#"
100.000001 execve("/opt/cni/bin/x", ["x"], 0x7ff /* 3 vars */) = 0
100.000002 socket(AF_NETLINK, SOCK_DGRAM|SOCK_CLOEXEC, NETLINK_NETFILTER) = 3<NETLINK:[71]>
100.000003 sendto(3<NETLINK:[71]>, [{nlmsg_len=20, …}, {nlmsg_len=20, …}], 40, 0, NULL, 0) = 40
 | 00000  14 00 00 00 10 0a 01 00  01 00 00 00 00 00 00 00  ................ |
 | 00010  00 00 00 00 14 00 00 00  12 0a 01 00 02 00 00 00  ................ |
 | 00020  00 00 00 00 41 42 43 44                           ....ABCD         |
100.000009 execve("/usr/bin/none", ["none"], 0x7ff /* 3 vars */) = -1 ENOENT (No such file or directory)
100.000010 write(1</dev/null>, "{}", 2) = 2
 | 00000  7b 7d                                             {}               |
100.000011 exit_group(0)         = ?
100.000012 +++ exited with 0 +++
"#;
    const THREAD: &str = r#"
100.000004 setns(4</run/netns/c1>, CLONE_NEWNET) = 0
100.000005 socket(AF_NETLINK, SOCK_DGRAM|SOCK_CLOEXEC, NETLINK_ROUTE) = 5<NETLINK:[72]>
100.000006 pwrite64(7</proc/sys/net/core/somaxconn>, "500", 3, 0) = 3
 | 00000  35 30 30                                          500              |
100.000007 execve("/usr/sbin/nft", ["nft"], 0x7ff /* 3 vars */) = 0
"#;

    #[test]
    fn what_strace_writes_is_read() {
        let traced = read(&[MAIN.to_owned(), THREAD.to_owned()]);
        assert_eq!(traced.calls, 10);
        assert_eq!(traced.ran, ["/usr/sbin/nft"]);
        assert_eq!((traced.messages, &traced.protocols[..]), (2, &[12, 0][..]));
        assert!(traced.elsewhere);
        let [Effect::Message { socket: 0, bytes }, Effect::Sysctl { path, bytes: value }] =
            &traced.effects[..]
        else {
            panic!("{:?}", traced.effects)
        };
        assert_eq!((bytes.len(), &bytes[36..]), (40, &b"ABCD"[..]));
        assert_eq!((path.as_str(), &value[..]), ("/proc/sys/net/core/somaxconn", &b"500"[..]));
    }

    #[test]
    fn a_datagram_that_is_cut_has_no_more_messages() {
        let mut datagram = vec![20, 0, 0, 0];
        datagram.resize(20, 0);
        datagram.extend([20, 0, 0, 0]);
        assert_eq!(
            messages(&datagram).map(|(at, message)| (at, message.len())).collect::<Vec<_>>(),
            [(0, 20)]
        );
        assert_eq!(messages(&[0; 20]).count(), 0);
    }
}
