//! Enhanced error handling of a PE (`VFIO_EEH_PE_OP`).

use super::{Number, number};

/// `VFIO_EEH_PE_OP`, on a container.
pub const PE_OP: Number = number(21);

/// Extension number to ask for EEH: `VFIO_EEH`.
pub const EXTENSION: u32 = 5;

/// Operations of [`PE_OP`]: `VFIO_EEH_PE_*`.
pub mod op {
    /// Does nothing.
    pub const DISABLE: u32 = 0;
    /// Takes the PE over.
    pub const ENABLE: u32 = 1;
    /// Lets loads and stores through again.
    pub const UNFREEZE_IO: u32 = 2;
    /// Lets DMA through again.
    pub const UNFREEZE_DMA: u32 = 3;
    /// Asks for the state, which is the call's positive result.
    pub const GET_STATE: u32 = 4;
    /// Ends a reset.
    pub const RESET_DEACTIVATE: u32 = 5;
    /// Asserts a hot reset.
    pub const RESET_HOT: u32 = 6;
    /// Asserts a fundamental reset.
    pub const RESET_FUNDAMENTAL: u32 = 7;
    /// Configures the bridges again.
    pub const CONFIGURE: u32 = 8;
    /// Injects an error.
    pub const INJECT_ERR: u32 = 9;
}

/// States that [`op::GET_STATE`] returns: `VFIO_EEH_PE_STATE_*`.
pub mod state {
    /// Works.
    pub const NORMAL: i32 = 0;
    /// Reset is asserted.
    pub const RESET: i32 = 1;
    /// Loads, stores and DMA are stopped.
    pub const STOPPED: i32 = 2;
    /// DMA is stopped.
    pub const STOPPED_DMA: i32 = 4;
    /// Not available.
    pub const UNAVAIL: i32 = 5;
}

/// `struct vfio_eeh_pe_err`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeErr {
    /// 32-bit (0) or 64-bit (1) error.
    pub kind: u32,
    /// Which error.
    pub func: u32,
    /// The address it is for.
    pub addr: u64,
    /// Mask of `addr`.
    pub mask: u64,
}

/// `struct vfio_eeh_pe_op`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeOp {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// Must be 0.
    pub flags: u32,
    /// One of [`op`].
    pub op: u32,
    /// For [`op::INJECT_ERR`].
    pub err: PeErr,
}
