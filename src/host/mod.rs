//! The interface between the manager and a kernel.
//!
//! [`Host`] is the kernel interface as one trait: open a file, run a call on it, close it.
//! [`vfio::Vfio`] is the running kernel, the feature `model` has the kernel in process. What lies
//! above the seam is written once and runs on both.
//!
//! A call is a value, [`Call`], that carries the kernel's own structure, so that a wrapper around a
//! host ([`Wrapper`]) is one function, and a test can state exactly which calls the kernel gets.
//! Code above never runs a raw call: [`calls`] builds, traces and checks them.

pub mod calls;
pub mod vfio;

// The model's former path, from before it became a feature.
#[cfg(feature = "model")]
#[doc(hidden)]
pub use crate::model;

mod counts;
mod facts;
mod shared;
mod shared_file;
mod wrap;

pub use calls::{Call, Node};
pub use counts::{CallCount, call_counts};
pub use facts::{Extent, GroupFacts, Memlock, MemlockError, Obstacle, PciDevice, Platform};
pub use nix::errno::Errno;
pub use shared::Shared;
#[cfg(feature = "model")]
pub(crate) use shared::pieces;
pub use shared_file::FileError;
pub use vfio::MappedArea;
pub use wrap::Wrapper;

use crate::addr::{PageShift, UserAddr, UserRange};
use crate::uapi::vfio::IrqSet;
use core::fmt;
use shared::wiped_on_fork;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// An open file of a host: a number in that host's own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fd(pub u32);

impl fmt::Display for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd{}", self.0)
    }
}

/// A kernel with VFIO and sPAPR TCE, seen from one process.
///
/// Implementations pass calls through unchanged and report raw results; they validate nothing.
pub trait Host: Send + Sync + fmt::Debug {
    /// Opens a container, a group, or (by `VFIO_GROUP_GET_DEVICE_FD`) a device.
    fn open(&self, node: Node<'_>) -> Result<Fd, Errno>;

    /// Closes a file; does nothing if it is not open.
    fn close(&self, fd: Fd);

    /// Runs an ioctl. `Ok` is the kernel's raw result, even if positive; the kernel's answer is
    /// written to `call`.
    ///
    /// # Safety
    /// The call may hand memory of the process to the kernel, which pins it (REGISTER), and to
    /// devices, which write to it (MAP): it is as
    /// [`register_raw`](crate::registry::Registry::register_raw) demands. Other calls ask for
    /// nothing.
    #[allow(unsafe_code, reason = "user addresses enter here")]
    unsafe fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno>;

    /// `VFIO_DEVICE_SET_IRQS`, which is not a [`Call`] since its data has any length. `eventfds` is
    /// the data, with -1 for `None`, and is empty where `set` says there is none; `argsz` is filled
    /// in.
    fn set_irqs(&self, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno>;

    /// Opens region `index` of a device for access; index and size are those of
    /// `VFIO_DEVICE_GET_REGION_INFO`.
    fn region(&self, device: Fd, index: u32) -> Result<Box<dyn Region>, Errno>;

    /// Returns the parts of region `index` that [`Self::map_area`] can map; none on a model, whose
    /// registers are not memory.
    fn areas(&self, _device: Fd, _index: u32) -> Result<Vec<RegionArea>, Errno> {
        Ok(Vec::new())
    }

    /// Maps one of the [`areas`](Self::areas) of region `index`; `EINVAL` for any other.
    fn map_area(&self, _device: Fd, _index: u32, _area: RegionArea) -> Result<MappedArea, Errno> {
        Err(Errno::EINVAL)
    }

    /// Returns a duplicate of the file itself, for interfaces of the kernel that take VFIO's files;
    /// `None` on a model, which has none. While the duplicate is held, [`Self::close`] does not
    /// close the container, group or device.
    fn file(&self, _fd: Fd) -> Option<OwnedFd> {
        None
    }

    /// Returns the platform, PowerNV or pSeries; `None` on a machine other than POWER.
    fn platform(&self) -> Option<Platform>;

    /// Returns the page size of the host kernel.
    fn page_shift(&self) -> PageShift;

    /// Returns how much memory is locked, and how much may be.
    fn memlock(&self) -> Result<Memlock, Errno>;

    /// Returns the machine's available memory in bytes; `None` if unknown. On pseries a TCE table
    /// takes all its memory from it at once.
    fn available_memory(&self) -> Option<u64>;

    /// Returns the backing of a range of user memory, in address order; gaps between the extents
    /// are not mapped.
    fn backing(&self, range: UserRange) -> Result<Vec<Extent>, Errno>;

    /// Returns the IOMMU groups with their devices, lowest group first.
    fn groups(&self) -> Vec<GroupFacts>;

    /// Allocates memory of this process for devices to share: `size` zeroed bytes in whole pages of
    /// `page`, which is the host's page or one of hugetlb, aligned to `page` and to 64 KiB.
    fn share(&self, size: u64, page: PageShift) -> Result<Shared, Errno>;

    /// Makes memory of this process that [`Self::share`] did not allocate visible to the kernel.
    /// The running kernel sees all of it; a model sees only what is adopted, in whole pages of its
    /// own size.
    fn adopt(&self, _memory: &Shared) -> Result<(), Errno> {
        Ok(())
    }

    /// Ends [`Self::share`] or [`Self::adopt`], before the memory is freed.
    fn disown(&self, _memory: &Shared) {}

    /// Returns the obstacle to opening or using `node`, after that failed.
    fn obstacle(&self, node: Node<'_>) -> Option<Obstacle>;
}

/// A part of a region that can be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionArea {
    /// Where it begins in the region.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Access to one region of a device.
pub trait Region: Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Reads `data.len()` bytes at `offset`; 1, 2, 4 and 8 aligned bytes of a BAR are one access.
    /// Bytes as they lie in the region: the caller knows their order. `EIO` while the device's
    /// memory decode is off, or it sleeps.
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes `data` at `offset`, with the same accesses and byte order as [`Self::read`].
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno>;
}

/// An open container, group or device; closed when dropped.
pub struct File {
    host: Arc<dyn Host>,
    fd: Fd,
}

impl File {
    /// Opens `node`.
    pub fn open(host: &Arc<dyn Host>, node: Node<'_>) -> Result<Self, Errno> {
        Ok(Self { host: Arc::clone(host), fd: host.open(node)? })
    }

    /// Returns its number in the host's table.
    pub fn fd(&self) -> Fd {
        self.fd
    }

    /// Returns the host it is open on.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }
}

/// Without the host, which a model prints in full.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({})", self.fd)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.host.close(self.fd);
    }
}

/// Access allowed to a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// No access.
    None,
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// Memory of this process that a model's devices reach through its owner: see [`Memory::lend`].
pub trait LentMemory: Send + Sync + fmt::Debug {
    /// Reads bytes.
    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes bytes.
    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno>;
}

/// Allocates and frees memory of the process that a host sees: the running process's, or the
/// model's.
///
/// Scenarios and tests allocate their memory here, so that the same steps run on both hosts.
/// Library users do not need it for their own memory.
pub trait Memory {
    /// Allocates `size` zeroed bytes, aligned to the larger of 64 KiB and `page`; `page` is the
    /// host's page, or one of hugetlb.
    fn allocate(&self, size: u64, page: PageShift) -> Result<UserRange, Errno>;

    /// Frees memory or a part of it, which leaves a hole.
    fn free(&self, range: UserRange) -> Result<(), Errno>;

    /// Changes the access allowed to memory.
    fn protect(&self, range: UserRange, protection: Protection) -> Result<(), Errno>;

    /// Reads `data.len()` bytes at `at`.
    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes `data` at `at`.
    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno>;

    /// Lets the kernel see memory of this program that was not allocated here, reached through
    /// `memory`. The running kernel sees all of it; a model takes whole pages of its own size
    /// (EINVAL), where nothing else is (EEXIST), and again what it has.
    fn lend(&self, _range: UserRange, _memory: Arc<dyn LentMemory>) -> Result<(), Errno> {
        Ok(())
    }
}

/// A process, distinguished from its parent and its children.
///
/// After `fork` the child has a copy of every object, and its files are the parent's files.
/// Dropping a copy must not take a device off the bus, unmap or unregister: all of that is still
/// the parent's. So objects whose end calls the kernel remember the process that made them, and in
/// another one they only close files and free memory.
///
/// Not its number: a child in a namespace of its own may have the number of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u64);

impl Process {
    /// Returns the process that runs this.
    pub(crate) fn current() -> Self {
        /// Zero in a process that has not been here yet: its parent's number does not come along.
        static MARK: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
        /// The last number given out to this process or one it descends from.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let Some(mark) = MARK.get_or_init(wiped_on_fork) else {
            // The kernel is older than Linux 4.14, or an emulator: the process's number must do.
            return Self(std::process::id().into());
        };
        match mark.load(Ordering::Relaxed) {
            0 => {
                let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                let result = mark.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
                // Another thread may have been faster.
                Self(result.err().unwrap_or(new))
            }
            number => Self(number),
        }
    }

    /// Returns whether this process is the one that runs this.
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself_in_every_thread() {
        let here = Process::current();
        assert!(here.is_current());
        assert!(std::thread::spawn(move || here.is_current()).join().unwrap());
    }
}
