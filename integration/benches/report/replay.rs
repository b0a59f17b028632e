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

/// One command's, with everything put in that is known before.
struct Call<'a> {
    traced: &'a Traced,
    effects: Vec<Effect>,
    /// Where messages carry the ruleset's generation: the effect's place, and that in its bytes.
    generations: Vec<(usize, usize)>,
    /// Of which messages carry the descriptor.
    _container: File,
    answers: Vec<u8>,
}

impl<'a> Call<'a> {
    /// What is another one each time is put in: a descriptor, an interface's index.
    fn of(replay: &Replay<'_>, traced: &'a Traced) -> Self {
        let container = File::open(path_of(&replay.host.container)).expect("the container");
        let mut effects = traced.effects.clone();
        let mut generations = Vec::new();
        for (place, effect) in effects.iter_mut().enumerate() {
            let Effect::Message { socket, bytes } = effect else { continue };
            let protocol = traced.protocols[*socket];
            let starts: Vec<(usize, usize)> =
                messages(bytes).map(|(start, message)| (start, message.len())).collect();
            for (start, length) in starts {
                let message = &mut bytes[start..start + length];
                match (protocol, kind(message)) {
                    (NETFILTER, BATCH_BEGIN) if length >= 28 => {
                        generations.push((place, start + 24));
                    }
                    (ROUTE, GET_NAMESPACE_ID) if length >= 28 => {
                        message[24..28].copy_from_slice(&container.as_raw_fd().to_ne_bytes());
                    }
                    (ROUTE, NEW_LINK) => {
                        let flags = u16::from_ne_bytes([message[6], message[7]]);
                        if let (true, Some(made)) = (flags & CREATE != 0, replay.made) {
                            message[20..24].copy_from_slice(&made);
                        }
                    }
                    _ => {}
                }
            }
        }
        let answers = vec![0; 64 << 10];
        Self { traced, effects, generations, _container: container, answers }
    }

    /// Sockets are opened and closed: a plugin is a process, which cannot keep one. `nf_tables` lets who closes a socket
    /// wait until what was deleted is gone.
    fn once(mut self) -> Cost {
        let mut generation = [0; 4];
        let (before, start) = (thread_cpu(), Instant::now());
        let sockets: Vec<Netlink> =
            self.traced.protocols.iter().map(|protocol| open(*protocol)).collect();
        for (place, effect) in self.effects.iter_mut().enumerate() {
            match effect {
                Effect::Message { socket, bytes } => {
                    for (_, at) in self.generations.iter().filter(|(of, _)| *of == place) {
                        bytes[*at..at + 4].copy_from_slice(&generation);
                    }
                    sockets[*socket].send(bytes, 0).expect("netlink takes it");
                    take_answers(&sockets[*socket], &mut self.answers, &mut generation);
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
}

/// The kernel has answered when `send` returns; of a dump, each look makes the next part. Only the ruleset's generation
/// is looked at, which comes alone.
fn take_answers(netlink: &Netlink, answers: &mut [u8], generation: &mut [u8; 4]) {
    loop {
        let mut room = &mut answers[..];
        let Ok(length) = netlink.recv(&mut room, nix::libc::MSG_DONTWAIT) else { break };
        if length >= 28 && kind(answers) == NEW_GENERATION {
            generation.copy_from_slice(&answers[24..28]);
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
