//! The model against the kernel's rules, one test per rule, on a machine with a container and short
//! names for its calls; and any call with any numbers in any order, where the model must answer and
//! its counts must balance.

mod core_calls;
mod device;
mod groups;
mod mapping;
mod memory;
mod registration;
mod twin;
mod windows;

use proptest::prelude::*;
use spapr_iommu::Group;
use spapr_iommu::addr::{PageShift, UserAddr, UserRange};
use spapr_iommu::host::{Call, Errno, Fd, Host, Memory, Node};
use spapr_iommu::model::{Model, Violation};
use spapr_iommu::uapi::{spapr, vfio};
use spapr_iommu_tests::by_address::RunCall;
use spapr_iommu_tests::fuzz::raw::Calls;

pub(crate) type Outcome = Result<i32, Errno>;

pub(crate) const OK: Outcome = Ok(0);
/// Start of powernv's second window, and of pseries' dynamic one.
pub(crate) const HIGH: u64 = 1 << 59;
pub(crate) const RW: u32 = 3;

pub(crate) struct Fixture {
    pub(crate) model: Model,
    pub(crate) container: Fd,
    pub(crate) groups: Vec<Fd>,
}

pub(crate) fn model(preset: &str) -> Model {
    Model::new(preset.parse().unwrap())
}

/// A v2 container with group 0.
pub(crate) fn fixture(preset: &str) -> Fixture {
    Fixture::on(model(preset), &[0], spapr::TCE_V2_IOMMU)
}

impl Fixture {
    pub(crate) fn on(model: Model, groups: &[u32], kind: u32) -> Self {
        let container = model.open(Node::Container).unwrap();
        let mut fixture = Self { model, container, groups: Vec::new() };
        for group in groups {
            let fd = fixture.model.open(Node::Group(Group(*group))).unwrap();
            assert_eq!(fixture.on_fd(fd, Call::GroupSetContainer(container)), OK);
            fixture.groups.push(fd);
        }
        assert_eq!(fixture.call(Call::SetIommu(kind)), OK);
        fixture
    }

    pub(crate) fn on_fd(&self, fd: Fd, mut call: Call) -> Outcome {
        self.model.run_call(fd, &mut call)
    }

    pub(crate) fn call(&self, call: Call) -> Outcome {
        self.on_fd(self.container, call)
    }

    pub(crate) fn memory(&self, size: u64) -> UserRange {
        self.model.allocate(size, self.model.page_shift()).unwrap()
    }

    pub(crate) fn registered(&self, size: u64) -> UserRange {
        let memory = self.memory(size);
        assert_eq!(self.register(memory), OK);
        memory
    }

    pub(crate) fn register(&self, range: UserRange) -> Outcome {
        self.call(Call::RegisterMemory(register(range.start().0, range.len())))
    }

    pub(crate) fn unregister(&self, range: UserRange) -> Outcome {
        self.call(Call::UnregisterMemory(register(range.start().0, range.len())))
    }

    pub(crate) fn map(&self, user: UserAddr, iova: u64, size: u64) -> Outcome {
        self.call(Call::MapDma(vfio::DmaMap { argsz: 32, flags: RW, vaddr: user.0, iova, size }))
    }

    pub(crate) fn unmap(&self, iova: u64, size: u64) -> Outcome {
        self.call(Call::UnmapDma(vfio::DmaUnmap { argsz: 24, flags: 0, iova, size }))
    }

    pub(crate) fn create(&self, page_shift: u32, window_size: u64, levels: u32) -> Result<u64, Errno> {
        let args = spapr::TceCreate { argsz: 40, page_shift, window_size, levels, ..Default::default() };
        let mut call = Call::TceCreate(args);
        assert_eq!(self.model.run_call(self.container, &mut call)?, 0);
        match call {
            Call::TceCreate(args) => Ok(args.start_addr),
            _ => unreachable!(),
        }
    }

    pub(crate) fn remove(&self, start_addr: u64) -> Outcome {
        self.call(Call::TceRemove(spapr::TceRemove { argsz: 16, flags: 0, start_addr }))
    }

    /// Returns the live runs of a slot: bus address, bytes, user address.
    pub(crate) fn entries(&self, slot: usize) -> Vec<(u64, u64, u64)> {
        let tables = self.model.tables(self.container);
        let entries = tables.get(slot).map(|table| table.entries.clone()).unwrap_or_default();
        entries.iter().map(|entry| (entry.iova.start().0, entry.iova.len(), entry.user.0)).collect()
    }

    pub(crate) fn mapped(&self, range: UserRange) -> u64 {
        self.model.regions().iter().find(|region| region.range == range).unwrap().mapped
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.model.violations()
    }

    pub(crate) fn close_all(&self) {
        self.model.close(self.container);
        self.groups.iter().for_each(|group| self.model.close(*group));
    }
}

pub(crate) fn register(vaddr: u64, size: u64) -> spapr::RegisterMemory {
    spapr::RegisterMemory { argsz: 24, flags: 0, vaddr, size }
}

pub(crate) fn at(range: UserRange, offset: u64) -> UserAddr {
    UserAddr(range.start().0 + offset)
}

pub(crate) fn user(start: u64, len: u64) -> UserRange {
    UserRange::new(UserAddr(start), len).unwrap()
}

pub(crate) fn page(shift: u32) -> PageShift {
    PageShift::new(shift).unwrap()
}

fn calls() -> impl Strategy<Value = Calls> {
    prop::collection::vec(any::<u8>(), 0..1200).prop_map(|bytes| Calls::decode(&bytes).unwrap())
}

proptest! {
    #[test]
    fn any_call_is_answered_and_what_stays_locked_is_accounted_for(calls in calls()) {
        calls.run();
    }
}
