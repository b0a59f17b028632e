//! Hardware addresses in every spelling that the Go plugin takes. No I/O.

use std::fmt;

/// A unicast Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac([u8; 6]);

impl Mac {
    /// Reads `aa:bb:cc:dd:ee:ff`, `AA-BB-…` or `aabb.ccdd.eeff`. The error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "six bytes, as in c2:11:22:33:44:55";
        let (separator, digits) = match text {
            _ if text.contains(':') => (':', 2),
            _ if text.contains('-') => ('-', 2),
            _ => ('.', 4),
        };
        let mut hex = String::with_capacity(12);
        for group in text.split(separator) {
            if group.len() != digits || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(FORM);
            }
            hex.push_str(group);
        }
        let number = u64::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 12).ok_or(FORM)?;
        let [_, _, bytes @ ..] = number.to_be_bytes();
        Self::from_bytes(&bytes)
    }

    /// The address with these bytes, as the kernel reports them.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        match <[u8; 6]>::try_from(bytes) {
            Err(_) => Err("an Ethernet address of six bytes"),
            Ok([0, 0, 0, 0, 0, 0]) => Err("an address other than all zeros"),
            Ok([first, ..]) if first & 1 != 0 => {
                Err("a unicast address: its first byte must be even")
            }
            Ok(bytes) => Ok(Self(bytes)),
        }
    }

    pub(crate) fn bytes(self) -> [u8; 6] {
        self.0
    }
}

/// In lower case with colons, as everything that reads a CNI result expects it.
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&cni_common::kernel::mac::text(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_are_one_address() {
        for text in ["c2:aa:22:33:44:55", "C2-AA-22-33-44-55", "c2Aa.2233.4455"] {
            assert_eq!(Mac::parse(text).map(|mac| mac.to_string()), Ok("c2:aa:22:33:44:55".into()));
        }
    }

    #[test]
    fn what_no_interface_can_have() {
        for bad in [
            "zz",
            "",
            "c2:11:22:33:44",
            "c2:11:22:33:44:55:66:77",
            "c2:11:22:33:44:5",
            "c2112233.4455",
            "c2:11:22-33:44:55",
            "+2:11:22:33:44:55",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "c2112233aabb",
            "é2:11:22:33:44:55",
        ] {
            assert!(Mac::parse(bad).is_err(), "{bad}");
        }
    }
}
