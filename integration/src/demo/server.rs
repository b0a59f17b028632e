//! The servers inside the container: a page over HTTP/1.0 and an echo over UDP. Both tell the
//! client which address they saw it under. The page's server also has a flood for whoever wants to
//! know how fast the way is. The same servers on the host show how fast the machine is.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use cni_common::kernel::netns::Netns;

use super::greeting;
use super::plan::{ECHO, PAGE};

/// The path of the flood.
pub(super) const FLOOD: &str = "/flood";
/// How long a flood lasts at most.
const FLOOD_LASTS: Duration = Duration::from_secs(10);
/// A client that says nothing must not keep the next one waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// Starts the servers on each of the namespace's addresses. They end with the process.
pub(super) fn start(netns: &Netns, addresses: &[IpAddr]) -> io::Result<()> {
    for address in addresses {
        // A socket stays in the namespace it was made in, whichever thread uses it.
        let listener = netns.run(|| TcpListener::bind((*address, PAGE.container)))??;
        let socket = netns.run(|| UdpSocket::bind((*address, ECHO.container)))??;
        thread::Builder::new().name("page".into()).spawn(move || serve_pages(&listener))?;
        thread::Builder::new().name("echo".into()).spawn(move || serve_echoes(&socket))?;
    }
    Ok(())
}

fn serve_pages(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // Only the client could be told of a broken connection, and it has noticed.
        let _ = serve_page(stream);
    }
}

fn serve_page(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && request.len() < 4096 {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    if request.starts_with(format!("GET {FLOOD} ").as_bytes()) {
        return flood(&mut stream);
    }
    let body = format!("hello\n{}", greeting::to(stream.peer_addr()?));
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends until the client has enough.
fn flood(stream: &mut TcpStream) -> io::Result<()> {
    let start = Instant::now();
    let block = vec![0; 64 * 1024];
    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
    while start.elapsed() < FLOOD_LASTS {
        stream.write_all(&block)?;
    }
    Ok(())
}

fn serve_echoes(socket: &UdpSocket) {
    let mut buffer = [0; 256];
    loop {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            answer.extend_from_slice(format!("\n{}", greeting::to(peer)).as_bytes());
            // A client that has gone is no reason to stop.
            let _ = socket.send_to(&answer, peer);
        }
    }
}
