//! The kernel's own minimum: the messages and sysctls of a call, sent once more by who neither starts a process nor
//! thinks.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use cni_common::kernel::netns::Netns;
use cni_testbox::bench::Cost;
use cni_testbox::trace::{Effect, Traced, messages};
use netlink_sys::Socket as Netlink;
use nix::time::{ClockId, clock_gettime};

use crate::host::{Host, path_of};

const BATCH_BEGIN: u16 = 0x10;
const NEW_GENERATION: u16 = 0x0a0f;
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_NAMESPACE_ID: u16 = 90;
const CREATE: u16 = 0x400;
const NETFILTER: isize = 12;
const ROUTE: isize = 0;

/// ADD and DEL of one plugin, as messages.
pub(super) struct Replay<'a> {
    host: &'a Host,
    add: Traced,
    del: Traced,
    /// The index of the interface that ADD makes and DEL removes: the kernel would give it another one each time.
    made: Option<[u8; 4]>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(host: &'a Host, add: Traced, del: Traced) -> Self {
        let made = del.effects.iter().find_map(|effect| match effect {
            Effect::Message { socket, bytes } if del.protocols[*socket] == ROUTE => {
                let mut all = messages(bytes).map(|(_, message)| message);
                let delete = all.find(|message| kind(message) == DELETE_LINK)?;
                delete.get(20..24)?.try_into().ok()
            }
            _ => None,
        });
        Self { host, add, del, made }
    }

    /// ADD and then DEL: what each took. `between` looks on after ADD.
    pub(super) fn once(&self, between: &(dyn Fn() + Sync)) -> [Cost; 2] {
        let work = || {
            let add = Call::of(self, &self.add).once();
            between();
            [add, Call::of(self, &self.del).once()]
        };
        // A socket is of the namespace that it is made in, a sysctl of that in which it is opened.
        if self.add.elsewhere {
            let container = Netns::open(&path_of(&self.host.container)).expect("the container");
            return container.run(work).expect("the container's namespace");
        }
        self.host.inside(work)
    }
}

/// One command's.
struct Call<'a> {
    traced: &'a Traced,
    made: Option<[u8; 4]>,
    /// The ruleset's, by the kernel's last word.
    generation: [u8; 4],
    /// Of which messages carry the descriptor.
    container: File,
    answers: Vec<u8>,
}

impl<'a> Call<'a> {
    fn of(replay: &Replay<'_>, traced: &'a Traced) -> Self {
        Self {
            traced,
            made: replay.made,
            generation: [0; 4],
            container: File::open(path_of(&replay.host.container)).expect("the container"),
            answers: vec![0; 64 << 10],
        }
    }

    /// Sockets are opened and closed: a plugin is a process, which cannot keep one. `nf_tables` lets who closes a socket
    /// wait until what was deleted is gone.
    fn once(mut self) -> Cost {
        let mut effects = self.traced.effects.clone();
        let (before, start) = (thread_cpu(), Instant::now());
        let sockets: Vec<Netlink> =
            self.traced.protocols.iter().map(|protocol| open(*protocol)).collect();
        for effect in &mut effects {
            match effect {
                Effect::Message { socket, bytes } => {
                    self.renew(self.traced.protocols[*socket], bytes);
                    self.send(&sockets[*socket], bytes);
                }
                Effect::Sysctl { path, bytes } => {
                    fs::write(&*path, &*bytes).expect("the plugin wrote it, too");
                }
            }
        }
        drop(sockets);
        let wall = start.elapsed();
        Cost { cpu: thread_cpu().saturating_sub(before), wall }
    }

    fn send(&mut self, netlink: &Netlink, bytes: &[u8]) {
        netlink.send(bytes, 0).expect("netlink takes it");
        // The kernel has answered when `send` returns; of a dump, each look makes the next part.
        loop {
            let mut room = &mut self.answers[..];
            let Ok(length) = netlink.recv(&mut room, nix::libc::MSG_DONTWAIT) else { break };
            for (_, message) in messages(&self.answers[..length]) {
                if kind(message) == NEW_GENERATION
                    && let Some(generation) = message.get(24..28)
                {
                    self.generation.copy_from_slice(generation);
                }
            }
        }
    }

    /// What is another one each time: the ruleset's generation, a descriptor, an interface's index.
    fn renew(&self, protocol: isize, bytes: &mut [u8]) {
        let starts: Vec<(usize, u16, usize)> =
            messages(bytes).map(|(start, message)| (start, kind(message), message.len())).collect();
        for (start, kind, length) in starts {
            let message = &mut bytes[start..start + length];
            match (protocol, kind) {
                (NETFILTER, BATCH_BEGIN) if length >= 28 => {
                    message[24..28].copy_from_slice(&self.generation);
                }
                (ROUTE, GET_NAMESPACE_ID) if length >= 28 => {
                    let descriptor = self.container.as_raw_fd().to_ne_bytes();
                    message[24..28].copy_from_slice(&descriptor);
                }
                (ROUTE, NEW_LINK) => {
                    let flags = u16::from_ne_bytes([message[6], message[7]]);
                    if let (true, Some(made)) = (flags & CREATE != 0, self.made) {
                        message[20..24].copy_from_slice(&made);
                    }
                }
                _ => {}
            }
        }
    }
}

fn open(protocol: isize) -> Netlink {
    let netlink = Netlink::new(protocol).expect("a netlink socket");
    // As the plugins have it.
    netlink.set_ext_ack(true).expect("an option of netlink");
    netlink.set_cap_ack(true).expect("an option of netlink");
    netlink
}

fn kind(message: &[u8]) -> u16 {
    u16::from_ne_bytes([message[4], message[5]])
}

fn thread_cpu() -> Duration {
    // getrusage would tell what the thread had taken at the last tick.
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread's clock");
    Duration::from(time)
}
