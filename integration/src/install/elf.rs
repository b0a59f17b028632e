//! Whether a program's file is all there, where it cannot be run to find out. Pure.

/// How much of a file [`is_whole`] looks at.
pub(super) const HEADER: usize = 64;

/// Whether a file of this length and beginning is an ELF file as long as its header says: the table of
/// sections is the last that linkers write.
pub(super) fn is_whole(beginning: &[u8], length: u64) -> bool {
    const IS_64_BIT: u8 = 2;
    if !beginning.starts_with(b"\x7fELF") {
        return false;
    }
    let number = |at: usize, bytes: usize| {
        let bytes = beginning.get(at..at + bytes)?;
        // Of this machine's byte order, as what runs here is.
        let number = bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Some(if cfg!(target_endian = "big") {
            bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
        } else {
            number
        })
    };
    let (offset, size, count) = match beginning.get(4) {
        Some(&IS_64_BIT) => (number(0x28, 8), number(0x3a, 2), number(0x3c, 2)),
        _ => (number(0x20, 4), number(0x2e, 2), number(0x30, 2)),
    };
    let end = || offset?.checked_add(size? * count?);
    end().is_some_and(|end| end > 0 && end <= length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_and_half_of_it() {
        let program = std::fs::read("/proc/self/exe").expect("this program");
        let length = program.len() as u64;
        assert!(is_whole(&program[..HEADER], length));
        assert!(!is_whole(&program[..HEADER], length / 2));
        assert!(!is_whole(&program[..20], length));
        assert!(!is_whole(b"#!/bin/sh\n", 10) && !is_whole(b"", 0));
    }
}
