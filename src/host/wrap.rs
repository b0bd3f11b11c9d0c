//! Wrappers around a host: they forward everything they do not override.

use super::{
    Call, Errno, Extent, Fd, GroupFacts, Host, MappedArea, Memlock, Node, Obstacle, Platform, Region, RegionArea,
    Shared,
};
use crate::addr::{PageShift, UserRange};
use crate::uapi::vfio::IrqSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A host around another one, which may change calls and nothing else.
pub trait Wrapper: Send + Sync + core::fmt::Debug {
    /// The type of the host inside.
    type Inner: Host + ?Sized;

    /// Returns the host inside.
    fn inner(&self) -> &Self::Inner;

    /// Runs a call, or does something else instead.
    ///
    /// # Safety
    /// As for [`Host::call`].
    #[allow(unsafe_code, reason = "user addresses enter here")]
    unsafe fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno>;
}

/// A host shared by several owners.
impl<H: Host + ?Sized> Wrapper for Arc<H> {
    type Inner = H;

    fn inner(&self) -> &H {
        self
    }

    #[allow(unsafe_code, reason = "user addresses pass through")]
    unsafe fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner().call(fd, call) }
    }
}

impl<W: Wrapper> Host for W {
    fn open(&self, node: Node<'_>) -> Result<Fd, Errno> {
        self.inner().open(node)
    }
    fn close(&self, fd: Fd) {
        self.inner().close(fd);
    }
    #[allow(unsafe_code, reason = "user addresses pass through")]
    unsafe fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.wrapped_call(fd, call) }
    }
    fn set_irqs(&self, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno> {
        self.inner().set_irqs(device, set, eventfds)
    }
    fn region(&self, device: Fd, index: u32) -> Result<Box<dyn Region>, Errno> {
        self.inner().region(device, index)
    }
    fn areas(&self, device: Fd, index: u32) -> Result<Vec<RegionArea>, Errno> {
        self.inner().areas(device, index)
    }
    fn map_area(&self, device: Fd, index: u32, area: RegionArea) -> Result<MappedArea, Errno> {
        self.inner().map_area(device, index, area)
    }
    fn file(&self, fd: Fd) -> Option<OwnedFd> {
        self.inner().file(fd)
    }
    fn platform(&self) -> Option<Platform> {
        self.inner().platform()
    }
    fn page_shift(&self) -> PageShift {
        self.inner().page_shift()
    }
    fn memlock(&self) -> Result<Memlock, Errno> {
        self.inner().memlock()
    }
    fn available_memory(&self) -> Option<u64> {
        self.inner().available_memory()
    }
    fn backing(&self, range: UserRange) -> Result<Vec<Extent>, Errno> {
        self.inner().backing(range)
    }
    fn groups(&self) -> Vec<GroupFacts> {
        self.inner().groups()
    }
    fn share(&self, size: u64, page: PageShift) -> Result<Shared, Errno> {
        self.inner().share(size, page)
    }
    fn adopt(&self, memory: &Shared) -> Result<(), Errno> {
        self.inner().adopt(memory)
    }
    fn disown(&self, memory: &Shared) {
        self.inner().disown(memory);
    }
    fn obstacle(&self, node: Node<'_>) -> Option<Obstacle> {
        self.inner().obstacle(node)
    }
}
