//! Memory for devices, for user-space drivers.
//!
//! A [`Dma`] opens devices by their PCI address and makes [`Buffer`]s that they see: registered,
//! mapped in the best window all of them reach, unmapped and freed when dropped, in any order.
//! A [`Pool`] hands out blocks of one buffer without calling the kernel; [`DmaMemory`] is
//! registered once and mapped transfer by transfer, alone or as a scatter list
//! ([`DmaMemory::map_parts`]), and may be a file; a slice can be lent for a while
//! ([`Dma::with_slice`]).
//!
//! All of it has an address, for calls that fill or drain it without a copy ([`Buffer::as_ptr`]):
//! `read`, `writev`, io_uring's, or the traits of `vm-memory`. A device may change the bytes at any
//! moment, so no reference to them may be made, not even for a moment: give the pointer to the
//! kernel, or access it with [`core::ptr::read_volatile`] and [`core::ptr::write_volatile`].
//!
//! ```
//! use spapr_iommu::dma::{Dma, DmaMask};
//! use spapr_iommu::model::Model;
//! use spapr_iommu::permission::Permission;
//! use std::sync::Arc;
//!
//! let dma = Dma::new(Arc::new(Model::new("powernv9-64k".parse()?)));
//! let device = dma.open("0000:00:00.0".parse()?, DmaMask::ALL)?;
//! let ring = dma.buffer::<u64>(512, Permission::ReadWrite)?;
//! // The address to program into the device.
//! assert_eq!(ring.iova().0, 1 << 59);
//! // A device with fewer bits gets the default window.
//! let old = dma.open("0001:00:00.0".parse()?, DmaMask::bits(32).ok_or("1 to 64 bits")?)?;
//! let low = dma.buffer::<u64>(512, Permission::ReadWrite)?;
//! assert!(low.iova_range().end().0 <= 1 << 32);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Windows
//! A device that reaches the dynamic window gets memory there. The window has
//! [`DmaConfig::capacity`] bytes and is created for the first such device; it is sized to need,
//! since removing a window costs time for each entry. Its pages are the host's, or those of hugetlb
//! if the process gets such memory. Devices with fewer address bits get the default window.

mod arena;
mod buffer;
mod error;
mod iova;
mod mapped;
mod open;
mod part;
mod pool;
mod registered;
mod scatter;
mod stream;

pub use arena::DmaMask;
pub use buffer::{Buffer, Pod};
pub use error::{DmaError, NotReleased, OutOfBounds, ReleaseRefusal};
pub use iova::{IovaSpan, Iovas};
pub use open::OpenError;
pub use pool::{Block, Pool};
pub use scatter::{MemoryPart, ScatterMap};
pub use stream::{AlignedBytes, DmaMemory, StreamMap};

use crate::addr::PageShift;
use crate::host::{Host, Process};
use crate::registry::Registry;
use crate::space::AddressSpace;
use arena::{Arenas, IovaAllocation, WindowKind};
use arrayvec::ArrayVec;
use core::fmt;
use open::{DeviceEntry, Devices};
use parking_lot::{Mutex, MutexGuard};
use part::Pages;
use std::sync::Arc;

/// Configuration of memory for devices: [`DmaConfig::default`], then what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DmaConfig {
    /// Bytes of the dynamic window: all that is mapped there at a time. Rounded up to a power of
    /// two. A window that cannot be had is an error when a device is opened.
    pub capacity: u64,
    /// The dynamic window's page. `None` for the largest page for which the process gets hugetlb
    /// memory, if the capacity is 64 such pages or more, otherwise the host's page.
    pub page: Option<PageShift>,
    /// Keep the default window. Without it devices with 32 address bits cannot be served, and there
    /// is less to set up and to take down: on pseries a quarter of a million entries.
    pub default_window: bool,
}

impl Default for DmaConfig {
    /// 256 MiB, the best page, and the default window.
    fn default() -> Self {
        Self { capacity: 256 << 20, page: None, default_window: true }
    }
}

impl DmaConfig {
    /// Sets the bytes of the dynamic window.
    pub fn with_capacity(self, bytes: u64) -> Self {
        Self { capacity: bytes, ..self }
    }

    /// Sets the dynamic window's page.
    pub fn with_page(self, page: PageShift) -> Self {
        Self { page: Some(page), ..self }
    }

    /// Removes the default window.
    pub fn without_default_window(self) -> Self {
        Self { default_window: false, ..self }
    }
}

/// Memory for the devices of one DMA address space. Clones share it.
#[derive(Clone)]
pub struct Dma(Arc<Inner>);

struct Inner {
    space: AddressSpace,
    config: DmaConfig,
    state: Mutex<State>,
    /// Held while a device is opened, and taken before the others.
    opening: Mutex<()>,
    /// Taken before `state`.
    pages: Mutex<Pages>,
    /// The process that created it.
    process: Process,
}

#[derive(Default)]
struct State {
    devices: Devices,
    arenas: Arenas,
}

impl Dma {
    /// Creates it on `host`, with its own registry, which must be the only one of the process.
    pub fn new<H: Host + 'static>(host: Arc<H>) -> Self {
        Self::with_registry(&Registry::new(host), DmaConfig::default())
    }

    /// Creates it with the process's existing registry.
    pub fn with_registry(registry: &Registry, config: DmaConfig) -> Self {
        let space = AddressSpace::new(registry);
        Self(Arc::new(Inner {
            space,
            config,
            state: Mutex::default(),
            opening: Mutex::default(),
            pages: Mutex::default(),
            process: Process::current(),
        }))
    }

    /// Returns the address space of the devices, to inspect it, or to map more in separate windows.
    pub fn space(&self) -> &AddressSpace {
        &self.0.space
    }

    /// Returns the configuration given at creation.
    pub fn config(&self) -> &DmaConfig {
        &self.0.config
    }

    /// Returns the windows all devices reach, best first.
    fn windows(&self) -> Result<ArrayVec<WindowKind, 2>, DmaError> {
        let mask = self.0.state.lock().devices.mask().ok_or(DmaError::NoDevice)?;
        self.reached_by(mask)
    }

    fn reached_by(&self, mask: DmaMask) -> Result<ArrayVec<WindowKind, 2>, DmaError> {
        self.0.state.lock().arenas.reached(self.space(), self.config(), mask)
    }

    fn add(&self, device: DeviceEntry) {
        self.0.state.lock().devices.add(device);
    }

    fn page_of(&self, kind: WindowKind) -> Result<PageShift, DmaError> {
        self.0.state.lock().arenas.page(kind)
    }

    fn allocate(&self, kind: WindowKind, bytes: u64) -> Result<IovaAllocation, DmaError> {
        let State { devices, arenas } = &mut *self.0.state.lock();
        arenas.allocate(kind, bytes, devices.mask().ok_or(DmaError::NoDevice)?)
    }

    fn owns(&self, allocation: &IovaAllocation) -> bool {
        self.0.state.lock().arenas.owns(allocation)
    }

    /// Drops the windows, which went with the last group, and the pages that were mapped there.
    fn forget_windows(&self) {
        *self.pages() = Pages::default();
        self.0.state.lock().arenas = Arenas::default();
    }

    fn give_back(&self, allocation: IovaAllocation) {
        self.0.state.lock().arenas.give_back(allocation);
    }

    /// Returns the address of a device that does DMA.
    fn running(&self) -> Option<String> {
        self.0.state.lock().devices.running()
    }

    /// Returns whether this process created it. In a child of `fork`, what it maps is the parent's
    /// to unmap.
    fn is_here(&self) -> bool {
        self.0.process.is_current()
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.pages.lock()
    }
}

impl fmt::Debug for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The thread that prints may hold the lock.
        match self.0.state.try_lock() {
            Some(state) => write!(f, "Dma({} devices, {:?})", state.devices.count(), state.arenas),
            None => f.write_str("Dma(busy)"),
        }
    }
}
