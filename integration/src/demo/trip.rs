//! A client that goes from one place of the demo to a port and reports what it met.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::greeting::peer_named_in;

/// Long enough for a lost first packet to be sent again, short enough to wait for.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than any page of ours.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Namespace {
    Outside,
    Host,
    Container,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A page over HTTP.
    Page,
    /// An echo over UDP.
    Echo,
}

/// A question from a place to an address.
#[derive(Clone, Debug)]
pub(super) struct Trip {
    pub(super) from: Namespace,
    pub(super) ask: Ask,
    pub(super) to: SocketAddr,
    /// The client's address that the server must see, where that is part of the promise.
    pub(super) expected_peer: Option<IpAddr>,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The answer in a few words.
    pub(super) text: String,
    /// The client's address as the server saw it.
    pub(super) peer: IpAddr,
}

impl Namespace {
    pub(super) const ALL: [Self; 3] = [Self::Outside, Self::Host, Self::Container];
}

impl Trip {
    /// Makes the trip in the namespace of the calling thread.
    pub(super) fn go(&self) -> io::Result<Answer> {
        match self.ask {
            Ask::Page => fetch(self.to),
            Ask::Echo => echo(self.to),
        }
    }

    /// What is asked for, as a URL.
    pub(super) fn url(&self) -> String {
        match self.ask {
            Ask::Page => format!("http://{}/", self.to),
            Ask::Echo => format!("udp://{}", self.to),
        }
    }

    /// Whether the answer came, to a client that was seen as it must be.
    pub(super) fn is_good(&self, outcome: &io::Result<Answer>) -> bool {
        outcome
            .as_ref()
            .is_ok_and(|answer| self.expected_peer.is_none_or(|expected| expected == answer.peer))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Outside => "outside",
            Self::Host => "host",
            Self::Container => "container",
        })
    }
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.from, self.url())
    }
}

/// A failed trip in the words of a person who looks for the cause.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer".into(),
        _ => error.to_string(),
    }
}

fn fetch(to: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {to}\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut response)?;
    page(&String::from_utf8_lossy(&response))
}

/// Status and page of an HTTP response.
fn page(response: &str) -> io::Result<Answer> {
    let odd = || io::Error::other(format!("unexpected answer {:?}", shorten(response)));
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(odd)?;
    let status = head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.0 "));
    if status != Some("200 OK") {
        return Err(odd());
    }
    let peer = peer_named_in(body).ok_or_else(odd)?;
    let title = body.lines().next().unwrap_or_default();
    Ok(Answer { text: format!("200 OK, \"{title}\""), peer })
}

fn echo(to: SocketAddr) -> io::Result<Answer> {
    const CALL: &str = "hello";
    let any = match to {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // A connected socket takes answers from the address it asked only, and hears refusals.
    socket.connect(to)?;
    socket.send(CALL.as_bytes())?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    let answer = String::from_utf8_lossy(&buffer[..length]);
    match peer_named_in(&answer) {
        Some(peer) if answer.starts_with(CALL) => {
            Ok(Answer { text: format!("echo, \"{CALL}\""), peer })
        }
        _ => Err(io::Error::other(format!("unexpected answer {:?}", shorten(&answer)))),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_strictly() {
        let body = "Hello\nYou are 192.0.2.1.\n";
        let answer = page(&format!("HTTP/1.0 200 OK\r\nA: b\r\n\r\n{body}")).expect("a page");
        assert_eq!(answer.text, "200 OK, \"Hello\"");
        assert_eq!(answer.peer, IpAddr::from([192, 0, 2, 1]));
        for bad in [
            String::new(),
            format!("HTTP/1.0 404 Not Found\r\n\r\n{body}"),
            "HTTP/1.0 200 OK\r\n\r\nsomebody else's page".into(),
        ] {
            assert!(page(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hidden_client_is_a_fault() {
        let trip = Trip {
            from: Namespace::Outside,
            ask: Ask::Page,
            to: ([198, 51, 100, 1], 8080).into(),
            expected_peer: Some([198, 51, 100, 2].into()),
        };
        let seen_as = |peer: [u8; 4]| Ok(Answer { text: "200 OK".into(), peer: peer.into() });
        assert!(trip.is_good(&seen_as([198, 51, 100, 2])));
        assert!(!trip.is_good(&seen_as([10, 88, 0, 1])));
        assert!(!trip.is_good(&Err(io::ErrorKind::ConnectionRefused.into())));
        let anybody = Trip { expected_peer: None, ..trip };
        assert!(anybody.is_good(&seen_as([10, 88, 0, 1])));
    }
}
