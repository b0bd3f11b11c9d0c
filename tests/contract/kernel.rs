//! The kernel on which a rule is shown, the running one or a model, and a limit of locked memory
//! there.

use crate::fixture::Fixture;
use spapr_iommu::addr::{PageShift, UserRange};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{
    Call, Errno, Extent, Fd, GroupFacts, Host, Memlock, Memory, Node, Obstacle, Platform, Region, Shared,
};
use spapr_iommu::model::Model;
use spapr_iommu::uapi::vfio::IrqSet;
use spapr_iommu_tests::by_address::RunCall;
use spapr_iommu_tests::machine::RealLimit;
use std::os::fd::BorrowedFd;

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub(crate) enum Kernel {
    Running(Vfio),
    Model(Model),
}

impl Kernel {
    fn host(&self) -> &dyn Host {
        match self {
            Self::Running(vfio) => vfio,
            Self::Model(model) => model,
        }
    }

    pub(crate) fn memory(&self) -> &dyn Memory {
        match self {
            Self::Running(vfio) => vfio,
            Self::Model(model) => model,
        }
    }

    pub(crate) fn model(&self) -> Option<&Model> {
        match self {
            Self::Running(_) => None,
            Self::Model(model) => Some(model),
        }
    }
}

impl Host for Kernel {
    fn open(&self, node: Node<'_>) -> Result<Fd, Errno> {
        self.host().open(node)
    }
    fn close(&self, fd: Fd) {
        self.host().close(fd);
    }
    unsafe fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        self.host().run_call(fd, call)
    }
    fn set_irqs(&self, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno> {
        self.host().set_irqs(device, set, eventfds)
    }
    fn region(&self, device: Fd, index: u32) -> Result<Box<dyn Region>, Errno> {
        self.host().region(device, index)
    }
    fn platform(&self) -> Option<Platform> {
        self.host().platform()
    }
    fn page_shift(&self) -> PageShift {
        self.host().page_shift()
    }
    fn memlock(&self) -> Result<Memlock, Errno> {
        self.host().memlock()
    }
    fn available_memory(&self) -> Option<u64> {
        self.host().available_memory()
    }
    fn backing(&self, range: UserRange) -> Result<Vec<Extent>, Errno> {
        self.host().backing(range)
    }
    fn groups(&self) -> Vec<GroupFacts> {
        self.host().groups()
    }
    fn share(&self, size: u64, page: PageShift) -> Result<Shared, Errno> {
        self.host().share(size, page)
    }
    fn obstacle(&self, node: Node<'_>) -> Option<Obstacle> {
        self.host().obstacle(node)
    }
}

/// Holds until it is dropped.
pub(crate) struct Limit<'g> {
    fixture: &'g Fixture,
    _real: Option<RealLimit>,
}

impl<'g> Limit<'g> {
    /// Allows `room` more bytes to be locked than are locked now.
    pub(crate) fn new(fixture: &'g Fixture, room: u64) -> Self {
        let most = fixture.kernel.memlock().unwrap().locked + room;
        fixture.on_model(|model| model.set_memlock(Some(most), false));
        let real = (!fixture.is_model()).then(|| RealLimit::new(most).unwrap());
        Self { fixture, _real: real }
    }
}

impl Drop for Limit<'_> {
    fn drop(&mut self) {
        self.fixture.on_model(|model| model.set_memlock(None, true));
    }
}
