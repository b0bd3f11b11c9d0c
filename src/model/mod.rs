//! A kernel in process: the same calls, results and traps, on any machine and without privileges.
//!
//! A [`Model`] is one machine with one process on it. It answers as Linux does and checks in the
//! order Linux does, with the same positive results and the same silent losses; DMA of its devices
//! ([`edu`](Edu), [NVMe controllers](Nvme), [Ethernet controllers](E1000e), [a program's own](pci))
//! goes through its TCE tables. What would crash or corrupt a real machine, or lose memory until
//! reboot, is recorded as a [`Violation`].
//!
//! ```
//! use spapr_iommu::addr::PageShift;
//! use spapr_iommu::model::{Model, Preset};
//! use spapr_iommu::host::{Host, Memory, Node, calls};
//! use spapr_iommu::pci::Group;
//! use spapr_iommu::uapi::spapr::TCE_V2_IOMMU;
//!
//! let model = Model::new("powernv9".parse::<Preset>()?);
//! let container = model.open(Node::Container)?;
//! let group = model.open(Node::Group(Group(0)))?;
//! calls::group_set_container(&model, group, container)?;
//! calls::set_iommu(&model, container, TCE_V2_IOMMU)?;
//! let memory = model.allocate(1 << 20, model.page_shift())?;
//! // SAFETY: memory of the model, which is none of this process.
//! unsafe { calls::register_memory(&model, container, memory) }?;
//! assert_eq!(calls::tce_create(&model, container, PageShift::P64K, 1 << 40, 2)?.0, 1 << 59);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Locking
//! One mutex guards the whole machine. Each call, memory access or region access holds it from
//! beginning to end, so two calls never overlap, and the races of the real MAP and UNMAP, which
//! take no lock, are not modelled.
//!
//! # Not modelled
//! A second process, faulting arguments, races, fragmentation of physical memory, KVM.

mod device;
mod dma;
mod e1000e;
mod edu;
mod eeh;
mod group;
mod host;
mod irq;
mod memlock;
mod nvme;
pub mod pci;
mod physical;
mod platform;
mod preset;
mod process;
mod region;
mod spapr_tce;
mod sparse;
mod table;
mod version;
mod vfio;
mod view;
mod violation;
mod wrap;

pub use e1000e::E1000e;
pub use edu::Edu;
pub use nvme::Nvme;
pub use preset::{Firmware, HostPage, Machine, Preset, PresetError};
pub use process::MemoryKind;
pub use version::{KernelVersion, Known};
pub use view::{EntryView, RegionView, TableView};
pub use violation::{DmaDirection, Leak, Violation};
pub use wrap::{Faulty, Record, Recording};

use crate::addr::{Iova, UserRange};
use crate::host::{Errno, Fd, Platform};
use crate::pci::{Group as GroupNumber, PciAddress};

use group::Group;
use parking_lot::{Mutex, MutexGuard};
use pci::{DescriptionError, DeviceFault, DeviceModel, Slot};
use process::Process;
use region::Regions;
use spapr_tce::Kernel;
use std::sync::Arc;
use vfio::{File, State};

/// A POWER machine with one process on it.
pub struct Model {
    state: Arc<Mutex<State>>,
}

/// Shows counts: the whole state is pages long. The views of the model have the rest.
impl core::fmt::Debug for Model {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Some(state) = self.state.try_lock() else { return f.write_str("Model { <locked> }") };
        f.debug_struct("Model")
            .field("preset", &state.kernel.preset.to_string())
            .field("groups", &state.kernel.groups.len())
            .field("files", &state.files.len())
            .field("containers", &state.containers.len())
            .field("locked", &state.kernel.process.locked.bytes())
            .field("violations", &state.kernel.violations.len())
            .finish_non_exhaustive()
    }
}

/// The setters that take the model by value are for setting up, before anything is open.
impl Model {
    /// Creates a machine with two groups, 0 and 1, of one `edu` device each, and plenty of hugetlb
    /// pages. Its process is root: its locked memory is counted, not limited.
    pub fn new(preset: Preset) -> Self {
        let kernel = Kernel {
            preset,
            process: Process::new(preset.page.shift(), preset.huge_pages()),
            regions: Regions::default(),
            groups: [0, 1].map(|number| (number, Group::new(number))).into(),
            violations: Vec::new(),
            freezes: preset.platform() == Platform::Powernv,
        };
        Self { state: Arc::new(Mutex::new(State::new(kernel))) }
    }

    /// Sets the groups to 0 to `count - 1`, each in its own PE (on powernv, under its own PHB).
    pub fn with_groups(self, count: u32) -> Self {
        self.lock().kernel.groups = (0..count).map(|number| (number, Group::new(number))).collect();
        self
    }

    /// Sets the number of devices in a group.
    pub fn with_devices(self, group: GroupNumber, count: u32) -> Self {
        if let Some(group) = self.lock().kernel.groups.get_mut(&group.0) {
            group.set_devices(count);
        }
        self
    }

    /// Makes a [device model](pci) the only device of a group, in place of its `edu`; creates the
    /// group if there is none of that number. Its PCI address is `NNNN:00:00.0`, where `NNNN` is
    /// the group in hexadecimal digits.
    pub fn with_device(self, group: GroupNumber, device: impl DeviceModel + 'static) -> Result<Self, DescriptionError> {
        let mut alone = Group::empty(group.0);
        alone.add_device(Slot::new(Box::new(device))?);
        self.lock().kernel.groups.insert(group.0, alone);
        Ok(self)
    }

    /// Adds a device model to a group, in one PE with the devices it has; creates the group if
    /// there is none of that number. The n-th device of group 0 is `0000:00:0n.0`, from 0.
    pub fn with_device_beside(
        self,
        group: GroupNumber,
        device: impl DeviceModel + 'static,
    ) -> Result<Self, DescriptionError> {
        let slot = Slot::new(Box::new(device))?;
        self.lock().kernel.groups.entry(group.0).or_insert_with(|| Group::empty(group.0)).add_device(slot);
        Ok(self)
    }

    /// Adds a device bound to a host driver to a group, which makes the group not viable.
    pub fn with_host_driver(self, group: GroupNumber, driver: &str) -> Self {
        if let Some(group) = self.lock().kernel.groups.get_mut(&group.0) {
            group.add_host_device(driver);
        }
        self
    }

    /// Removes `CAP_IPC_LOCK` and sets `RLIMIT_MEMLOCK`, in bytes; `None` for no limit.
    pub fn with_memlock(self, limit: Option<u64>) -> Self {
        self.set_memlock(limit, false);
        self
    }

    /// Grants or removes `CAP_IPC_LOCK`.
    pub fn with_cap_ipc_lock(self, capable: bool) -> Self {
        self.lock().kernel.process.locked.set_capable(capable);
        self
    }

    /// Sets the number of free hugetlb pages of each size.
    pub fn with_free_huge_pages(self, count: u64) -> Self {
        self.lock().kernel.process.set_free_huge_pages(count);
        self
    }

    /// Makes every undeclared address ordinary memory, up to the end of user addresses (2^52).
    pub fn with_open_memory(self) -> Self {
        self.lock().kernel.process.open_memory = true;
        self
    }

    /// Behaves as QEMU's emulated PHBs, which freeze no PE: DMA that no TCE allows is recorded,
    /// without any other effect. Otherwise a powernv machine freezes the device's PE, as the
    /// hardware does.
    pub fn without_freezing(self) -> Self {
        self.lock().kernel.freezes = false;
        self
    }

    /// Panics at the first violation that [harms a kernel](Violation::harms_kernel).
    pub fn panic_on_violation(self) -> Self {
        self.lock().strict = true;
        self
    }

    /// Puts memory of a kind, or a hole, at an address and unmaps what was there. Fails with EINVAL
    /// if the range is not aligned to its page, ENOMEM without free huge pages.
    pub fn declare(&self, range: UserRange, kind: MemoryKind) -> Result<(), Errno> {
        self.lock().kernel.process.place(range.start().0..range.end().0, kind)
    }

    /// Sets `RLIMIT_MEMLOCK`, in bytes, and whether the process has `CAP_IPC_LOCK`.
    pub fn set_memlock(&self, limit: Option<u64>, capable: bool) {
        let locked = &mut self.lock().kernel.process.locked;
        locked.set_limit(limit);
        locked.set_capable(capable);
    }

    /// Sets the EEH state of a group's PE, one of [`crate::uapi::eeh::state`], as a hardware error
    /// would.
    pub fn set_eeh_state(&self, group: GroupNumber, state: i32) {
        if let Some(group) = self.lock().kernel.groups.get_mut(&group.0) {
            group.eeh_state = state;
        }
    }

    /// Gives a device a fault, which replaces an earlier one, or removes it with `None`.
    ///
    /// Fails with ENODEV if there is no such device.
    pub fn set_fault(&self, device: PciAddress, fault: Option<DeviceFault>) -> Result<(), Errno> {
        let name = device.to_string();
        let mut state = self.lock();
        let mut devices = state.kernel.groups.values_mut().flat_map(|group| &mut group.devices);
        let device = devices.find(|device| device.address == name).ok_or(Errno::ENODEV)?;
        device.slot.set_fault(fault);
        Ok(())
    }

    /// Lets each device model that answers do pending work ([`DeviceModel::step`]), lowest group
    /// first. Returns whether any did: `while model.step() {}` lets all of it be done.
    pub fn step(&self) -> bool {
        self.run(State::step)
    }

    /// Unplugs the devices of a group, as when a card is pulled: loads read ones, stores are lost,
    /// and the eventfds of [`PCI_REQ_IRQ_INDEX`](crate::uapi::vfio::PCI_REQ_IRQ_INDEX) are
    /// signalled.
    pub fn unplug(&self, group: GroupNumber) {
        if let Some(group) = self.lock().kernel.groups.get_mut(&group.0) {
            group.gone = true;
            group.devices.iter().for_each(|device| device.slot.irqs.request_back());
        }
    }

    /// Ends the process: closes every file, last opened first. What remains is a violation.
    pub fn exit(&self) {
        self.run(State::exit);
    }

    /// Creates another machine in the same state: neither sees changes of the other, and a
    /// violation in the new one does not panic. Files and memory have the same numbers and
    /// addresses in both.
    pub fn fork(&self) -> Self {
        let mut state = self.lock().clone();
        state.strict = false;
        state.kernel.process.physical.take_back_all();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Returns the violations so far, oldest first.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations_after(0)
    }

    /// Returns the violations after the first `count`.
    pub fn violations_after(&self, count: usize) -> Vec<Violation> {
        self.lock().kernel.violations.iter().skip(count).cloned().collect()
    }

    /// Returns the open containers, in the order they were opened.
    pub fn containers(&self) -> Vec<Fd> {
        let state = self.lock();
        state.files.iter().filter(|(_, file)| matches!(file, File::Container(_))).map(|(&fd, _)| Fd(fd)).collect()
    }

    /// Returns the windows of an open container with their mappings, slot 0 first.
    pub fn tables(&self, container: Fd) -> Vec<TableView> {
        let state = self.lock();
        match state.file(container) {
            Ok(File::Container(id)) => view::tables(&state, id),
            _ => Vec::new(),
        }
    }

    /// Returns the groups in an open container, newest first.
    pub fn groups_in(&self, container: Fd) -> Vec<GroupNumber> {
        let state = self.lock();
        match state.file(container) {
            Ok(File::Container(id)) => view::groups(&state, id).into_iter().map(GroupNumber).collect(),
            _ => Vec::new(),
        }
    }

    /// Reads at a bus address as a device in an open container would: zeros where it may not read.
    pub fn device_read(&self, container: Fd, iova: Iova, data: &mut [u8]) {
        self.run(|state| match state.file(container) {
            Ok(File::Container(id)) => view::device_read(state, id, iova, data),
            _ => data.fill(0),
        });
    }

    /// Returns the regions of the process, newest first.
    pub fn regions(&self) -> Vec<RegionView> {
        view::regions(&self.lock())
    }

    /// Returns `VmLck`, in bytes.
    pub fn locked(&self) -> u64 {
        self.lock().kernel.process.locked.bytes()
    }

    /// Returns what can never be freed again: orphaned regions, and locked memory that no region
    /// and no open container accounts for.
    pub fn leaks(&self) -> Vec<Leak> {
        let state = self.lock();
        let regions = view::regions(&state);
        let page = state.kernel.process.page.bytes();
        let drivers = state.containers.values().filter_map(|container| container.driver.as_ref());
        let tables = drivers.map(|d| d.v1_locked + d.tables.iter().flatten().map(|table| table.charged).sum::<u64>());
        let known = tables.sum::<u64>() * page + regions.iter().map(|region| region.range.len()).sum::<u64>();
        let locked = state.kernel.process.locked.bytes().saturating_sub(known);
        let orphans = regions.iter().filter(|region| region.orphan).map(|region| Leak::Region(region.range));
        orphans.chain((locked != 0).then_some(Leak::Locked(locked))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Runs `what` under the lock; in a strict model a violation panics after the lock is released.
    fn run<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let before = state.kernel.violations.len();
        let result = what(&mut state);
        let mut new = state.kernel.violations.iter().skip(before).filter(|_| state.strict && !std::thread::panicking());
        let first = new.find(|violation| violation.harms_kernel()).cloned();
        drop(state);
        if let Some(violation) = first {
            panic!("{violation}");
        }
        result
    }
}

/// Locks a machine. A device model must not: this thread holds the lock already.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    assert!(!pci::is_inside(), "a device model used a Model: it reaches its machine through the Bus of each call only");
    state.lock()
}
