//! The state of a processor, as far as a guest on a radix host can see it.

use super::VcpuFile;
use serde::{Deserialize, Serialize};
use std::io;

/// Numbers of registers (`KVM_REG_PPC_*`, `arch/powerpc/include/uapi/asm/kvm.h`): start of each
/// range, and sizes.
const PPC: u64 = 0x1000_0000_0000_0000;
const BITS_32: u64 = PPC | 0x20_0000_0000_0000;
const BITS_64: u64 = PPC | 0x30_0000_0000_0000;
const BITS_128: u64 = PPC | 0x40_0000_0000_0000;

/// Vector registers, and floating-point registers, which are parts of 128 bits.
const WIDE: std::ops::Range<u64> = 0x40..0x80;

/// DSISR, VSCR, VRSAVE, PSPB, and counters 1 to 6.
const WORDS: [u64; 10] = [0x0d, 0x81, 0xb4, 0xa4, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d];

/// LPCR comes first, since other registers depend on it; VPA before its parts SLB and DTL; the
/// decrementer's expiry after the time.
const DOUBLES: [u64; 38] = [
    0xb5, 0x82, 0x9c, 0xbe, // LPCR, VPA, TB_OFFSET, DEC_EXPIRY
    0x09, 0x0a, 0x0b, 0x0c, 0x0e, 0x0f, 0x9f, // DSCR, PURR, SPURR, DAR, AMR, UAMOR, IAMR
    0x10, 0x11, 0x12, 0x13, 0x15, 0x16, 0x17, // MMCR0, MMCR1, MMCRA, MMCR2, SIAR, SDAR, SIER
    0x80, 0xa3, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, // FPSCR, FSCR, EBBHR, EBBRR, BESCR, TAR, DPDES
    0xaa, 0xab, 0xac, 0xad, 0xae, // DAWR, DAWRX, CIABR, IC, VTB
    0xb2, 0xb6, 0xb9, 0xbc, 0xbd, // PID, PPR, WORT, TIDR, PSSCR
    0xc4, 0xc5, 0x8c, // DAWR1, DAWRX1, ICP_STATE
];
/// SLB and DTL of the VPA.
const AREAS: [u64; 2] = [0x83, 0x84];

/// The state of a processor.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedVcpu {
    /// By number; only those that the host has.
    words: Vec<(u64, u32)>,
    doubles: Vec<(u64, u64)>,
    wide: Vec<(u64, [u64; 2])>,
}

impl VcpuFile {
    /// Returns the state without the general registers. The processor must not run.
    pub(crate) fn save(&self) -> SavedVcpu {
        let wide = WIDE.chain(AREAS);
        SavedVcpu {
            words: WORDS.into_iter().filter_map(|id| Some((id, self.get(BITS_32 | id).ok()?))).collect(),
            doubles: DOUBLES.into_iter().filter_map(|id| Some((id, self.get(BITS_64 | id).ok()?))).collect(),
            wide: wide.filter_map(|id| Some((id, self.get(BITS_128 | id).ok()?))).collect(),
        }
    }

    /// Sets the state of a processor that has not run yet.
    pub(crate) fn restore(&self, saved: &SavedVcpu) -> io::Result<()> {
        let of = |id: u64| move |error: io::Error| io::Error::other(format!("register {id:#x}: {error}"));
        saved.doubles.iter().try_for_each(|&(id, value)| self.set(BITS_64 | id, value).map_err(of(id)))?;
        saved.words.iter().try_for_each(|&(id, value)| self.set(BITS_32 | id, value).map_err(of(id)))?;
        saved.wide.iter().try_for_each(|&(id, value)| self.set(BITS_128 | id, value).map_err(of(id)))
    }
}
