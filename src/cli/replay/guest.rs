//! The guest a trace is replayed for: its RAM, its bridges, a group of the host on each, and a
//! record of the kernel calls.

use super::error::ReplayError;
use super::liobns::Bridge;
use super::timeline::{Step, Timeline};
use crate::by_address;
use crate::machine::Machine;
use spapr_iommu::addr::{GuestAddr, GuestRange, Iova, IovaRange, UserRange};
use spapr_iommu::guest::{
    GuestIommu, GuestMemory, GuestTranslation, Liobn, Phb, PhbConfig, PhbError, RtasCall, Slot, Slots,
};
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
    pub(super) ram: UserRange,
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
        guest.iommu.add_memory().map_err(ReplayError::Register)?;
        for (bridge, group) in timeline.bridges.iter().zip(groups) {
            let config = config(timeline, bridge, default).map_err(ReplayError::Bridge)?;
            let attach = |phb: Arc<Phb>| phb.attach(group.number);
            guest.iommu.add_phb(config).and_then(attach).map_err(ReplayError::Bridge)?;
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

/// Returns the configuration of a bridge like QEMU's: where a VMM has a choice, QEMU's choice in
/// the trace.
fn config(timeline: &Timeline, bridge: &Bridge, default: IovaRange) -> Result<PhbConfig, PhbError> {
    let mut config = PhbConfig::new(bridge.buid, Liobn(bridge.liobn))?;
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

/// Least memory a guest is given, bytes.
const LEAST: u64 = 16 << 20;

/// Returns the smallest power of two, in bytes, that holds every page and list of the trace; at
/// least 16 MiB.
pub(super) fn guess_memory(timeline: &Timeline) -> u64 {
    let ends = timeline.steps.iter().filter_map(|located| {
        let window = timeline.windows.get(located.window?)?;
        let page = |tce: u64| window.page.floor(tce).checked_add(window.page.bytes());
        match located.step {
            Step::Put { tce, ret: 0, .. } if tce & 3 != 0 => page(tce),
            Step::Indirect { list, count, tce, ret: 0, .. } => {
                let last = if tce & 3 != 0 { page(tce)? } else { 0 };
                Some(list.checked_add(count * 8)?.max(last))
            }
            Step::Translate { target, permission: 1.., .. } => page(target),
            _ => None,
        }
    });
    let end = ends.max().unwrap_or(0).max(LEAST);
    end.checked_next_power_of_two().unwrap_or(1 << 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Trace;
    use spapr_iommu::addr::{Iova, IovaRange};

    fn guess_of(text: &str) -> u64 {
        let trace = Trace::from_text(text.as_bytes(), Trace::MAX_EVENTS, |_| ()).unwrap();
        guess_memory(&Timeline::new(&trace, IovaRange::new(Iova(0), 1 << 30).unwrap()).unwrap())
    }

    #[test]
    fn memory_is_what_holds_all_that_is_seen() {
        let put = "spapr_iommu_pci_put liobn=0x80000000 ioba=0x1000 tce=0x1ffff003 ret=0\n";
        assert_eq!(guess_of(put), 512 << 20);
        assert_eq!(guess_of(&put.replace("0x1ffff003", "0x20000003")), 1 << 30);
        assert_eq!(guess_of(&put.replace("0x1ffff003", "0x20000000")), LEAST, "no rights, no memory");
        let list = "spapr_iommu_pci_indirect liobn=0x80000000 ioba=0x0 tcelist=0x3fff000 iobaN=0x1ff tceN=0x0 ret=0\n";
        assert_eq!(guess_of(list), 64 << 20);
        assert_eq!(guess_of(&put.replace("0x1ffff003", "0xfffffffffffff003")), LEAST, "that is not an address of RAM");
    }
}
