//! How fast a container's packets really go.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cni_testbox::Namespace;

/// How long the burst may take to be spent; then it is measured whether the rest is as fast as it should be.
const BURST: Duration = Duration::from_millis(700);
const MEASURED: Duration = Duration::from_secs(2);

/// What one TCP connection carried, in bits.
pub(crate) struct Carried {
    /// From before its first packet on, so that what waited in the receiver's socket is not taken for speed.
    all: f64,
    took: Duration,
    /// Per second, after the burst.
    lasting: f64,
}

/// One TCP connection from `sender` to `address` and `port`, where `receiver` listens on `own_port`.
pub(crate) fn carried(
    sender: &Namespace,
    (address, port): (&str, u16),
    (receiver, own_port): (&Namespace, u16),
) -> Carried {
    let listener = receiver.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, own_port)));
    let listener = listener.expect("a free TCP port");
    let began = Instant::now();
    let stream = sender.enter(|| TcpStream::connect((address, port)));
    let mut stream = stream.unwrap_or_else(|error| panic!("connect to {address}:{port}: {error}"));
    // It ends with the receiver.
    std::thread::spawn(move || while stream.write_all(&[0; 16384]).is_ok() {});
    let (accepted, _) = listener.accept().expect("a connection");
    count(accepted, began)
}

fn count(mut stream: TcpStream, began: Instant) -> Carried {
    let mut bytes = count_for(&mut stream, BURST);
    let spent = Instant::now();
    let lasting = count_for(&mut stream, MEASURED);
    bytes += lasting;
    Carried {
        all: bytes * 8.0,
        took: began.elapsed(),
        lasting: lasting * 8.0 / spent.elapsed().as_secs_f64(),
    }
}

/// How many bytes come in this time.
fn count_for(stream: &mut TcpStream, time: Duration) -> f64 {
    let mut buffer = [0; 16384];
    let began = Instant::now();
    let mut bytes = 0;
    while began.elapsed() < time {
        let read = stream.read(&mut buffer).expect("the sender goes on");
        assert!(read > 0, "the sender has ended");
        bytes += read;
    }
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}

impl Carried {
    /// The limit holds: the burst and what the rate allows in the time, in which headers count, too. And not much less
    /// than that lasts; a busy machine is slower.
    #[track_caller]
    pub(crate) fn keeps_to(&self, what: &str, rate: f64, burst: f64) {
        let Self { all, took, lasting } = *self;
        println!("{what}: {:.2} of {:.0} Mbit/s", lasting / 1e6, rate / 1e6);
        let allowed = burst + rate * took.as_secs_f64();
        assert!(all < allowed, "{what}: {all:.0} bits in {took:?}, of {allowed:.0}");
        assert!(lasting > rate * 0.4, "{what}: {lasting:.0} of {rate:.0} bit/s");
    }

    /// Nothing limits it.
    #[track_caller]
    pub(crate) fn is_free(&self, what: &str) {
        assert!(self.lasting > 100e6, "{what} has no limit: {:.0} bit/s", self.lasting);
    }
}
