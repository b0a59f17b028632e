//! Packets: servers that say who they are and whom they see, and clients that ask.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::{HOST_V4, HOST_V6};
use crate::{Namespace, ip, stretched};

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence must last to count. A case that expects silence also shows that the same
/// question is answered where it should be.
const SILENCE: Duration = Duration::from_millis(500);

/// The transport of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One connection.
    Tcp,
    /// One datagram.
    Udp,
}

impl Transport {
    /// Both, for loops.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// What a server said.
#[derive(Debug)]
pub struct Reply {
    asked: String,
    server: String,
    peer: IpAddr,
}

impl Reply {
    /// Asserts who answered.
    #[track_caller]
    pub fn by(self, server: &str) -> Self {
        assert_eq!(self.server, server, "{}: the wrong server answered", self.asked);
        self
    }

    /// Asserts which client address the server saw.
    #[track_caller]
    pub fn seen_as(self, peer: &str) -> Self {
        assert_eq!(self.peer, ip(peer), "{}: the server saw the wrong client", self.asked);
        self
    }
}

impl Namespace {
    /// Serves TCP and UDP on `port` of every address of this namespace, as `id`.
    pub fn serve(&self, id: &str, port: u16) {
        self.serve_at(id, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }

    /// Serves TCP and UDP on one address of this namespace, as `id`.
    pub fn serve_at(&self, id: &str, address: SocketAddr) {
        let (tcp, udp) = self.enter(|| {
            let tcp = TcpListener::bind(address).expect("a free TCP port");
            (tcp, UdpSocket::bind(address).expect("a free UDP port"))
        });
        let (for_tcp, for_udp) = (id.to_owned(), id.to_owned());
        // The threads live as long as the box.
        std::thread::spawn(move || answer_tcp(&tcp, &for_tcp));
        std::thread::spawn(move || answer_udp(&udp, &for_udp));
    }

    /// A question from this namespace that must be answered.
    #[track_caller]
    pub fn reach(&self, transport: Transport, address: &str, port: u16) -> Reply {
        self.asker().reach(transport, address, port)
    }

    /// A question from this namespace that nobody may answer.
    #[track_caller]
    pub fn cannot_reach(&self, transport: Transport, address: &str, port: u16) {
        self.asker().cannot_reach(transport, address, port);
    }

    /// A host port must be answered by this server, on the host's address of either family and by both
    /// transports.
    #[track_caller]
    pub fn is_served(&self, port: u16, server: &str) {
        for transport in Transport::ALL {
            for host in [HOST_V4, HOST_V6] {
                self.reach(transport, host, port).by(server);
            }
        }
    }

    /// Nobody may answer there.
    #[track_caller]
    pub fn is_not_served(&self, port: u16) {
        for transport in Transport::ALL {
            for host in [HOST_V4, HOST_V6] {
                self.cannot_reach(transport, host, port);
            }
        }
    }

    /// A client in this namespace, source address chosen by the kernel.
    pub fn asker(&self) -> Asker<'_> {
        Asker { namespace: self, source: None }
    }

    /// A client in this namespace with this source address.
    pub fn asker_from(&self, source: &str) -> Asker<'_> {
        Asker { namespace: self, source: Some(SocketAddr::new(ip(source), 0)) }
    }

    /// Sends back whatever comes over TCP connections to `port`.
    pub fn serve_echo(&self, port: u16) {
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = self.enter(|| TcpListener::bind(address)).expect("a free TCP port");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
    }

    /// A TCP connection to an echo server, which lives as long as this.
    pub fn tcp_flow(&self, address: &str, port: u16) -> TcpFlow {
        let target = SocketAddr::new(ip(address), port);
        let stream = self.enter(|| TcpStream::connect_timeout(&target, stretched(PATIENCE)));
        let stream = stream.unwrap_or_else(|error| panic!("connect to {target}: {error}"));
        stream.set_read_timeout(Some(stretched(PATIENCE))).expect("a time-out");
        TcpFlow { stream, target }
    }

    /// A UDP client that asks several questions over one flow, from one source port.
    pub fn udp_flow(&self, source_port: u16, address: &str, port: u16) -> UdpFlow {
        let target = SocketAddr::new(ip(address), port);
        let source = SocketAddr::new(unspecified(target), source_port);
        let socket = self.enter(|| UdpSocket::bind(source)).expect("a free UDP port");
        UdpFlow { socket, target, name: self.name.clone() }
    }
}

/// A client.
pub struct Asker<'a> {
    namespace: &'a Namespace,
    source: Option<SocketAddr>,
}

impl Asker<'_> {
    /// A question that must be answered.
    #[track_caller]
    pub fn reach(&self, transport: Transport, address: &str, port: u16) -> Reply {
        let target = SocketAddr::new(ip(address), port);
        let asked = self.describe(transport, target);
        read_reply(&asked, self.ask(transport, target, stretched(PATIENCE)))
    }

    /// A question that nobody may answer.
    #[track_caller]
    pub fn cannot_reach(&self, transport: Transport, address: &str, port: u16) {
        let target = SocketAddr::new(ip(address), port);
        if let Ok(answer) = self.ask(transport, target, stretched(SILENCE)) {
            panic!("{}: answered by {answer:?}", self.describe(transport, target));
        }
    }

    fn describe(&self, transport: Transport, target: SocketAddr) -> String {
        let source = self.source.map(|source| format!(" ({source})")).unwrap_or_default();
        format!("{}{source} asks {target} over {transport:?}", self.namespace.name)
    }

    fn ask(&self, transport: Transport, target: SocketAddr, wait: Duration) -> io::Result<String> {
        let source = self.source.unwrap_or_else(|| SocketAddr::new(unspecified(target), 0));
        self.namespace.enter(|| match transport {
            Transport::Tcp => ask_tcp(source, target, wait),
            Transport::Udp => ask_udp(&UdpSocket::bind(source)?, target, wait),
        })
    }
}

/// One TCP connection to an echo server.
pub struct TcpFlow {
    stream: TcpStream,
    target: SocketAddr,
}

impl TcpFlow {
    /// Something over this connection that must come back.
    #[track_caller]
    pub fn echo(&mut self) {
        let mut answer = [0];
        let outcome =
            self.stream.write_all(b"?").and_then(|()| self.stream.read_exact(&mut answer));
        outcome.unwrap_or_else(|error| panic!("the connection to {}: {error}", self.target));
        assert_eq!(answer, *b"?", "{}", self.target);
    }
}

/// One UDP flow.
pub struct UdpFlow {
    socket: UdpSocket,
    target: SocketAddr,
    name: String,
}

impl UdpFlow {
    /// A question over this flow that must be answered.
    #[track_caller]
    pub fn reach(&self) -> Reply {
        read_reply(&self.describe(), ask_udp(&self.socket, self.target, stretched(PATIENCE)))
    }

    /// A question over this flow; `None` if it, or its answer, was lost.
    #[track_caller]
    pub fn try_reach(&self) -> Option<Reply> {
        let answer = ask_udp(&self.socket, self.target, stretched(PATIENCE));
        let lost = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        if answer.as_ref().is_err_and(lost) {
            return None;
        }
        Some(read_reply(&self.describe(), answer))
    }

    /// A question over this flow that nobody may answer.
    #[track_caller]
    pub fn cannot_reach(&self) {
        if let Ok(answer) = ask_udp(&self.socket, self.target, stretched(SILENCE)) {
            panic!("{}: answered by {answer:?}", self.describe());
        }
    }

    fn describe(&self) -> String {
        format!("{} asks {} over its UDP flow {:?}", self.name, self.target, self.socket)
    }
}

fn unspecified(target: SocketAddr) -> IpAddr {
    if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

#[track_caller]
fn read_reply(asked: &str, answer: io::Result<String>) -> Reply {
    let text = answer.unwrap_or_else(|error| panic!("{asked}: no answer: {error}"));
    let reply = text.trim().split_once(' ').and_then(|(server, peer)| {
        let (asked, server) = (asked.to_owned(), server.to_owned());
        Some(Reply { asked, server, peer: peer.parse().ok()? })
    });
    reply.unwrap_or_else(|| panic!("{asked}: a stranger answered {text:?}"))
}

fn ask_tcp(source: SocketAddr, target: SocketAddr, wait: Duration) -> io::Result<String> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // std can not bind a TCP client's source address.
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
    let limit = TimeVal::new(wait.as_secs().cast_signed(), wait.subsec_micros().into());
    // On Linux the send time-out bounds connect() as well.
    setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(target))?;
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(wait))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_udp(socket: &UdpSocket, target: SocketAddr, wait: Duration) -> io::Result<String> {
    socket.set_read_timeout(Some(wait))?;
    // Connected, so that nobody else's datagram counts and an ICMP error ends the wait.
    socket.connect(target)?;
    // What an earlier question ran into says nothing about this one.
    socket.take_error()?;
    socket.send(b"?")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn answer_tcp(listener: &TcpListener, id: &str) {
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        if let Ok(peer) = stream.peer_addr() {
            // A client that gave up is no fault of the server.
            let _ = write!(stream, "{id} {}", peer.ip().to_canonical());
        }
    }
}

fn answer_udp(socket: &UdpSocket, id: &str) {
    let mut buffer = [0; 512];
    loop {
        // An earlier answer's ICMP error arrives here; the next question is still to be answered.
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{id} {}", peer.ip().to_canonical()).as_bytes(), peer);
        }
    }
}
