//! What one place holds, whose it is.

use std::net::IpAddr;

/// What one place holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Addresses with their owners.
    pub(crate) admitted: Vec<(IpAddr, String)>,
    /// Owners with their bridges and policies.
    pub(crate) members: Vec<(String, (String, String))>,
}
