//! Windows on a real kernel: where they start, and how much they lock.

use crate::{BIG, groups, process};
use libtest_mimic::Failed;
use spapr_iommu::Group;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::{GuestIommu, Liobn, Phb, PhbConfig, RtasCall, Slots};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host, Platform};
use spapr_iommu::registry::Registry;
use spapr_iommu_tests::machine::RealLimit;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const RAM: u64 = 16 << 20;
/// Shift of a page as large as the RAM.
const PAGE: u32 = 24;
const LIOBN: Liobn = Liobn(0x8000_0000);
const DYNAMIC: Liobn = Liobn(0x8000_0001);

/// A guest with some RAM and a PHB.
struct Guest {
    iommu: GuestIommu,
    phb: Arc<Phb>,
    groups: [Group; 2],
    slots: Arc<Slots>,
    host: Arc<Vfio>,
}

impl Guest {
    fn new() -> Result<Self, Failed> {
        let host = Arc::new(Vfio::new());
        let groups = groups(&host)?;
        let slots = Arc::new(Slots::new());
        let iommu = GuestIommu::new(&Registry::new(host.clone()), slots.clone());
        let phb = iommu.add_phb(PhbConfig::new(1, LIOBN)?)?;
        let guest = Self { iommu, phb, groups, slots, host };
        guest.plug(0, RAM)?;
        Ok(guest)
    }

    fn plug(&self, start: u64, len: u64) -> Result<(), Failed> {
        self.slots.insert(GuestAddr(start), &self.host.share(len, self.host.page_shift())?)?;
        Ok(self.iommu.add_memory()?)
    }

    /// Makes an RTAS call that must succeed, and returns its result.
    fn rtas<const N: usize>(&self, call: RtasCall, args: &[u32]) -> Result<[u32; N], Failed> {
        let mut rets = [0; N];
        self.iommu.rtas(call, args, &mut rets)?;
        Ok(rets)
    }

    /// Locked bytes of the default window's table in one container.
    fn default_charge(&self) -> u64 {
        if self.host.platform() == Some(Platform::Powernv) { 8 << 20 } else { 2 << 20 }
    }
}

fn ensure(is_so: bool, what: impl core::fmt::Display) -> Result<(), Failed> {
    if is_so { Ok(()) } else { Err(what.to_string().into()) }
}

/// A guest that removes its default window before it creates the dynamic one finds the latter at
/// its usual place, even after its devices left and returned.
pub(crate) fn a_dynamic_window_starts_at_2_to_the_59_without_the_default_one() -> Result<(), Failed> {
    let before = process::locked()?;
    let guest = Guest::new()?;
    guest.phb.attach(guest.groups[0])?;
    guest.rtas::<1>(RtasCall::RemovePeDmaWindow, &[LIOBN.0])?;
    // Larger than the default window, since pseries would otherwise make it the default window.
    let made: [u32; 4] = guest.rtas(RtasCall::CreatePeDmaWindow, &[0, 0, 1, PAGE, 31])?;
    ensure(made[2..] == [0x800_0000, 0], format!("{made:x?}"))?;
    guest.iommu.h_put_tce(DYNAMIC, BIG, 3)?;
    let locked = process::locked()?;
    guest.phb.detach(guest.groups[0])?;
    guest.phb.attach(guest.groups[0])?;
    guest.phb.attach(guest.groups[1])?;
    ensure(guest.phb.space().mapped().1 == 1 << PAGE, "the guest's page is mapped again")?;
    // One more table, no default window, and nothing left that occupied its slot.
    let twice = locked + (locked - before - RAM);
    ensure(process::locked()? == twice, format!("{} locked, not {twice}", process::locked()?))?;
    if guest.host.platform() == Some(Platform::Powernv) {
        // A second dynamic window takes the default one's place, whatever goes and comes back.
        guest.rtas::<1>(RtasCall::RemovePeDmaWindow, &[DYNAMIC.0])?;
        for start in [&[0x800_0000, 0], &[0, 0]] {
            let page = guest.host.page_shift().get();
            let made: [u32; 4] = guest.rtas(RtasCall::CreatePeDmaWindow, &[0, 0, 1, page, page + 3])?;
            ensure(made[2..] == *start, format!("{made:x?}"))?;
        }
        guest.rtas::<1>(RtasCall::RemovePeDmaWindow, &[DYNAMIC.0])?;
        guest.iommu.h_put_tce(LIOBN, 0, 3)?;
        guest.groups.iter().try_for_each(|group| guest.phb.detach(*group))?;
        guest.phb.attach(guest.groups[0])?;
        let windows: Vec<_> =
            guest.phb.space().status().windows.iter().map(|(window, _)| window.range.start().0).collect();
        ensure(windows == [0] && guest.phb.space().mapped().0 == 1, format!("{windows:x?}"))?;
    }
    drop(guest);
    ensure(process::locked()? == before, format!("{} locked at the end, not {before}", process::locked()?))
}

/// A second group, and a reset, for which the limit of locked memory has no room are refused, and
/// the guest goes on.
pub(crate) fn what_cannot_be_locked_is_refused_before_anything_is_touched() -> Result<(), Failed> {
    let guest = Guest::new()?;
    guest.phb.attach(guest.groups[0])?;
    // The limit applies only to users other than root.
    for group in guest.groups.map(|group| format!("/dev/vfio/{group}")) {
        set_permissions(group, Permissions::from_mode(0o666))?;
    }
    set_permissions("/dev/vfio/vfio", Permissions::from_mode(0o666))?;
    let charge = guest.default_charge();
    let room = process::locked()? + charge + (1 << 20);
    {
        let _limit = RealLimit::new(room)?;
        let refused = guest.phb.attach(guest.groups[1]);
        ensure(
            refused.as_ref().is_err_and(|error| error.to_string().contains("than allowed")),
            format!("{refused:?}"),
        )?;
        guest.iommu.h_put_tce(LIOBN, 0x10000, 3)?;
        let refused = guest.phb.attach(guest.groups[1]);
        ensure(refused.is_err(), "a second default table has no room")?;
        guest.iommu.h_put_tce(LIOBN, 0x20000, 3)?;
        // Few enough TCEs that they are offered with what is left.
        let page = guest.host.page_shift();
        guest.rtas::<4>(RtasCall::CreatePeDmaWindow, &[0, 0, 1, page.get(), page.get() + 3])?;
        guest.rtas::<1>(RtasCall::RemovePeDmaWindow, &[LIOBN.0])?;
        guest.iommu.h_put_tce(DYNAMIC, BIG, 3)?;
        // Memory takes what the default window returned.
        guest.plug(RAM, charge)?;
        let (locked, mut status) = (process::locked()?, [0]);
        let refused = guest.iommu.rtas(RtasCall::ResetPeDmaWindow, &[0, 0, 1], &mut status);
        ensure(refused.is_err() && status[0].cast_signed() == -1, format!("{refused:?}"))?;
        ensure(process::locked()? == locked, format!("{} locked, not {locked}", process::locked()?))?;
        guest.iommu.h_put_tce(DYNAMIC, BIG + page.bytes(), 3)?;
    }
    guest.rtas::<1>(RtasCall::ResetPeDmaWindow, &[0, 0, 1])?;
    guest.iommu.h_put_tce(LIOBN, 0x10000, 3)?;
    guest.phb.attach(guest.groups[1])?;
    Ok(())
}
