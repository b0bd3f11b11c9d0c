//! The model as a [`Host`] and as [`Memory`].

use super::Model;
use super::device::DeviceRegion;
use crate::addr::{PageShift, UserAddr, UserRange};
use crate::host::memory::Protection;
use crate::host::{Call, Errno, Extent, Fd, GroupFacts, Host, Memlock, Memory, Node, Obstacle, Platform, Region};

impl Host for Model {
    fn open(&self, node: Node<'_>) -> Result<Fd, Errno> {
        self.lock().open(node)
    }

    fn close(&self, fd: Fd) {
        self.run(|state| state.close(fd));
    }

    fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        self.run(|state| state.call(fd, call))
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

    fn memlock(&self) -> Result<Memlock, Errno> {
        Ok(self.lock().kernel.process.locked.view())
    }

    fn backing(&self, range: UserRange) -> Result<Vec<Extent>, Errno> {
        Ok(self.lock().kernel.process.backing(range.start().0..range.end().0))
    }

    fn groups(&self) -> Vec<GroupFacts> {
        self.lock().kernel.groups.values().map(|group| group.facts()).collect()
    }

    fn obstacle(&self, node: Node<'_>) -> Option<Obstacle> {
        let Node::Group(number) = node else { return None };
        let state = self.lock();
        let groups = &state.kernel.groups;
        let Some(group) = groups.get(&number) else {
            return Some(Obstacle::NoGroup { group: number, present: groups.keys().copied().collect() });
        };
        if let Some((device, driver)) = group.host_driver() {
            return Some(Obstacle::NotViable { group: number, device: device.into(), driver: driver.into() });
        }
        (group.files != 0).then_some(Obstacle::Busy { group: number })
    }
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
}
