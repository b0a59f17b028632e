//! The kernel's registers, byte by byte, each known or not.

/// `NFT_REG_SIZE` times the number of registers.
const SIZE: usize = 64;
/// enum `nft_registers`: 1 to 4 are of 16 bytes, from here on they are of 4, in the same place.
const FIRST_OF_4_BYTES: u32 = 8;

/// The registers.
#[derive(Debug)]
pub(super) struct Registers([Option<u8>; SIZE]);

impl Default for Registers {
    fn default() -> Self {
        Self([None; SIZE])
    }
}

impl Registers {
    /// Sets `bytes` from a register on. What is left of the last 4 bytes becomes 0, as in the kernel.
    pub(super) fn set(&mut self, register: u32, bytes: &[Option<u8>]) {
        let start = offset(register);
        let padded = bytes.len().next_multiple_of(4);
        for at in 0..padded {
            if let Some(slot) = self.0.get_mut(start + at) {
                *slot = bytes.get(at).copied().unwrap_or(Some(0));
            }
        }
    }

    /// `len` bytes from a register on.
    pub(super) fn get(&self, register: u32, len: usize) -> Vec<Option<u8>> {
        let start = offset(register);
        (start..start + len).map(|at| self.0.get(at).copied().flatten()).collect()
    }

    /// The same, if all are known.
    pub(super) fn known(&self, register: u32, len: usize) -> Option<Vec<u8>> {
        self.get(register, len).into_iter().collect()
    }
}

fn offset(register: u32) -> usize {
    let bytes = match register {
        1..FIRST_OF_4_BYTES => (register - 1) * 16,
        FIRST_OF_4_BYTES.. => (register - FIRST_OF_4_BYTES) * 4,
        // The verdict: no register of bytes.
        0 => u32::MAX,
    };
    usize::try_from(bytes).unwrap_or(SIZE).min(SIZE)
}
