//! How much really passes: a bounded amount of time, bytes counted where they arrive.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cni_testbox::{Attachment, TestBox, bandwidth, cases, lessened};

use crate::support::{container_of, fails_on_go_only, host_v4};

cases! {
    the_limit_holds_from_the_start, ours;
    a_small_bucket_passes_tcp, ours;
    a_large_bucket_passes_tcp, ours;
}

const RATE: u64 = 10_000_000;
const CONTAINERD: u64 = 4_294_967_295;
const WINDOW: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
enum Direction {
    Into,
    OutOf,
}

/// Bytes of TCP that arrive in the first three seconds.
fn arrived(b: &TestBox, container: &Attachment, direction: Direction) -> u64 {
    let (inside, outside) = (&*container.container.netns, &b.host);
    let (sender, receiver, address) = match direction {
        Direction::Into => (outside, inside, container.v4()),
        Direction::OutOf => (inside, outside, host_v4(container)),
    };
    let address: SocketAddr = format!("{address}:5001").parse().expect("an address");
    let listener = receiver.enter(|| TcpListener::bind(address)).expect("bind");
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(5));
    let mut source = sender.enter(connect).expect("connect");
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
fn the_limit_holds_from_the_start(b: &TestBox) {
    fails_on_go_only(|implementation| {
        let container = container_of(b, implementation);
        let call = bandwidth("ADD", &container);
        call.ingress(RATE, CONTAINERD).egress(RATE, CONTAINERD).run_as(implementation).success();
        for direction in [Direction::Into, Direction::OutOf] {
            let limit = RATE / 8 * WINDOW.as_secs();
            let bytes = arrived(b, &container, direction);
            println!("{implementation:?} {direction:?}: {bytes} bytes, the limit is {limit}");
            assert!(bytes <= limit + limit / 10, "{direction:?}: {bytes} bytes");
            assert!(bytes >= lessened(limit - limit / 5), "{direction:?}: {bytes} bytes");
        }
    });
}

/// Segments larger than the bucket, which must be cut up and pass.
fn a_small_bucket_passes_tcp(b: &TestBox) {
    let container = b.pair("c1", 1);
    bandwidth("ADD", &container).ingress(RATE, 8 * 3000).egress(RATE, 8 * 3000).run(b).success();
    for direction in [Direction::Into, Direction::OutOf] {
        let bytes = arrived(b, &container, direction);
        assert!(bytes >= lessened(RATE / 8), "{direction:?}: {bytes} bytes in {WINDOW:?}");
    }
}

/// Segments that fit into the bucket and are queued in one piece, headers of all their frames included.
fn a_large_bucket_passes_tcp(b: &TestBox) {
    let container = b.pair("c1", 1);
    bandwidth("ADD", &container).ingress(RATE, 5_000_000).egress(RATE, 5_000_000).run(b).success();
    for direction in [Direction::Into, Direction::OutOf] {
        let bytes = arrived(b, &container, direction);
        assert!(bytes >= lessened(RATE / 8 * 2), "{direction:?}: {bytes} bytes in {WINDOW:?}");
    }
}
