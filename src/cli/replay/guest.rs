//! The guest a trace is replayed for: its RAM, its bridges, a group of the host on each, and a
//! record of the kernel calls.

use super::run::ReplayError;
use super::timeline::{Bridge, Step, Timeline};
use crate::by_address;
use crate::scenario::Machine;
use spapr_iommu::addr::{GuestAddr, GuestRange, Iova, IovaRange, UserRange};
use spapr_iommu::guest::{GuestIommu, GuestMemory, GuestTranslation, Liobn, Phb, PhbConfig, RtasCall, Slot, Slots};
use spapr_iommu::host::{Call, Host};
use spapr_iommu::model::Recording;
use spapr_iommu::registry::Registry;
use spapr_iommu::uapi::papr::DDW_PAGE_SHIFTS;
use spapr_iommu::uapi::papr::hcall::H_FUNCTION;
use std::sync::Arc;

/// A guest without a processor.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    machine: &'a Machine,
    recording: Arc<Recording<Arc<dyn Host>>>,
    ram: UserRange,
    slots: Arc<Slots>,
    pub(super) iommu: GuestIommu,
}

impl<'a> Guest<'a> {
    /// Creates a guest with `memory` bytes of RAM from address 0 on, and the bridges of the trace.
    pub(super) fn new(
        machine: &'a Machine,
        timeline: &Timeline,
        memory: u64,
        default: IovaRange,
    ) -> Result<Self, ReplayError> {
        let groups = machine.groups(timeline.bridges.len())?;
        let recording = Arc::new(Recording::new(machine.host()));
        let registry = Registry::new(Arc::clone(&recording) as Arc<dyn Host>);
        let ram = machine.memory().allocate(memory, machine.host().page_shift());
        let ram = ram.map_err(|errno| ReplayError::Memory { bytes: memory, errno })?;
        let slots = Arc::new(Slots::new());
        let slot = Slot { guest: GuestRange::new(GuestAddr(0), memory)?, user: ram.start() };
        by_address::insert(&slots, slot, machine.shared_memory())?;
        let iommu = GuestIommu::new(&registry, Arc::clone(&slots) as Arc<dyn GuestMemory>);
        let guest = Self { machine, recording, ram, slots, iommu };
        guest.iommu.add_memory()?;
        for (bridge, group) in timeline.bridges.iter().zip(groups) {
            guest.iommu.add_phb(config(timeline, bridge, default)?)?.attach(group.number)?;
        }
        guest.recording.take();
        Ok(guest)
    }

    /// Writes a list where the guest had it. An address that is not RAM is left for the call to
    /// refuse.
    pub(super) fn write_list(&self, at: u64, tces: impl Iterator<Item = u64>) {
        let bytes: Vec<u8> = tces.flat_map(u64::to_be_bytes).collect();
        if let Err(error) = self.slots.write(GuestAddr(at), &bytes) {
            tracing::debug!(%error, "the list lies outside the guest's RAM");
        }
    }

    /// Returns the number of MAP and UNMAP calls since the last time.
    pub(super) fn ioctls(&self) -> (u64, u64) {
        self.recording.take().iter().fold((0, 0), |(map, unmap), record| match record.call {
            Call::MapDma(_) => (map + 1, unmap),
            Call::UnmapDma(_) => (map, unmap + 1),
            _ => (map, unmap),
        })
    }

    /// Releases everything.
    pub(super) fn end(self) {
        let Self { machine, ram, slots, iommu, .. } = self;
        drop(iommu);
        drop(slots);
        if let Err(errno) = machine.memory().free(ram) {
            tracing::error!(%errno, "the guest's RAM cannot be freed");
        }
    }
}

/// Returns the configuration of a bridge like QEMU's; what a VMM decides is what the trace shows
/// QEMU decided.
fn config(timeline: &Timeline, bridge: &Bridge, default: IovaRange) -> Result<PhbConfig, ReplayError> {
    let liobn = u32::try_from(bridge.liobn).unwrap_or_default();
    let mut config = PhbConfig::new(bridge.buid, Liobn(liobn))?;
    config.default = default;
    let masks = timeline.steps.iter().filter_map(|located| match located.step {
        Step::Query { buid, pages, .. } if buid == bridge.buid => Some(pages),
        _ => None,
    });
    if let Some(mask) = masks.reduce(|one, other| one | other) {
        let shifts = (0..).zip(DDW_PAGE_SHIFTS).filter(|(bit, _)| mask & (1 << bit) != 0);
        config.pages = shifts.fold(0, |pages, (_, shift)| pages | 1 << shift);
    }
    Ok(config)
}

impl Guest<'_> {
    /// Makes a hypercall with its first four arguments; returns the guest's r3 and r4.
    pub(super) fn hypercall(&self, number: u64, [liobn, ioba, third, count]: [u64; 4]) -> (i64, u64) {
        let mut args = [liobn, ioba, third, count, 0, 0, 0, 0, 0];
        let ret = self.iommu.hcall(number, &mut args).unwrap_or(H_FUNCTION);
        (ret, args[0])
    }

    /// Makes an RTAS call; returns its result cells, the status first, or the status and the
    /// reason.
    pub(super) fn rtas<const RETS: usize>(&self, call: RtasCall, args: &[u32]) -> Result<[u32; RETS], String> {
        let mut rets = [0; RETS];
        let result = self.iommu.rtas(call, args, &mut rets);
        result.map(|()| rets).map_err(|error| format!("{}: {error}", rets[0].cast_signed()))
    }

    /// Translates a bus address in the window with that LIOBN.
    pub(super) fn translate(&self, liobn: u64, ioba: u64) -> Option<GuestTranslation> {
        let liobn = u32::try_from(liobn).ok()?;
        self.iommu.translate(Liobn(liobn), Iova(ioba))
    }

    /// Returns the guest's address that devices of the host reach with a bus address of that
    /// bridge.
    pub(super) fn reach(&self, liobn: u64, ioba: u64) -> Option<GuestAddr> {
        let has = |phb: &Arc<Phb>| phb.tables().iter().any(|table| u64::from(table.liobn().0) == liobn);
        let phb = self.iommu.phbs().into_iter().find(has)?;
        let user = phb.space().translate(Iova(ioba))?.user;
        user.0.checked_sub(self.ram.start().0).map(GuestAddr)
    }
}
