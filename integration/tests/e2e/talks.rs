//! Talks with containers that go on while a node is changed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Scope, sleep};
use std::time::Duration;

use cni_testbox::{Attachment, HOST_V4, HOST_V6, Namespace, TestBox};

/// Whom one talks to: a container with an echo server by TCP and a server that names it by UDP, both at
/// the same port of the host.
pub(crate) struct TalkedTo {
    pub(crate) id: String,
    pub(crate) port: u16,
    /// How many datagrams of a flow may be lost.
    pub(crate) may_lose: u8,
}

/// Ends the talks when it is dropped, also by a panic.
pub(crate) struct Silence<'a>(pub(crate) &'a AtomicBool);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Talks that go on all the time.
#[derive(Default)]
pub(crate) struct Talks {
    pub(crate) end: AtomicBool,
    pub(crate) answers: AtomicUsize,
}

impl Talks {
    /// Over flows that live all the time, and over new connections. Every question is answered,
    /// and by the right container, or the thread panics and so does the test.
    pub(crate) fn begin<'s, 'e: 's>(
        &'e self,
        scope: &'s Scope<'s, 'e>,
        b: &'e TestBox,
        talked_to: &TalkedTo,
        home: &'e Attachment,
        neighbour: &'e Attachment,
    ) {
        let TalkedTo { port, may_lose, .. } = *talked_to;
        for (host, source_port) in [(HOST_V4, port + 20_000), (HOST_V6, port + 30_000)] {
            let id = talked_to.id.clone();
            let datagrams = b.out.udp_flow(source_port, host, port);
            let mut connection = b.out.tcp_flow(host, port);
            let mut may_lose = may_lose;
            scope.spawn(move || {
                self.repeat(|| match datagrams.try_reach() {
                    Some(reply) => drop(reply.by(&id)),
                    None => may_lose = may_lose.checked_sub(1).expect("no datagram is lost"),
                });
            });
            scope.spawn(move || self.repeat(|| connection.echo()));
        }
        let mut askers = askers(b, home, neighbour).into_iter().cycle();
        scope.spawn(move || {
            self.repeat(|| {
                let (client, host) = askers.next().expect("there are some");
                client.tcp_flow(host, port).echo();
            });
        });
    }

    fn repeat(&self, mut ask: impl FnMut()) {
        while !self.end.load(Ordering::Relaxed) {
            ask();
            self.answers.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(20));
        }
    }
}

/// Who makes new connections all the time, and to where: outside, the host by its address and by
/// 127.0.0.1, the container itself, and a neighbour.
fn askers<'e>(
    b: &'e TestBox,
    home: &'e Attachment,
    neighbour: &'e Attachment,
) -> Vec<(&'e Namespace, &'static str)> {
    let clients = [&b.out, &b.host, &home.container.netns, &neighbour.container.netns];
    let mut askers: Vec<_> =
        clients.into_iter().flat_map(|client| [(client, HOST_V4), (client, HOST_V6)]).collect();
    askers.push((&b.host, "127.0.0.1"));
    askers
}
