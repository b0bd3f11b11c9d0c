//! Reasons for a plan, and why there may be none.

use super::Window;
use crate::addr::{Amount, Bytes, Iova, IovaRange, List, PageShift};
use crate::host::MemlockError;
use core::fmt;

/// A reason for a plan's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// An existing window serves.
    Serves(IovaRange),
    /// The default window serves: the first map creates it.
    DefaultServes,
    /// The caller chose the page.
    PageRequested(PageShift),
    /// The largest page that hardware, memory and alignment allow.
    LargestPage {
        /// The page.
        page: PageShift,
        /// The largest page the memory can serve.
        max_iommu_page: PageShift,
    },
    /// The size was rounded up to a power of two of at least the smallest table.
    Rounded {
        /// Bytes requested.
        asked: u64,
        /// Bytes planned.
        size: u64,
    },
    /// One level: the table is small.
    OneLevel,
    /// Several levels: one level would be too large to allocate, and sparse tables are removed
    /// faster.
    Levels(u32),
    /// pseries tables have one level.
    OnlyLevel,
    /// powernv puts the first window at 0 and the second at 1 << 59.
    SlotStart(Iova),
    /// The firmware chooses the start.
    FirmwareStart,
    /// The kernel creates the pending default window along with the first dynamic one.
    CreatesDefault,
    /// The firmware grants one window: the unused default window is removed first.
    DefaultMakesRoom,
    /// On pseries, a small 4K window becomes the default window again.
    RestoresDefault,
    /// The size exceeds the default window's: a smaller 4K window in the first slot would become
    /// the default window.
    BeyondDefault,
    /// An empty window that is too small is removed first.
    MakesRoom(IovaRange),
    /// The window covers bus addresses where powernv decodes 32-bit MMIO.
    OverlapsMmio,
    /// A small window holds the free first slot, where powernv would otherwise put this one.
    HoldsSlot,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serves(range) => write!(f, "the window at {range} holds it"),
            Self::DefaultServes => f.write_str("the default window holds it; the kernel creates it with the first map"),
            Self::PageRequested(page) => write!(f, "{page} pages, as requested"),
            Self::LargestPage { page, max_iommu_page } => {
                write!(
                    f,
                    "{page} pages: the largest that hardware and alignment allow and the memory supports ({max_iommu_page})"
                )
            }
            Self::Rounded { asked, size } => write!(f, "{} rounded up to {}", Bytes(*asked), Bytes(*size)),
            Self::OneLevel => f.write_str("one level: the table is small"),
            Self::Levels(n) => write!(f, "{n} levels: a single one would be too large to allocate"),
            Self::OnlyLevel => f.write_str("one level: pseries has no more"),
            Self::SlotStart(start) => write!(f, "starts at {start}: powernv fixes it by slot"),
            Self::FirmwareStart => f.write_str("the firmware chooses the start"),
            Self::CreatesDefault => f.write_str("the kernel creates the pending default window as well"),
            Self::DefaultMakesRoom => {
                f.write_str("the firmware grants one window: the unused default window is removed first")
            }
            Self::RestoresDefault => {
                f.write_str("4K pages: a small window in the first slot becomes the default window again")
            }
            Self::BeyondDefault => f.write_str(
                "larger than the default window: a smaller 4K window in the first slot would become the default \
                     window",
            ),
            Self::MakesRoom(range) => write!(f, "the empty window at {range} is removed first"),
            Self::OverlapsMmio => {
                f.write_str("caution: the host bridge decodes bus addresses below 4G as MMIO, nothing is mapped there")
            }
            Self::HoldsSlot => f.write_str(
                "a small window holds the first slot during the creation: otherwise the kernel would start this \
                     one at 0",
            ),
        }
    }
}

/// Why a request has no plan. No kernel call was made, nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum PlanError {
    /// The firmware has no DDW.
    #[error(
        "this host's firmware has no dynamic DMA windows (no ibm,ddw-applicable): VFIO has no usable window here; \
         enable DDW for the PHB (QEMU: `-global spapr-pci-host-bridge.ddw=on`)"
    )]
    NoDdw,
    /// The hardware does not have the page.
    #[error("the hardware has no {page} IOMMU pages: choose one of {}", List(supported))]
    PageUnsupported { page: PageShift, supported: Vec<PageShift> },
    /// The memory cannot serve the page.
    #[error(
        "{page} IOMMU pages need memory that supports them, this supports {max_iommu_page}: use hugetlb memory or a smaller page"
    )]
    PageTooLarge { page: PageShift, max_iommu_page: PageShift },
    /// A TCE table cannot be that large.
    #[error("a window of {} with {page} pages is larger than a TCE table can be: ask for less, or for larger pages", Bytes(*size))]
    TooLarge { size: u64, page: PageShift },
    /// Both windows are taken.
    #[error("there are two windows already, {first} and {second}: remove one first")]
    NoFreeWindow { first: IovaRange, second: IovaRange },
    /// A second dynamic window would poison the PE.
    #[error(
        "the window at {present} is the only one this firmware grants beside the default window; asking for another would \
         make the device unusable until reboot: remove it first"
    )]
    SecondDdw { present: IovaRange },
    /// The only window is in use.
    #[error("the firmware grants one window, and the default window is in use: unmap all of it and drop it first")]
    OnlyWindowInUse,
    /// A window covers the range but has another page size.
    #[error(
        "the window at {window} holds it, with {page} pages instead of {asked}: use that, or remove the window first"
    )]
    OtherPage { window: IovaRange, page: PageShift, asked: PageShift },
    /// No window can hold the range: the next one starts elsewhere.
    #[error("{asked} is in no window, and the next window starts at {start}: map from there on")]
    OutOfReach {
        /// The requested range.
        asked: IovaRange,
        /// Where the next window starts.
        start: Iova,
    },
    /// The host bridge decodes the bus addresses as MMIO.
    #[error(
        "{asked} reaches into {mmio}, which the host bridge decodes as 32-bit MMIO: DMA there does not reach memory, map \
         elsewhere"
    )]
    OverMmio {
        /// The requested range.
        asked: IovaRange,
        /// The bus addresses of the MMIO.
        mmio: IovaRange,
    },
    /// The remaining window starts at 0 and would reach into the MMIO range.
    #[error(
        "the remaining window starts at 0 and of {} would reach into {mmio}, which the host bridge decodes as 32-bit \
         MMIO: ask for at most {}, or remove the window at 1 << 59 first",
        Bytes(*size),
        Bytes(mmio.start().0)
    )]
    BelowMmio {
        /// Bytes of the window.
        size: u64,
        /// The bus addresses of the MMIO.
        mmio: IovaRange,
    },
    /// The device cannot reach the window.
    #[error(
        "the window starts at {start}, but the device reaches bus addresses up to {reach:#x} only: use the default window"
    )]
    BeyondDevice { start: Iova, reach: u64 },
    /// The range extends past an end of a window.
    #[error("{asked} lies only partly in the window at {window}: stay within it, the kernel itself checks no bounds")]
    PastEnd { asked: IovaRange, window: IovaRange },
    /// A window that is too small is in use.
    #[error(
        "{asked} reaches past the window at {window}, which is in use: ask for a larger window before mapping, or unmap all of it"
    )]
    TooSmall { asked: IovaRange, window: IovaRange },
    /// The window to remove is in use.
    #[error("the window at {window} is in use: unmap what is mapped in it, and unreserve what is reserved in it")]
    InUse { window: IovaRange },
    /// No window starts there.
    #[error("no window starts at {start} (windows: {})", Starts(windows))]
    NoSuchWindow { start: Iova, windows: Vec<Window> },
    /// The kernel refused such a window before; each further attempt would lose locked memory.
    #[error("the kernel refused a window of {} with {page} pages before: ask for less", Bytes(*size))]
    RefusedBefore { size: u64, page: PageShift },
    /// The PE accepts no further windows.
    #[error("the firmware failed a window of this device before, and the kernel no longer creates any for it: reboot")]
    Poisoned,
    /// The machine has too little memory for the table.
    #[error(
        "the window's TCE table takes {} of memory, and the machine has {} available, half of which may be used for it: \
         ask for less, or for larger pages",
        Amount(*needed),
        Amount(*available)
    )]
    NoMemory { needed: u64, available: u64 },
    /// More locked memory than allowed.
    #[error(transparent)]
    Memlock(#[from] MemlockError),
}

crate::error::classify!(PlanError {
    Argument: PageTooLarge, TooLarge, OutOfReach, OverMmio, BelowMmio, BeyondDevice, PastEnd;
    NotFound: NoSuchWindow;
    Busy: NoFreeWindow, SecondDdw, OnlyWindowInUse, OtherPage, TooSmall, InUse;
    NoMemory: NoMemory;
    Unsupported: NoDdw, PageUnsupported;
    Kernel: RefusedBefore;
    Device: Poisoned;
    inner: Memlock.0;
});

/// Displays where windows start.
struct Starts<'a>(&'a [Window]);

impl fmt::Display for Starts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        List(self.0.iter().map(|window| window.range.start())).fmt(f)
    }
}
