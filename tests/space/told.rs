//! A host that tells of memory what it is told to tell.

use spapr_iommu::addr::{PageShift, UserRange};
use spapr_iommu::host::{Call, Errno, Extent, Fd, GroupFacts, Host, Memlock, Node, Obstacle, Platform, Region, Shared};
use spapr_iommu::uapi::vfio::IrqSet;
use spapr_iommu_tests::by_address::RunCall;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) host: Arc<dyn Host>,
    /// So many looks at locked memory show no limit.
    pub(crate) blind: AtomicU64,
    /// The next creation of a window finds no memory for its table, and leaks so many bytes.
    pub(crate) leaks: AtomicU64,
    /// What was leaked.
    pub(crate) leaked: AtomicU64,
    /// Bytes the machine has to spare.
    pub(crate) available: AtomicU64,
    /// How long a look at locked memory takes.
    pub(crate) takes: Duration,
}

impl Told {
    pub(crate) fn new(host: Arc<dyn Host>) -> Self {
        Self {
            host,
            blind: AtomicU64::new(0),
            leaks: AtomicU64::new(0),
            leaked: AtomicU64::new(0),
            available: AtomicU64::new(1 << 40),
            takes: Duration::ZERO,
        }
    }
}

impl Host for Told {
    fn memlock(&self) -> Result<Memlock, Errno> {
        let memlock = self.host.memlock()?;
        std::thread::sleep(self.takes);
        let less = |looks: u64| looks.checked_sub(1);
        let blind = self.blind.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        let locked = memlock.locked + self.leaked.load(Ordering::Relaxed);
        Ok(Memlock { locked, limit: memlock.limit.filter(|_| !blind), ..memlock })
    }
    fn available_memory(&self) -> Option<u64> {
        Some(self.available.load(Ordering::Relaxed))
    }
    fn open(&self, node: Node<'_>) -> Result<Fd, Errno> {
        self.host.open(node)
    }
    fn close(&self, fd: Fd) {
        self.host.close(fd);
    }
    unsafe fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        if let Call::TceCreate(_) = call
            && let leaks @ 1.. = self.leaks.swap(0, Ordering::Relaxed)
        {
            self.leaked.fetch_add(leaks, Ordering::Relaxed);
            return Err(Errno::ENOMEM);
        }
        self.host.run_call(fd, call)
    }
    fn set_irqs(&self, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno> {
        self.host.set_irqs(device, set, eventfds)
    }
    fn region(&self, device: Fd, index: u32) -> Result<Box<dyn Region>, Errno> {
        self.host.region(device, index)
    }
    fn platform(&self) -> Option<Platform> {
        self.host.platform()
    }
    fn page_shift(&self) -> PageShift {
        self.host.page_shift()
    }
    fn backing(&self, range: UserRange) -> Result<Vec<Extent>, Errno> {
        self.host.backing(range)
    }
    fn groups(&self) -> Vec<GroupFacts> {
        self.host.groups()
    }
    fn share(&self, size: u64, page: PageShift) -> Result<Shared, Errno> {
        self.host.share(size, page)
    }
    fn obstacle(&self, node: Node<'_>) -> Option<Obstacle> {
        self.host.obstacle(node)
    }
}
