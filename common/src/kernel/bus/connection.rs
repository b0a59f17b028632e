//! A connection to a bus, and calls over it.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::address::{Address, parse};
use super::message::{Garbled, Message, MethodCall, Value, decode};
use super::{ADDRESS, BUS, SOCKETS};

/// As systemd's library opens a conversation: the bus takes the user's number from the socket.
const WHO_WE_ARE: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\n";
/// What ends the first part of it. The messages follow at once.
const BEGIN: &[u8] = b"BEGIN\r\n";
/// An answer to who we are is much shorter.
const LONGEST_LINE: usize = 1024;

/// What went wrong between us and whom we asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is no bus: no socket, or one that nobody listens at.
    #[error("there is no system bus: nobody listens at {0}")]
    NoBus(String),
    /// The address names nothing that a connection could be made to.
    #[error("no socket of this host is in the bus's address {0}")]
    NoAddress(String),
    /// The kernel's error, or that no answer came in time.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The bus does not let us in.
    #[error("the bus refuses us: {0}")]
    Refused(String),
    /// What came is not D-Bus.
    #[error("the bus's answer cannot be read")]
    Garbled,
    /// Who was asked answered with an error.
    #[error("{words}")]
    Answer {
        /// Its name, for instance `org.freedesktop.DBus.Error.ServiceUnknown`.
        name: String,
        /// Its text, or its name if it has none.
        words: String,
    },
}

impl From<Errno> for BusError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<Garbled> for BusError {
    fn from(_: Garbled) -> Self {
        Self::Garbled
    }
}

/// A connection to a bus.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    /// What came and was not looked at.
    received: Vec<u8>,
    serial: u32,
    patience: Duration,
}

impl Connection {
    /// Connects to the system bus (`DBUS_SYSTEM_BUS_ADDRESS` if that is set), and says hello.
    pub fn system(patience: Duration) -> Result<Self, BusError> {
        let socket = match std::env::var_os(ADDRESS) {
            Some(list) => {
                let addresses = parse(&list.clone().into_vec());
                connect_to_any(&addresses, &list.to_string_lossy(), patience)?
            }
            None => connect_to_any(
                &SOCKETS.map(|path| Address::Path(path.into())),
                SOCKETS[0],
                patience,
            )?,
        };
        let mut connection = Self { socket, received: Vec::new(), serial: 0, patience };
        connection.introduce()?;
        Ok(connection)
    }

    /// How long the next answers may take.
    pub fn be_patient(&mut self, patience: Duration) -> Result<(), BusError> {
        if self.patience != patience {
            self.socket.set_read_timeout(Some(patience))?;
            self.patience = patience;
        }
        Ok(())
    }

    /// Whether somebody owns a name on the bus.
    pub fn has_owner(&mut self, name: &str) -> Result<bool, BusError> {
        match self.call_bus("NameHasOwner", &[name])? {
            Value::Truth(owned) => Ok(owned),
            _ => Err(BusError::Garbled),
        }
    }

    /// Calls a method, and waits for what it returns. After an error that is no [`BusError::Answer`], the
    /// connection is of no more use.
    pub fn call(&mut self, call: &MethodCall<'_>) -> Result<Value, BusError> {
        self.send_and_wait(&[], call)
    }

    fn call_bus(&mut self, method: &str, arguments: &[&str]) -> Result<Value, BusError> {
        self.call(&of_bus(method, arguments))
    }

    /// Who we are, and the first call, which has to be this one.
    fn introduce(&mut self) -> Result<(), BusError> {
        self.socket.write_all(WHO_WE_ARE)?;
        let end = Instant::now() + self.patience;
        // Asks for more than who we are, which is with it already.
        let mut answer = self.line(end)?;
        if answer == "DATA" {
            answer = self.line(end)?;
        }
        if !answer.starts_with("OK ") {
            return Err(BusError::Refused(answer));
        }
        self.send_and_wait(BEGIN, &of_bus("Hello", &[])).map(drop)
    }

    fn send_and_wait(&mut self, before: &[u8], call: &MethodCall<'_>) -> Result<Value, BusError> {
        self.serial += 1;
        let bytes = [before, &call.encode(self.serial)].concat();
        self.socket.write_all(&bytes).map_err(in_time)?;
        let end = Instant::now() + self.patience;
        loop {
            match self.message(end)? {
                Message::Return(serial, value) if serial == self.serial => return Ok(value),
                Message::Error(serial, name, words) if serial == self.serial => {
                    let words = if words.is_empty() { name.clone() } else { words };
                    return Err(BusError::Answer { name, words });
                }
                // That we have a name now, and what answers a call that was not waited for.
                _ => {}
            }
        }
    }

    fn message(&mut self, end: Instant) -> Result<Message, BusError> {
        loop {
            if let Some((message, length)) = decode(&self.received)? {
                self.received.drain(..length);
                return Ok(message);
            }
            self.receive(end)?;
        }
    }

    fn line(&mut self, end: Instant) -> Result<String, BusError> {
        loop {
            if let Some(length) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.received[..length]).into_owned();
                self.received.drain(..length + 2);
                return Ok(line);
            }
            if self.received.len() > LONGEST_LINE {
                return Err(BusError::Garbled);
            }
            self.receive(end)?;
        }
    }

    /// Takes what is there, or waits for it.
    fn receive(&mut self, end: Instant) -> Result<(), BusError> {
        let mut block = [0; 4096];
        // The socket's own limit is for one answer, which may come in pieces.
        if Instant::now() > end {
            return Err(in_time(io::ErrorKind::WouldBlock.into()).into());
        }
        match self.socket.read(&mut block) {
            Ok(0) => Err(BusError::Io(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the bus closed the connection",
            ))),
            Ok(count) => {
                self.received.extend(&block[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(in_time(error).into()),
        }
    }
}

fn of_bus<'a>(method: &'a str, arguments: &'a [&'a str]) -> MethodCall<'a> {
    MethodCall { destination: BUS.0, object: BUS.1, interface: BUS.0, method, arguments }
}

/// A socket that waited as long as it may calls that `EAGAIN`.
fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "the bus does not answer")
        }
        _ => error,
    }
}

/// The first of the addresses that somebody listens at.
fn connect_to_any(
    addresses: &[Address],
    list: &str,
    patience: Duration,
) -> Result<UnixStream, BusError> {
    if addresses.is_empty() {
        return Err(BusError::NoAddress(list.to_owned()));
    }
    for address in addresses {
        let address = match address {
            // Most hosts that have no bus are told with one call.
            Address::Path(path) if !path.try_exists()? => continue,
            Address::Path(path) => UnixAddr::new(path)?,
            Address::Abstract(name) => UnixAddr::new_abstract(name)?,
        };
        match connect_within(&address, patience) {
            // Nobody listens there, or there is no such socket.
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]
                    .contains(&error.kind()) => {}
            outcome => return Ok(outcome.map_err(in_time)?),
        }
    }
    Err(BusError::NoBus(list.to_owned()))
}

/// A bus that takes no more connections would hold us up as well.
fn connect_within(address: &UnixAddr, patience: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
    socket.set_write_timeout(Some(patience))?;
    socket.set_read_timeout(Some(patience))?;
    connect(socket.as_raw_fd(), address)?;
    Ok(socket)
}
