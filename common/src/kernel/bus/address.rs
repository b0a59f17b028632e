//! Addresses of a bus, as the D-Bus specification writes them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// In the file system.
    Path(PathBuf),
    /// In the kernel's list of names.
    Abstract(Vec<u8>),
}

/// The sockets of a list such as `unix:path=/run/dbus/system_bus_socket;unix:abstract=bus`. What is no
/// socket of this host is left out.
pub(super) fn parse(list: &[u8]) -> Vec<Address> {
    list.split(|byte| *byte == b';').filter_map(socket).collect()
}

fn socket(address: &[u8]) -> Option<Address> {
    let pairs = address.strip_prefix(b"unix:")?.split(|byte| *byte == b',');
    let value = |key: &[u8]| pairs.clone().find_map(|pair| pair.strip_prefix(key));
    if let Some(path) = value(b"path=") {
        return Some(Address::Path(OsString::from_vec(unescape(path)?).into()));
    }
    Some(Address::Abstract(unescape(value(b"abstract=")?)?))
}

/// `%20` is a space.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            plain.push(*first);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        plain.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_this_host_are_found_in_their_order() {
        let path = |text: &str| Address::Path(text.into());
        let name = |text: &str| Address::Abstract(text.into());
        for (text, expected) in [
            ("unix:path=/run/bus", vec![path("/run/bus")]),
            (
                "unix:guid=7,path=/run/a%20b%2C;unix:abstract=bus",
                vec![path("/run/a b,"), name("bus")],
            ),
            ("tcp:host=h,port=1;unix:path=/x,guid=1", vec![path("/x")]),
            ("", vec![]),
            ("unix:", vec![]),
            ("unix:path=/a%2", vec![]),
            ("unix:path=/a%zz", vec![]),
            ("autolaunch:", vec![]),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }
}
