//! A container and raw calls on it, with the kernel's results as they are, positive ones included.

use crate::fixture::Fixture;
use spapr_iommu::addr::{UserAddr, UserRange};
use spapr_iommu::host::{Call, Errno, Fd, Host, Node};
use spapr_iommu::uapi::{spapr, vfio};
use spapr_iommu_cli::scenario::raw;
use spapr_iommu_tests::by_address::RunCall;
use std::cell::RefCell;

pub(crate) type Outcome = Result<i32, Errno>;

pub(crate) const READ: u32 = vfio::DMA_MAP_FLAG_READ;
pub(crate) const WRITE: u32 = vfio::DMA_MAP_FLAG_WRITE;

/// Closed when dropped: devices, groups, container.
pub(crate) struct Raw<'g> {
    fixture: &'g Fixture,
    pub(crate) fd: Fd,
    /// Files of groups and devices, by the group's place.
    files: RefCell<Vec<(usize, Fd)>>,
    devices: RefCell<Vec<Fd>>,
}

impl<'g> Raw<'g> {
    pub(crate) fn open(fixture: &'g Fixture) -> Self {
        let fd = fixture.kernel.open(Node::Container).unwrap();
        Self { fixture, fd, files: RefCell::default(), devices: RefCell::default() }
    }

    pub(crate) fn on(&self, fd: Fd, mut call: Call) -> Outcome {
        self.fixture.kernel.run_call(fd, &mut call)
    }

    pub(crate) fn call(&self, call: Call) -> Outcome {
        self.on(self.fd, call)
    }

    /// Makes a call, and returns the kernel's answer.
    pub(crate) fn answer(&self, mut call: Call) -> Result<(i32, Call), Errno> {
        let result = self.fixture.kernel.run_call(self.fd, &mut call)?;
        Ok((result, call))
    }

    /// Returns the file of a group, which is opened the first time.
    pub(crate) fn group(&self, place: usize) -> Fd {
        let known = self.files.borrow().iter().find(|(group, _)| *group == place).map(|(_, fd)| *fd);
        known.unwrap_or_else(|| {
            let fd = self.fixture.kernel.open(Node::Group(self.fixture.groups[place].0)).unwrap();
            self.files.borrow_mut().push((place, fd));
            fd
        })
    }

    /// SET_CONTAINER of a group.
    pub(crate) fn attach(&self, place: usize) -> Outcome {
        self.on(self.group(place), Call::GroupSetContainer(self.fd))
    }

    /// UNSET_CONTAINER of a group.
    pub(crate) fn detach(&self, place: usize) -> Outcome {
        self.on(self.group(place), Call::GroupUnsetContainer)
    }

    /// Closes the file of a group.
    pub(crate) fn close_group(&self, place: usize) {
        self.files.borrow_mut().retain(|(group, fd)| {
            if *group == place {
                self.fixture.kernel.close(*fd);
            }
            *group != place
        });
    }

    /// Opens the device of a group. Closing it resets it, which takes seconds on powernv.
    pub(crate) fn device(&self, place: usize) -> Result<Fd, Errno> {
        let node = Node::Device { group: self.group(place), name: &self.fixture.groups[place].1 };
        let fd = self.fixture.kernel.open(node)?;
        self.devices.borrow_mut().push(fd);
        Ok(fd)
    }

    /// Closes the devices.
    pub(crate) fn close_devices(&self) {
        self.devices.borrow_mut().drain(..).for_each(|fd| self.fixture.kernel.close(fd));
    }

    /// Has the device read at one bus address and write the data at another, at most 4 KiB.
    pub(crate) fn dma(&self, device: Fd, from: u64, to: u64, len: u64) {
        raw::dma(&*self.fixture.kernel, device, from, to, len).unwrap();
    }

    pub(crate) fn set_iommu(&self, kind: u32) -> Outcome {
        self.call(Call::SetIommu(kind))
    }

    pub(crate) fn info(&self) -> Result<spapr::TceInfo, Errno> {
        let args = spapr::TceInfo { argsz: 32, ..Default::default() };
        match self.answer(Call::TceGetInfo(args))? {
            (0, Call::TceGetInfo(info)) => Ok(info),
            other => panic!("GET_INFO: {other:?}"),
        }
    }

    pub(crate) fn register(&self, range: UserRange) -> Outcome {
        self.register_at(range.start().0, range.len())
    }

    pub(crate) fn register_at(&self, vaddr: u64, size: u64) -> Outcome {
        self.call(Call::RegisterMemory(spapr::RegisterMemory { argsz: 24, flags: 0, vaddr, size }))
    }

    pub(crate) fn unregister(&self, range: UserRange) -> Outcome {
        self.unregister_at(range.start().0, range.len())
    }

    pub(crate) fn unregister_at(&self, vaddr: u64, size: u64) -> Outcome {
        self.call(Call::UnregisterMemory(spapr::RegisterMemory { argsz: 24, flags: 0, vaddr, size }))
    }

    /// Returns memory that this container registered.
    pub(crate) fn registered(&self, size: u64) -> UserRange {
        let range = self.fixture.memory(size);
        assert_eq!(self.register(range), Ok(0));
        range
    }

    /// Unregisters memory that no TCE points into, so that the kernel returns the pages.
    #[track_caller]
    pub(crate) fn gives_back(&self, range: UserRange) {
        let (result, cost) = self.fixture.cost(|| self.unregister(range));
        assert_eq!((result, cost), (Ok(0), -range.len().cast_signed()), "{range} is still mapped, or never was there");
    }

    pub(crate) fn map(&self, user: UserAddr, iova: u64, size: u64) -> Outcome {
        self.map_for(READ | WRITE, user, iova, size)
    }

    pub(crate) fn map_for(&self, flags: u32, user: UserAddr, iova: u64, size: u64) -> Outcome {
        self.call(Call::MapDma(vfio::DmaMap { argsz: 32, flags, vaddr: user.0, iova, size }))
    }

    pub(crate) fn unmap(&self, iova: u64, size: u64) -> Outcome {
        self.call(Call::UnmapDma(vfio::DmaUnmap { argsz: 24, flags: 0, iova, size }))
    }

    /// Returns where the window starts.
    pub(crate) fn create(&self, page_shift: u32, window_size: u64, levels: u32) -> Result<u64, Errno> {
        let args = spapr::TceCreate { argsz: 40, page_shift, window_size, levels, ..Default::default() };
        match self.answer(Call::TceCreate(args))? {
            (0, Call::TceCreate(args)) => Ok(args.start_addr),
            other => panic!("CREATE: {other:?}"),
        }
    }

    pub(crate) fn remove(&self, start_addr: u64) -> Outcome {
        self.call(Call::TceRemove(spapr::TceRemove { argsz: 16, flags: 0, start_addr }))
    }

    /// Returns the contents of a model's table: bus address, bytes, user address. `None` on the
    /// running kernel.
    pub(crate) fn entries(&self, slot: usize) -> Option<Vec<(u64, u64, u64)>> {
        let mut found = None;
        self.fixture.on_model(|model| {
            let tables = model.tables(self.fd);
            let entries = tables.get(slot).map(|table| table.entries.clone()).unwrap_or_default();
            found = Some(entries.iter().map(|entry| (entry.iova.start().0, entry.iova.len(), entry.user.0)).collect());
        });
        found
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        self.close_devices();
        self.files.borrow().iter().for_each(|(_, fd)| self.fixture.kernel.close(*fd));
        self.fixture.kernel.close(self.fd);
    }
}
