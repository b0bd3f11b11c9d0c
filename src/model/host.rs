//! Implements [`Host`] and [`Memory`] for the model.

use super::Model;
use super::device::DeviceRegion;
use super::group::Group;
use super::vfio::File;
use crate::addr::{PageShift, UserAddr, UserRange};
use crate::host::{
    Call, Errno, Extent, Fd, GroupFacts, Host, Memlock, Memory, Node, Obstacle, Platform, Region, Shared,
};
use crate::host::{LentMemory, Protection};
use crate::pci;
use crate::uapi::vfio::IrqSet;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

impl Host for Model {
    fn open(&self, node: Node<'_>) -> Result<Fd, Errno> {
        self.lock().open(node)
    }

    fn close(&self, fd: Fd) {
        self.run(|state| state.close(fd));
    }

    #[allow(unsafe_code, reason = "user addresses pass through")]
    unsafe fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        self.run(|state| state.call(fd, call))
    }

    fn set_irqs(&self, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno> {
        self.run(|state| state.set_irqs(device, &set, eventfds))
    }

    fn region(&self, device: Fd, index: u32) -> Result<Box<dyn Region>, Errno> {
        Ok(Box::new(DeviceRegion::open(&self.state, device, index)?))
    }

    fn platform(&self) -> Option<Platform> {
        Some(self.lock().kernel.preset.platform())
    }

    fn page_shift(&self) -> PageShift {
        self.lock().kernel.process.page
    }

    /// The model's memory is unlimited.
    fn available_memory(&self) -> Option<u64> {
        None
    }

    fn memlock(&self) -> Result<Memlock, Errno> {
        Ok(self.lock().kernel.process.locked.view())
    }

    fn backing(&self, range: UserRange) -> Result<Vec<Extent>, Errno> {
        Ok(self.lock().kernel.process.backing(range.start().0..range.end().0))
    }

    fn share(&self, size: u64, page: PageShift) -> Result<Shared, Errno> {
        let mut state = self.lock();
        let process = &mut state.kernel.process;
        if page < process.page || size == 0 || size & page.mask() != 0 {
            return Err(Errno::EINVAL);
        }
        let memory = Shared::heap(size, page.max(PageShift::P64K))?;
        process.adopt(&memory, page)?;
        Ok(memory)
    }

    fn adopt(&self, memory: &Shared) -> Result<(), Errno> {
        let process = &mut self.lock().kernel.process;
        let page = process.page;
        process.adopt(memory, page)
    }

    fn disown(&self, memory: &Shared) {
        let range = memory.range().start().0..memory.range().end().0;
        let mut state = self.lock();
        let held = state.kernel.regions.held(&range);
        state.kernel.process.disown(range, &held);
    }

    fn groups(&self) -> Vec<GroupFacts> {
        self.lock().kernel.groups.values().map(|group| group.facts()).collect()
    }

    fn obstacle(&self, node: Node<'_>) -> Option<Obstacle> {
        let state = self.lock();
        let groups = &state.kernel.groups;
        match node {
            Node::Container => None,
            Node::Group(number) => match groups.get(&number.0) {
                None => Some(Obstacle::NoGroup {
                    group: number,
                    device: None,
                    present: groups.keys().copied().map(pci::Group).collect(),
                }),
                Some(group) => {
                    not_viable(group).or_else(|| (group.files != 0).then_some(Obstacle::Busy { group: number }))
                }
            },
            Node::Device { group, name } => {
                let File::Group(number) = state.file(group).ok()? else { return None };
                let group = groups.get(&number)?;
                let devices: Vec<_> = group.facts().devices.into_iter().map(|device| device.address).collect();
                let missing =
                    || Obstacle::NoDevice { group: pci::Group(number), device: name.into(), devices: devices.clone() };
                not_viable(group).or_else(|| (!devices.iter().any(|device| device == name)).then(missing))
            }
        }
    }
}

fn not_viable(group: &Group) -> Option<Obstacle> {
    let (device, driver) = group.host_driver()?;
    Some(Obstacle::NotViable { group: pci::Group(group.number), device: device.into(), driver: driver.into() })
}

impl Memory for Model {
    fn allocate(&self, size: u64, page: PageShift) -> Result<UserRange, Errno> {
        self.lock().kernel.process.allocate(size, page)
    }

    fn free(&self, range: UserRange) -> Result<(), Errno> {
        let range = range.start().0..range.end().0;
        let mut state = self.lock();
        let held = state.kernel.regions.held(&range);
        state.kernel.process.free(range, &held)
    }

    fn protect(&self, range: UserRange, protection: Protection) -> Result<(), Errno> {
        self.lock().kernel.process.protect(range.start().0..range.end().0, protection)
    }

    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno> {
        self.lock().kernel.process.read(at, data)
    }

    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno> {
        self.lock().kernel.process.write(at, data)
    }

    fn lend(&self, range: UserRange, memory: Arc<dyn LentMemory>) -> Result<(), Errno> {
        self.lock().kernel.process.lend(range, memory)
    }
}
