//! Address families of tables.

use crate::kernel::ip::IpVersion;

/// Address family of a table (`NFPROTO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Frames that a bridge forwards.
    Bridge,
}

impl Family {
    /// nft's keyword.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Bridge => "bridge",
        }
    }

    /// The family of tables that hold one version of IP.
    #[must_use]
    pub fn of(version: IpVersion) -> Self {
        match version {
            IpVersion::V4 => Self::Ip,
            IpVersion::V6 => Self::Ip6,
        }
    }

    /// Whether a table of this family sees packets of this version.
    #[must_use]
    pub fn sees(self, version: IpVersion) -> bool {
        match self {
            Self::Inet => true,
            Self::Bridge => false,
            Self::Ip | Self::Ip6 => self == Self::of(version),
        }
    }
}
