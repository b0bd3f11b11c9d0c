//! Violations: calls that would harm a real kernel.

use crate::addr::{Iova, IovaRange, UserRange};
use core::fmt;

/// The direction of a device's DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub enum DmaDirection {
    /// The device reads memory.
    Read,
    /// The device writes memory.
    Write,
}

/// A call that crashes or corrupts a real kernel, or loses memory or a device until reboot; or DMA
/// that no TCE allows. The model records it instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// MAP ran past its window: the kernel checks no bounds. powernv overwrites kernel memory and
    /// returns 0. pseries crashes in `tce_iommu_unuse_page_v2`, returns EINTR and leaks a count, or
    /// maps where the firmware's default window continues past a smaller one of the kernel's. The
    /// model applies nothing on powernv.
    MapPastWindow {
        /// First address of the MAP; with its bytes it may wrap.
        start: Iova,
        /// Bytes.
        size: u64,
        /// The window.
        window: IovaRange,
        /// Whether a pseries kernel would have crashed; otherwise a count is lost.
        fatal: bool,
    },
    /// UNMAP ran past its window on powernv before 6.12.112 and 7.2.8: zeros are written past
    /// the end of the table. The model clears what lies inside.
    UnmapPastWindow {
        /// First address.
        start: Iova,
        /// Bytes.
        size: u64,
        /// The window.
        window: IovaRange,
    },
    /// DMA through a TCE at bus addresses that powernv's host bridge decodes as 32-bit MMIO: it
    /// does not reach memory.
    DmaOverMmio {
        /// The bus addresses.
        at: Iova,
    },
    /// MAP of no bytes: on POWER8 the TCE kill loop never ends.
    EmptyMap {
        /// First address.
        start: Iova,
    },
    /// MAP at bus address 0 that failed at its first page, on POWER8: the rollback covers no
    /// entries, and its TCE kill loop never ends.
    FailedMapAtZero {
        /// Bytes of the MAP.
        size: u64,
    },
    /// UNMAP of no bytes: on POWER8 the TCE kill loop never ends.
    EmptyUnmap {
        /// First address.
        start: Iova,
    },
    /// REGISTER of no bytes: the kernel warns about an empty allocation.
    EmptyRegister,
    /// UNREGISTER while TCEs point into the region: returns 0, and the memory stays pinned until
    /// reboot.
    UnregisterWhileMapped {
        /// The region.
        range: UserRange,
        /// Number of TCEs that point into it.
        mapped: u64,
    },
    /// A container was released while another container still maps its region, or the region's
    /// count is wrong: the region is lost.
    ReleasedWhileMapped {
        /// The region.
        range: UserRange,
        /// Number of TCEs that point into it.
        mapped: u64,
    },
    /// A failed exchange left the region's count too high: it can never be freed.
    LeakedCount {
        /// The region.
        range: UserRange,
    },
    /// Creating a window failed after its table was charged: the charge is lost.
    LeakedCharge {
        /// Bytes charged.
        bytes: u64,
    },
    /// Creating a window with a page shift of 128 or more whose low seven bits are a page size the
    /// PE has: the kernel accepts it as that size and goes on computing with the number. The model
    /// leaks the charge and refuses.
    WildPageShift {
        /// The page shift.
        page_shift: u32,
    },
    /// Creating a window smaller than its page on pseries: the kernel warns about an empty
    /// allocation (`iommu_init_table`) and creates a window that holds nothing.
    EmptyWindow {
        /// Bytes requested.
        size: u64,
    },
    /// The PE is on the kernel's list of failed PEs: no window can be created on it until reboot.
    Poisoned {
        /// The PE's group.
        group: u32,
    },
    /// A second dynamic window on a pseries PE: the firmware refuses, which poisons the PE.
    SecondDdw {
        /// The PE's group.
        group: u32,
    },
    /// A second group in a pseries container: no further window can be created there.
    SecondGroup {
        /// The groups, newest first.
        groups: Vec<u32>,
    },
    /// A device accessed bus addresses that no TCE allows: with EEH its PE is frozen, elsewhere
    /// reads give zeros and writes are dropped. Not a reason for a
    /// [strict](super::Model::panic_on_violation) model to panic: drivers are tested with it.
    DeviceDma {
        /// The device's PCI address.
        device: String,
        /// The first bus address that is not allowed.
        at: Iova,
        /// What the device tried to do there.
        direction: DmaDirection,
    },
    /// A device model of the program's own panicked: the device is gone, as if it had been
    /// unplugged.
    DevicePanicked {
        /// The device's PCI address.
        device: String,
        /// The message of the panic.
        message: String,
    },
    /// The process ended and left memory locked, or regions.
    LeftBehind {
        /// Locked bytes.
        locked: u64,
        /// Regions that are pinned for ever.
        regions: Vec<UserRange>,
    },
}

impl Violation {
    /// Returns whether it harms a kernel. DMA that the hardware refuses does not, nor does a device
    /// that fails.
    pub fn harms_kernel(&self) -> bool {
        !matches!(self, Self::DeviceDma { .. } | Self::DevicePanicked { .. })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MapPastWindow { start, size, window, fatal } => {
                let end = if *fatal { "the kernel crashes" } else { "kernel memory or a count is damaged" };
                write!(f, "MAP of {size:#x} bytes at {start} runs past {window}: {end}")
            }
            Self::UnmapPastWindow { start, size, window } => {
                write!(f, "UNMAP of {size:#x} bytes at {start} runs past {window}: kernel memory is overwritten")
            }
            Self::DmaOverMmio { at } => write!(f, "DMA at {at} meets MMIO of the host bridge, not memory"),
            Self::EmptyMap { start } => write!(f, "MAP of no bytes at {start}: hangs POWER8"),
            Self::FailedMapAtZero { size } => {
                write!(f, "MAP of {size:#x} bytes at bus address 0 failed at its first page: hangs POWER8")
            }
            Self::EmptyUnmap { start } => write!(f, "UNMAP of no bytes at {start}: hangs POWER8"),
            Self::EmptyRegister => f.write_str("REGISTER of no bytes: the kernel warns"),
            Self::UnregisterWhileMapped { range, mapped } => {
                write!(f, "UNREGISTER of {range} while {mapped} TCEs point there: pinned until reboot")
            }
            Self::ReleasedWhileMapped { range, mapped } => {
                write!(f, "container released while {mapped} TCEs point into its {range}: pinned until reboot")
            }
            Self::LeakedCount { range } => write!(f, "a failed exchange left a count on {range}: never freed"),
            Self::LeakedCharge { bytes } => write!(f, "a failed window creation left {bytes:#x} bytes locked"),
            Self::WildPageShift { page_shift } => {
                write!(
                    f,
                    "a window of page shift {page_shift} was requested and taken for one of {}",
                    page_shift & 0x7f
                )
            }
            Self::EmptyWindow { size } => write!(f, "a window of {size:#x} bytes holds no page: the kernel warns"),
            Self::Poisoned { group } => write!(f, "no more windows for group {group} until reboot"),
            Self::SecondDdw { group } => write!(f, "a second dynamic window was requested for group {group}"),
            Self::SecondGroup { groups } => write!(f, "several groups in a pseries container: {groups:?}"),
            Self::DeviceDma { device, at, direction } => {
                write!(f, "device {device} tried to {direction} at {at}, which no TCE allows")
            }
            Self::DevicePanicked { device, message } => {
                write!(f, "the model of device {device} panicked and is gone: {message}")
            }
            Self::LeftBehind { locked, regions } => {
                write!(f, "process ended with {locked:#x} bytes locked and regions {regions:?}")
            }
        }
    }
}

/// What remains after everything was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leak {
    /// A region no container holds.
    Region(UserRange),
    /// Locked bytes beyond those of open containers.
    Locked(u64),
}
