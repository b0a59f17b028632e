//! Hardware addresses in text.

/// The bytes of an address as `ip` and CNI results spell it: in lower case, with colons.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_two_digits() {
        assert_eq!(text(&[0xc2, 0, 0x0a, 0xff, 1, 0x10]), "c2:00:0a:ff:01:10");
        assert_eq!(text(&[]), "");
    }
}
