//! Interrupt vectors: the guest expects no interrupts, so each vector reports to the monitor.

use ppc64_guest::H_CRASH;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::{GuestMemory, NoMemory};

/// The vectors from system reset to the last one of POWER9, every 128 bytes.
const FIRST: u64 = 0x100;
const END: u64 = 0x1000;
const STEP: usize = 0x80;

/// Returns `li r3, 0; ori r3, r3, H_CRASH; li r4, vector; sc 1; b .`, big endian as interrupts are
/// taken.
fn code(vector: u64) -> [u8; 20] {
    let mut code = [0; 20];
    let words = [0x3860_0000, 0x6063_0000 | H_CRASH as u32, 0x3880_0000 | vector as u32, 0x4400_0022, 0x4800_0000];
    code.chunks_mut(4).zip(words).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_be_bytes()));
    code
}

/// Writes the vectors to guest memory.
pub(crate) fn write(memory: &dyn GuestMemory) -> Result<(), NoMemory> {
    (FIRST..END).step_by(STEP).try_for_each(|vector| memory.write(GuestAddr(vector), &code(vector)))
}
