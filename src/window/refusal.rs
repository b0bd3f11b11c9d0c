//! Why a plan is as it is, or why there is none.

use super::Window;
use crate::addr::{Amount, Bytes, Iova, IovaRange, PageShift};
use crate::host::MemlockError;
use core::fmt;

/// Why a plan is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A window that is there serves.
    Serves(IovaRange),
    /// The default window serves: the first map creates it.
    DefaultServes,
    /// The caller named the page.
    PageAsked(PageShift),
    /// The largest page that hardware, memory and alignment allow.
    LargestPage {
        /// The page.
        page: PageShift,
        /// The largest page the memory carries.
        carries: PageShift,
    },
    /// The size was rounded up to a power of two of at least the smallest table.
    Rounded {
        /// Bytes asked.
        asked: u64,
        /// Bytes planned.
        size: u64,
    },
    /// One level: the table is small.
    OneLevel,
    /// Several levels: one level would be too large to allocate, and sparse tables are removed faster.
    Levels(u32),
    /// pseries tables have one level.
    OnlyLevel,
    /// powernv puts the first window at 0 and the second at 1 << 59.
    SlotStart(Iova),
    /// The firmware chooses the start.
    FirmwareStart,
    /// The kernel creates the waiting default window along with the first created one.
    DefaultComesToo,
    /// The firmware has one window: the default window, not in use, makes room.
    DefaultMakesRoom,
    /// A small 4K window is the default window again.
    DefaultAgain,
    /// It is larger than the default window, which a smaller 4K window in the first slot would be again.
    BeyondDefault,
    /// An empty window that is too small makes room.
    MakesRoom(IovaRange),
    /// The window covers bus addresses where powernv decodes 32-bit MMIO.
    OverlapsMmio,
    /// powernv would put the window in the first slot, which is free, so a small one holds that
    /// meanwhile.
    HoldsSlot,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serves(range) => write!(f, "the window at {range} holds it"),
            Self::DefaultServes => f.write_str("the default window holds it; the kernel creates it with the first map"),
            Self::PageAsked(page) => write!(f, "{page} pages, as asked"),
            Self::LargestPage { page, carries } => {
                write!(
                    f,
                    "{page} pages: the largest that hardware and alignment allow and the memory carries ({carries})"
                )
            }
            Self::Rounded { asked, size } => write!(f, "{} rounded up to {}", Bytes(*asked), Bytes(*size)),
            Self::OneLevel => f.write_str("one level: the table is small"),
            Self::Levels(n) => write!(f, "{n} levels: a single one would be too large to allocate"),
            Self::OnlyLevel => f.write_str("one level: pseries has no more"),
            Self::SlotStart(start) => write!(f, "starts at {start}: powernv fixes it by slot"),
            Self::FirmwareStart => f.write_str("the firmware chooses the start"),
            Self::DefaultComesToo => f.write_str("the kernel creates the waiting default window as well"),
            Self::DefaultMakesRoom => f.write_str("the firmware has one window, the unused default window makes room"),
            Self::DefaultAgain => f.write_str("4K pages: a small window in the first slot is the default window again"),
            Self::BeyondDefault => {
                f.write_str("larger than the default window: a smaller 4K window in the first slot would be that again")
            }
            Self::MakesRoom(range) => write!(f, "the empty window at {range} makes room"),
            Self::OverlapsMmio => {
                f.write_str("caution: the host bridge decodes bus addresses below 4G as MMIO, nothing is mapped there")
            }
            Self::HoldsSlot => {
                f.write_str("a small window holds the first slot meanwhile: the kernel would start this one at 0")
            }
        }
    }
}

/// Why there is no plan. Nothing was asked of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Refusal {
    /// The firmware has no DDW.
    #[error(
        "this host's firmware has no dynamic DMA windows (no ibm,ddw-applicable): VFIO has no usable window here; \
         enable DDW for the PHB (QEMU: `-global spapr-pci-host-bridge.ddw=on`)"
    )]
    NoDdw,
    /// The page is none of the hardware's.
    #[error("the hardware has no {page} IOMMU pages: choose one of {}", Pages(supported))]
    PageUnsupported {
        /// The page asked.
        page: PageShift,
        /// The pages there are.
        supported: Vec<PageShift>,
    },
    /// The memory does not carry the page.
    #[error(
        "{page} IOMMU pages need memory that carries them, this carries {carries}: use hugetlb memory or a smaller page"
    )]
    PageTooLarge {
        /// The page asked.
        page: PageShift,
        /// What the memory carries.
        carries: PageShift,
    },
    /// No table can be that large.
    #[error("a window of {} with {page} pages is larger than a TCE table can be: ask for less, or for larger pages", Bytes(*size))]
    TooLarge {
        /// Bytes.
        size: u64,
        /// The page.
        page: PageShift,
    },
    /// Both windows are taken.
    #[error("there are two windows already, {first} and {second}: remove one first")]
    NoFreeWindow {
        /// A window.
        first: IovaRange,
        /// The other.
        second: IovaRange,
    },
    /// A second dynamic window would poison the PE.
    #[error(
        "the window at {present} is the only one this firmware grants beside the default window; asking for another would \
         make the device unusable until reboot: remove it first"
    )]
    SecondDdw {
        /// The window there is.
        present: IovaRange,
    },
    /// The only window is in use.
    #[error("the firmware grants one window, and the default window is in use: unmap all of it and drop it first")]
    OnlyWindowInUse,
    /// A window serves but for its page.
    #[error(
        "the window at {window} holds it, with {page} pages instead of {asked}: use that, or remove the window first"
    )]
    OtherPage {
        /// The window.
        window: IovaRange,
        /// Its page.
        page: PageShift,
        /// The page asked.
        asked: PageShift,
    },
    /// It starts elsewhere.
    #[error("{asked} is in no window, and the next window starts at {start}: map from there on")]
    OutOfReach {
        /// What was asked.
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
        /// What was asked.
        asked: IovaRange,
        /// The bus addresses of the MMIO.
        mmio: IovaRange,
    },
    /// The window that is left starts at 0, and is too short.
    #[error(
        "the window that is left starts at 0 and would reach over {mmio} with {}, which the host bridge decodes as 32-bit \
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
    BeyondDevice {
        /// Where the window starts.
        start: Iova,
        /// The device's last bus address.
        reach: u64,
    },
    /// It reaches over an end of a window.
    #[error("{asked} lies only partly in the window at {window}: stay within it, the kernel itself checks no bounds")]
    PastEnd {
        /// What was asked.
        asked: IovaRange,
        /// The window.
        window: IovaRange,
    },
    /// A window too small is in use.
    #[error(
        "{asked} reaches past the window at {window}, which is in use: ask for a larger window before mapping, or unmap all of it"
    )]
    TooSmall {
        /// What was asked.
        asked: IovaRange,
        /// The window.
        window: IovaRange,
    },
    /// The window asked for removal is in use.
    #[error("the window at {window} is in use: unmap what is mapped in it, and take back what was asked of it")]
    InUse {
        /// The window.
        window: IovaRange,
    },
    /// No window starts there.
    #[error("no window starts at {start} (windows: {})", Starts(windows))]
    NoSuchWindow {
        /// The address asked.
        start: Iova,
        /// The windows there are.
        windows: Vec<Window>,
    },
    /// The kernel refused such a window before; asking again would lose locked memory each time.
    #[error("the kernel refused a window of {} with {page} pages before: ask for less", Bytes(*size))]
    RefusedBefore {
        /// Bytes.
        size: u64,
        /// The page.
        page: PageShift,
    },
    /// The PE takes no more windows.
    #[error("the firmware failed a window of this device before, and the kernel creates none for it any more: reboot")]
    Poisoned,
    /// The machine has too little memory for the table.
    #[error(
        "the window's TCE table takes {} of memory, and the machine has {} to spare, of which half may go there: ask for \
         less, or for larger pages",
        Amount(*needed),
        Amount(*available)
    )]
    NoMemory {
        /// Bytes of the table, over all containers.
        needed: u64,
        /// Bytes that could be used.
        available: u64,
    },
    /// Too much locked memory.
    #[error(transparent)]
    Memlock(#[from] MemlockError),
}

struct Pages<'a>(&'a [PageShift]);

impl fmt::Display for Pages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, page) in self.0.iter().enumerate() {
            write!(f, "{}{page}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

struct Starts<'a>(&'a [Window]);

impl fmt::Display for Starts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, window) in self.0.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, window.range.start())?;
        }
        Ok(())
    }
}
