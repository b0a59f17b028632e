//! When two texts are the same value of a sysctl. No I/O.

use std::net::Ipv6Addr;

/// Whether the kernel, given `wanted`, may show `found`.
///
/// It shows lists with tabs between their items, numbers in decimal, sets of ports sorted, and IPv6
/// addresses in full.
pub(crate) fn same(wanted: &str, found: &str) -> bool {
    let mut found_words = found.split_whitespace();
    let words_match = wanted
        .split_whitespace()
        .all(|wanted| found_words.next().is_some_and(|found| same_word(wanted, found)));
    words_match && found_words.next().is_none()
}

fn same_word(wanted: &str, found: &str) -> bool {
    wanted == found
        || matches!((number(wanted), number(found)), (Some(a), Some(b)) if a == b)
        || matches!((address(wanted), address(found)), (Some(a), Some(b)) if a == b)
        || wanted.contains([',', '-'])
            && matches!((ranges(wanted), ranges(found)), (Some(a), Some(b)) if a == b)
}

/// An IPv6 address, which the kernel shows with every digit.
fn address(text: &str) -> Option<Ipv6Addr> {
    text.parse().ok()
}

/// A number as the kernel reads it: hexadecimal after `0x`, octal after `0`.
fn number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => (16, digits),
        Some(_) => return None,
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -value } else { value })
}

/// A set of ports such as `8080,9000-9005`, sorted and with neighbours joined.
fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    let mut ranges = Vec::new();
    for item in text.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        ranges.push((first.parse().ok()?, last.parse().ok()?));
    }
    ranges.sort_unstable();
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => {
                previous.1 = previous.1.max(last);
            }
            _ => joined.push((first, last)),
        }
    }
    Some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_value() {
        for (wanted, found) in [
            ("30000 40000", "30000\t40000"),
            ("4096  87380\t6291456 ", "4096\t87380\t6291456"),
            ("0x10", "16"),
            ("010", "8"),
            ("-1", "-1"),
            ("cubic", "cubic"),
            ("2001:db8::1", "2001:0db8:0000:0000:0000:0000:0000:0001"),
            ("", ""),
            ("3001,3000,4000-4002,4003", "3000-3001,4000-4003"),
        ] {
            assert!(same(wanted, found), "{wanted:?} {found:?}");
        }
    }

    #[test]
    fn different_values() {
        for (wanted, found) in [
            ("1", "0"),
            ("1", ""),
            ("", "1"),
            ("1 2", "1"),
            ("1", "1 2"),
            ("10", "8"),
            ("-1", "1"),
            ("cubic", "reno"),
            ("2001:db8::1", "2001:0db8:0000:0000:0000:0000:0000:0002"),
            ("3000-3002", "3000-3001"),
            ("0x", "0"),
            ("08", "8"),
            ("010", "10"),
        ] {
            assert!(!same(wanted, found), "{wanted:?} {found:?}");
        }
    }
}
