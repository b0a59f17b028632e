//! A server in a container, which ends with it: its socket would keep the namespace alive.

use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};

use cni_testbox::Container;

/// Serves TCP on port 80, as the testbox's clients expect it: its name and the client's address.
pub(crate) struct Served {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Served {
    pub(crate) fn by(container: &Container) -> Self {
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 80);
        let listener = container.netns.enter(|| TcpListener::bind(address)).expect("port 80");
        let ending = Arc::new(AtomicBool::new(false));
        let (id, is_ending) = (container.id.clone(), Arc::clone(&ending));
        let thread = spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if is_ending.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(peer) = stream.peer_addr() {
                    let _ = write!(stream, "{id} {}", peer.ip().to_canonical());
                }
            }
        });
        Self { ending, thread }
    }

    pub(crate) fn end(self, container: &Container) {
        self.ending.store(true, Ordering::Relaxed);
        container.netns.enter(|| TcpStream::connect("127.0.0.1:80")).expect("it listens");
        self.thread.join().expect("it ends");
    }
}
