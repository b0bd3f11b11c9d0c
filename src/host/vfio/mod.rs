//! The running kernel as a host.
//!
//! [`Vfio`] opens `/dev/vfio` and runs ioctls on it. The `unsafe` code is in three files, one kind
//! in each: `ioctl`, `region` and `memory`. Everything read from `/proc` and `/sys` is read under
//! `Roots`, so that tests run on their own trees.

pub mod bind;

mod facts;
mod files;
mod ioctl;
mod memory;
mod mounts;
mod obstacle;
mod region;
mod roots;
mod smaps;
mod sysfs;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use super::calls::{self, Failure};
use super::memory::Protection;
use super::{Call, Errno, Extent, Fd, GroupFacts, Host, Memlock, Memory, Node, Obstacle, Platform, Region, Shared};
use crate::addr::{PageShift, UserAddr, UserRange};
use crate::uapi::vfio::IrqSet;
use files::{Files, Kind};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use obstacle::Asked;
use roots::Roots;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// The running kernel as a host, and as a source of memory.
///
/// Dropping it closes its files and frees its memory. A [`Region`] keeps its device open beyond
/// that, and beyond [`Host::close`].
#[derive(Debug, Default)]
pub struct Vfio {
    // Dropped in this order: the kernel releases memory before it is unmapped.
    files: Files,
    memory: memory::ProcessMemory,
    roots: Roots,
}

impl Vfio {
    /// Creates the host. Opens nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
}

fn open_node(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
}

impl Host for Vfio {
    fn open(&self, node: Node<'_>) -> Result<Fd, Errno> {
        let (file, kind) = match node {
            Node::Container => (open_node(&self.roots.container())?, Kind::Container),
            Node::Group(number) => (open_node(&self.roots.group(number))?, Kind::Group(number)),
            Node::Device { group, name } => (ioctl::device(&*self.files.get(group)?, name)?, Kind::Device),
        };
        self.files.insert(file, kind)
    }

    fn close(&self, fd: Fd) {
        self.files.remove(fd);
    }

    fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        ioctl::run(&self.files, &*self.files.get(fd)?, call)
    }

    fn set_irqs(&self, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno> {
        ioctl::set_irqs(&*self.files.get(device)?, set, eventfds)
    }

    fn region(&self, device: Fd, index: u32) -> Result<Box<dyn Region>, Errno> {
        let info = calls::device_region_info(self, device, index).map_err(|error| match error.failure {
            Failure::Errno(errno) => errno,
            Failure::Positive(_) => Errno::EIO,
        })?;
        region::open(self.files.get(device)?, &info)
    }

    fn file(&self, fd: Fd) -> Option<OwnedFd> {
        self.files.get(fd).ok()?.file.try_clone().ok()
    }

    fn platform(&self) -> Option<Platform> {
        facts::platform(&self.roots)
    }

    fn page_shift(&self) -> PageShift {
        facts::page_shift()
    }

    fn available_memory(&self) -> Option<u64> {
        facts::available_memory(&self.roots)
    }

    fn memlock(&self) -> Result<Memlock, Errno> {
        facts::memlock(&self.roots)
    }

    fn backing(&self, range: UserRange) -> Result<Vec<Extent>, Errno> {
        smaps::backing(&self.roots, range)
    }

    fn share(&self, size: u64, page: PageShift) -> Result<Shared, Errno> {
        Shared::anonymous(size, page, self.page_shift(), page.max(PageShift::P64K))
    }

    fn groups(&self) -> Vec<GroupFacts> {
        sysfs::groups(&self.roots)
    }

    fn obstacle(&self, node: Node<'_>) -> Option<Obstacle> {
        let asked = match node {
            Node::Container => Asked::Container,
            Node::Group(number) => Asked::Group { number, ours: self.files.has_group(number) },
            Node::Device { group, name } => match self.files.get(group).ok()?.kind {
                Kind::Group(group) => Asked::Device { group, name },
                Kind::Container | Kind::Device => return None,
            },
        };
        obstacle::find(&self.roots, &asked, |path| open_node(path).map(drop))
    }
}

impl Memory for Vfio {
    fn allocate(&self, size: u64, page: PageShift) -> Result<UserRange, Errno> {
        self.memory.allocate(size, page)
    }

    fn free(&self, range: UserRange) -> Result<(), Errno> {
        self.memory.free(range)
    }

    fn protect(&self, range: UserRange, protection: Protection) -> Result<(), Errno> {
        self.memory.protect(range, protection)
    }

    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno> {
        self.memory.read(at, data)
    }

    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno> {
        self.memory.write(at, data)
    }
}
