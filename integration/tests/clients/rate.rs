//! How fast a container's packets really go.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cni_testbox::Namespace;

/// How long the burst may take to be spent; then it is measured.
const BURST: Duration = Duration::from_millis(700);
const MEASURED: Duration = Duration::from_secs(2);

/// Bits per second of one TCP connection from `sender` to `address` and `port`, where `receiver`
/// listens on `own_port`.
pub(crate) fn bits_per_second(
    sender: &Namespace,
    (address, port): (&str, u16),
    (receiver, own_port): (&Namespace, u16),
) -> f64 {
    let listener = receiver.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, own_port)));
    let listener = listener.expect("a free TCP port");
    let stream = sender.enter(|| TcpStream::connect((address, port)));
    let mut stream = stream.unwrap_or_else(|error| panic!("connect to {address}:{port}: {error}"));
    // It ends with the receiver.
    std::thread::spawn(move || while stream.write_all(&[0; 16384]).is_ok() {});
    let (accepted, _) = listener.accept().expect("a connection");
    count(accepted)
}

fn count(mut stream: TcpStream) -> f64 {
    let mut buffer = [0; 16384];
    let began = Instant::now();
    let (mut first, mut bytes) = (None, 0);
    loop {
        let read = stream.read(&mut buffer).expect("the sender goes on");
        assert!(read > 0, "the sender has ended");
        if began.elapsed() < BURST {
            continue;
        }
        let first = *first.get_or_insert_with(Instant::now);
        bytes += read;
        if first.elapsed() > MEASURED {
            let bits = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 8.0;
            return bits / first.elapsed().as_secs_f64();
        }
    }
}

/// The limit holds, and is not much less than was asked for. A busy machine is slower, and what waited for it in
/// the socket makes the rest look faster.
#[track_caller]
pub(crate) fn holds(what: &str, rate: f64, limit: f64) {
    println!("{what}: {:.2} of {:.0} Mbit/s", rate / 1e6, limit / 1e6);
    assert!(rate < limit * 1.3, "{what}: {rate:.0} of {limit:.0} bit/s");
    assert!(rate > limit * 0.4, "{what}: {rate:.0} of {limit:.0} bit/s");
}
