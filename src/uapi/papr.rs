//! Numbers that a pseries guest and its hypervisor agree on (LoPAR: hypervisor calls; RTAS).

/// Hypercalls for TCEs: what a guest has in r3 at `sc 1`.
pub mod hcall {
    /// `H_GET_TCE`: takes LIOBN and IOBA, returns the TCE.
    pub const H_GET_TCE: u64 = 0x1c;
    /// `H_PUT_TCE`: LIOBN, IOBA, TCE.
    pub const H_PUT_TCE: u64 = 0x20;
    /// `H_STUFF_TCE`: LIOBN, IOBA, TCE, count.
    pub const H_STUFF_TCE: u64 = 0x138;
    /// `H_PUT_TCE_INDIRECT`: LIOBN, IOBA, guest address of the list, count.
    pub const H_PUT_TCE_INDIRECT: u64 = 0x13c;
    /// RTAS by hypercall, as QEMU and SLOF have it: guest address of the argument block. Not
    /// LoPAR's.
    pub const H_RTAS: u64 = 0xf000;

    /// Done.
    pub const H_SUCCESS: i64 = 0;
    /// The hardware, here the host's kernel, failed.
    pub const H_HARDWARE: i64 = -1;
    /// No such function.
    pub const H_FUNCTION: i64 = -2;
    /// A parameter is out of range, misaligned, or names memory that is not there.
    pub const H_PARAMETER: i64 = -4;

    /// There is not enough memory to map I/O. Linux treats that as a mapping it cannot have, and
    /// goes on.
    pub const H_NOT_ENOUGH_RESOURCES: i64 = -44;

    /// Maximum TCEs of one `H_STUFF_TCE` here: a default window of 1 GiB. LoPAR allows 512, which
    /// Linux keeps to since 6.4; QEMU and KVM take any count, which older guests use.
    pub const MAX_STUFFED: u64 = 1 << 18;
    /// Maximum TCEs of one `H_PUT_TCE_INDIRECT`: a list of one 4 KiB page.
    pub const MAX_INDIRECT: u64 = 512;
}

/// Status words of RTAS calls: the first cell they return.
pub mod rtas {
    /// Done.
    pub const SUCCESS: i32 = 0;
    /// The hardware, here the host's kernel, failed.
    pub const HARDWARE_ERROR: i32 = -1;
    /// A parameter is wrong.
    pub const PARAMETER_ERROR: i32 = -3;
}

/// Page sizes of dynamic windows in the mask of `ibm,query-pe-dma-window`, by bit; 2 MiB was added
/// last.
pub const DDW_PAGE_SHIFTS: [u32; 9] = [12, 16, 24, 25, 26, 27, 28, 34, 21];

/// Bits of a TCE; the remaining bits are the real address.
pub mod tce {
    /// The device may read.
    pub const READ: u64 = 1;
    /// The device may write.
    pub const WRITE: u64 = 2;
}
