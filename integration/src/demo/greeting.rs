//! The line by which a server tells a client which address it saw.

use std::net::{IpAddr, SocketAddr};

pub(super) fn to(peer: SocketAddr) -> String {
    format!("You are {}.\n", peer.ip())
}

/// The address in a greeting, which may stand anywhere in a text.
pub(super) fn peer_named_in(text: &str) -> Option<IpAddr> {
    let (_, rest) = text.split_once("You are ")?;
    rest.trim_end().trim_end_matches('.').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_can_be_read_back() {
        for peer in ["192.0.2.1:1", "[2001:db8::1]:1"] {
            let peer: SocketAddr = peer.parse().expect("an address");
            assert_eq!(peer_named_in(&format!("x\n{}", to(peer))), Some(peer.ip()));
        }
        assert_eq!(peer_named_in("You are nobody."), None);
    }
}
