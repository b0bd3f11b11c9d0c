//! The running kernel as a host.
//!
//! [`Vfio`] opens `/dev/vfio` and runs ioctls on it. The `unsafe` code is in three files, one kind
//! in each: `ioctl`, `region` and `memory`. Everything read from `/proc` and `/sys` is read under
//! `Roots`, so that tests run on their own trees.

pub mod bind;

mod decode;
mod files;
mod ioctl;
mod memory;
mod obstacle;
mod region;
mod smaps;
mod sysfs;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

pub use files::GivenFiles;
pub use region::MappedArea;

use super::calls::{self, CallError, Failure};

use super::{
    Call, Errno, Extent, Fd, GroupFacts, Host, Memlock, Memory, Node, Obstacle, Platform, Protection, Region,
    RegionArea, Shared,
};
use crate::addr::{PageShift, UserAddr, UserRange};
use crate::uapi::vfio::{DEVICE_FLAGS_PCI, IrqSet, PCI_CONFIG_REGION_INDEX, RegionInfo};
use decode::{ConfigRegion, Decode};
use files::{Files, Kind, OpenFile};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use obstacle::Asked;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Weak};
use sysfs::Roots;

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
    /// Files that are used instead of opening.
    given: Mutex<GivenFiles>,
    /// Devices that are open, by name.
    devices: Mutex<BTreeMap<String, Weak<Decode>>>,
}

impl Vfio {
    /// Creates the host. Opens nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the host of a machine whose `/sys`, `/proc` and `/dev` are below `root`: a chroot's,
    /// or a copy of another machine's. The page size and the limit of locked memory remain those of
    /// this process.
    pub fn below(root: &Path) -> Self {
        Self { roots: Roots::below(root), ..Self::default() }
    }

    /// Creates the host for a process that may not open `/dev/vfio` itself, and was handed files
    /// that another process opened.
    pub fn with_files(given: GivenFiles) -> Self {
        Self { given: Mutex::new(given), ..Self::default() }
    }

    /// Opens the file of a device, with the state it shares with other files of the device.
    fn open_device(&self, group: Fd, name: &str) -> Result<OpenFile, Errno> {
        let given = self.given.lock().device(name);
        let file = given.map_or_else(|| ioctl::device(&*self.files.get(group)?, name), Ok)?;
        let mut devices = self.devices.lock();
        devices.retain(|_, decode| decode.strong_count() > 0);
        let decode = devices.get(name).and_then(Weak::upgrade).unwrap_or_default();
        devices.insert(name.to_owned(), Arc::downgrade(&decode));
        Ok(OpenFile { file, kind: Kind::Device, decode })
    }

    /// Reads the state of a PCI device's memory decode from it, once.
    fn learn(&self, fd: Fd, device: &Arc<OpenFile>) -> Result<(), Errno> {
        if calls::device_info(self, fd).map_err(errno)?.flags & DEVICE_FLAGS_PCI == 0 {
            return Ok(());
        }
        let info = calls::device_region_info(self, fd, PCI_CONFIG_REGION_INDEX).map_err(errno)?;
        device.decode.learn(region::open(Arc::clone(device), &info, &[])?.as_ref())
    }

    fn region_info(&self, device: Fd, index: u32) -> Result<RegionInfo, Errno> {
        calls::device_region_info(self, device, index).map_err(errno)
    }
}

fn errno(error: CallError) -> Errno {
    match error.failure {
        Failure::Errno(errno) => errno,
        Failure::Positive(_) | Failure::OtherCall => Errno::EIO,
    }
}

fn open_node(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
}

impl Host for Vfio {
    fn open(&self, node: Node<'_>) -> Result<Fd, Errno> {
        let (file, kind) = match node {
            Node::Container => {
                let given = self.given.lock().container();
                (given.map_or_else(|| open_node(&self.roots.container()), Ok)?, Kind::Container)
            }
            Node::Group(number) => {
                let given = self.given.lock().group(number);
                (given.map_or_else(|| open_node(&self.roots.group(number)), Ok)?, Kind::Group(number))
            }
            Node::Device { group, name } => return self.files.insert_open(self.open_device(group, name)?),
        };
        self.files.insert(file, kind)
    }

    fn close(&self, fd: Fd) {
        self.files.remove(fd);
    }

    #[allow(unsafe_code, reason = "user addresses pass through")]
    unsafe fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        ioctl::run(&self.files, &*self.files.get(fd)?, call)
    }

    fn set_irqs(&self, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno> {
        ioctl::set_irqs(&*self.files.get(device)?, set, eventfds)
    }

    fn region(&self, device: Fd, index: u32) -> Result<Box<dyn Region>, Errno> {
        let info = self.region_info(device, index)?;
        let open = self.files.get(device)?;
        self.learn(device, &open)?;
        let areas = region::areas(&ioctl::region_info(&open, index)?)?;
        let region = region::open(Arc::clone(&open), &info, &areas)?;
        // Writes to the configuration space change whether BARs answer.
        match index {
            PCI_CONFIG_REGION_INDEX => Ok(Box::new(ConfigRegion { file: region, device: open })),
            _ => Ok(region),
        }
    }

    fn areas(&self, device: Fd, index: u32) -> Result<Vec<RegionArea>, Errno> {
        region::areas(&ioctl::region_info(&*self.files.get(device)?, index)?)
    }

    fn map_area(&self, device: Fd, index: u32, area: RegionArea) -> Result<MappedArea, Errno> {
        if !self.areas(device, index)?.contains(&area) {
            return Err(Errno::EINVAL);
        }
        MappedArea::new(self.files.get(device)?, &self.region_info(device, index)?, area)
    }

    fn file(&self, fd: Fd) -> Option<OwnedFd> {
        self.files.get(fd).ok()?.file.try_clone().ok()
    }

    fn platform(&self) -> Option<Platform> {
        sysfs::platform(&self.roots)
    }

    fn page_shift(&self) -> PageShift {
        sysfs::page_shift()
    }

    fn available_memory(&self) -> Option<u64> {
        sysfs::available_memory(&self.roots)
    }

    fn memlock(&self) -> Result<Memlock, Errno> {
        sysfs::memlock(&self.roots)
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
