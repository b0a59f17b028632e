//! How much really passes: a bounded amount of time, bytes counted where they arrive.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cni_common::kernel::netns::Netns;

use crate::testbox::{Call, Container, Plugin, boxed, fails_on_go_only};

boxed! { the_limit_holds_from_the_start a_small_bucket_passes_tcp a_large_bucket_passes_tcp }

const RATE: u64 = 10_000_000;
const CONTAINERD: u64 = 4_294_967_295;
const WINDOW: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
enum Direction {
    Into,
    OutOf,
}

/// Bytes of TCP that arrive in the first three seconds.
fn arrived(container: &Container, direction: Direction) -> u64 {
    let inside = Netns::open(Path::new(&container.netns())).expect("the namespace");
    let outside = Netns::own().expect("own namespace");
    let (sender, receiver, address) = match direction {
        Direction::Into => (&outside, &inside, container.own_v4()),
        Direction::OutOf => (&inside, &outside, container.host_v4()),
    };
    let address: SocketAddr = format!("{address}:5001").parse().expect("an address");
    let listener = receiver.run(|| TcpListener::bind(address)).expect("enter").expect("bind");
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(5));
    let mut source = sender.run(connect).expect("enter").expect("connect");
    let (mut sink, _) = listener.accept().expect("accept");
    let (done, finished) = mpsc::channel::<()>();
    let writing = std::thread::spawn(move || {
        let block = vec![0; 1 << 16];
        while finished.try_recv() == Err(mpsc::TryRecvError::Empty)
            && source.write_all(&block).is_ok()
        {}
    });
    let (start, mut bytes, mut block) = (Instant::now(), 0, vec![0; 1 << 16]);
    sink.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    while start.elapsed() < WINDOW {
        bytes += sink.read(&mut block).unwrap_or(0) as u64;
    }
    drop((sink, listener, done));
    writing.join().expect("the writer");
    bytes
}

/// The placeholder burst that containerd sends lets the Go plugin's limit begin after 500 MB.
fn the_limit_holds_from_the_start() {
    fails_on_go_only(|plugin: Plugin| {
        let container = Container::of(plugin);
        let call = Call::new("ADD", &container);
        call.ingress(RATE, CONTAINERD).egress(RATE, CONTAINERD).run(plugin).success();
        for direction in [Direction::Into, Direction::OutOf] {
            let limit = RATE / 8 * WINDOW.as_secs();
            let bytes = arrived(&container, direction);
            println!("{plugin:?} {direction:?}: {bytes} bytes, the limit is {limit}");
            assert!(bytes <= limit + limit / 10, "{direction:?}: {bytes} bytes");
            assert!(bytes >= limit - limit / 5, "{direction:?}: {bytes} bytes");
        }
    });
}

/// Segments larger than the bucket, which must be cut up and pass.
fn a_small_bucket_passes_tcp() {
    let container = Container::new("c1", 1);
    Call::new("ADD", &container).ingress(RATE, 8 * 3000).egress(RATE, 8 * 3000).ok();
    for direction in [Direction::Into, Direction::OutOf] {
        let bytes = arrived(&container, direction);
        assert!(bytes >= RATE / 8, "{direction:?}: {bytes} bytes in {WINDOW:?}");
    }
}

/// Segments that fit into the bucket and are queued in one piece, headers of all their frames included.
fn a_large_bucket_passes_tcp() {
    let container = Container::new("c1", 1);
    Call::new("ADD", &container).ingress(RATE, 5_000_000).egress(RATE, 5_000_000).ok();
    for direction in [Direction::Into, Direction::OutOf] {
        let bytes = arrived(&container, direction);
        assert!(bytes >= RATE / 8 * 2, "{direction:?}: {bytes} bytes in {WINDOW:?}");
    }
}
