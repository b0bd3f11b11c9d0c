//! Memory and devices that come and go.

use spapr_iommu::Group;
use spapr_iommu::addr::{GuestAddr, Iova, PageShift, UserAddr};
use spapr_iommu::guest::{
    AddMemoryError, GuestIommu, GuestMemory, HcallError, NoMemory, PhbConfig, PhbError, RemoveMemoryError, Slot,
    SlotOwner,
};
use spapr_iommu::host::Memory;
use spapr_iommu::model::Model;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu_tests::by_address::PlugByAddress;
use spapr_iommu_tests::guest_fixture::{BIG, BUID, DYNAMIC, Fixture, LIOBN, PRESETS, RAM, guest, iova, tces};
use std::sync::Arc;

const MORE: u64 = 16 << 20;

/// RAM whose owners can be counted.
#[derive(Debug)]
struct Counted(Vec<Slot>, Arc<()>);

// SAFETY: memory of a model, which is not this process's.
unsafe impl GuestMemory for Counted {
    fn slots(&self) -> Vec<Slot> {
        self.0.clone()
    }

    fn owner(&self, slot: &Slot) -> Option<SlotOwner> {
        self.0.contains(slot).then(|| self.1.clone() as SlotOwner)
    }

    fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory> {
        Err(NoMemory { at, len: data.len() })
    }

    fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory> {
        Err(NoMemory { at, len: data.len() })
    }
}

#[test]
fn the_owner_of_a_slot_is_held_until_it_is_removed() {
    let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let user = model.allocate(MORE, PageShift::P64K).unwrap().start();
    let owner = Arc::new(());
    let ram = Counted(vec![Slot { guest: guest(0, MORE), user }], owner.clone());
    let iommu = GuestIommu::new(&Registry::new(model), Arc::new(ram));
    let before = Arc::strong_count(&owner);
    iommu.add_memory().unwrap();
    assert_eq!(Arc::strong_count(&owner), before + 1);
    iommu.remove_memory(guest(0, MORE)).unwrap();
    assert_eq!(Arc::strong_count(&owner), before);
}

#[test]
fn slots_that_overlap_are_not_added() {
    let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let user = model.allocate(2 * MORE, PageShift::P64K).unwrap().start();
    let slot = |start, user| Slot { guest: guest(start, MORE), user };
    let (low, high) = (slot(0, user), slot(MORE - 0x1_0000, UserAddr(user.0 + MORE)));
    let registry = Registry::new(model);
    let iommu = GuestIommu::new(&registry, Arc::new(Counted(vec![high, low], Arc::default())));
    assert_eq!(iommu.add_memory(), Err(AddMemoryError::Slot { slot: high }));
    assert_eq!(registry.regions(), []);
}

#[test]
fn memory_plugged_in_can_be_mapped_at_once_and_is_few_regions() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        fixture.phb.attach(Group(0)).unwrap();
        assert!(fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3).is_err());
        fixture.plug(RAM, MORE);
        fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3).unwrap();
        fixture.agrees();
        assert!(fixture.registry.regions().len() <= 2);
        fixture.ends_clean();
    }
}

#[test]
fn slots_that_continue_in_user_memory_are_one_region() {
    let fixture = Fixture::bare("powernv9-64k");
    let user = Memory::allocate(fixture.model.as_ref(), 4 * MORE, PageShift::P64K).unwrap().start();
    for n in 0..4 {
        let slot = Slot { guest: guest(n * 2 * MORE, MORE), user: UserAddr(user.0 + n * MORE) };
        fixture.slots.plug(slot, fixture.model.clone()).unwrap();
    }
    fixture.iommu.add_memory().unwrap();
    assert_eq!(fixture.registry.regions().len(), 1);
    fixture.ends_clean();
}

#[test]
fn memory_that_is_mapped_is_not_removed_and_not_mapped_again_until_it_is_kept() {
    for (preset, attached) in PRESETS.iter().flat_map(|preset| [(preset, false), (preset, true)]) {
        let fixture = Fixture::new(preset);
        fixture.plug(RAM, MORE);
        if attached {
            fixture.phb.attach(Group(0)).unwrap();
        }
        let slot = guest(RAM, MORE);
        fixture.put(LIOBN, 0x8000, &tces(RAM + 0x1000, 3, PageShift::P4K));
        let refused = fixture.iommu.remove_memory(slot).unwrap_err();
        assert_eq!(refused, RemoveMemoryError::Mapped { slot, mapped: vec![iova(0x8000, 0x3000)] });
        let leaving = HcallError::Unplugging { at: GuestAddr(RAM), slot };
        assert_eq!(fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3), Err(leaving));
        fixture.iommu.keep_memory(slot).unwrap();
        fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3).unwrap();
        fixture.iommu.remove_memory(slot).unwrap_err();
        fixture.agrees();
        fixture.iommu.h_stuff_tce(LIOBN, 0, 0, 64).unwrap();
        fixture.iommu.remove_memory(slot).unwrap();
        fixture.slots.remove(GuestAddr(RAM)).unwrap();
        assert!(matches!(fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3), Err(HcallError::NotRam { .. })));
        assert_eq!(fixture.registry.regions().len(), 1);
        fixture.ends_clean();
    }
}

#[test]
fn memory_that_is_to_go_still_is_when_other_memory_comes() {
    let fixture = Fixture::new("powernv9-64k");
    fixture.plug(RAM, MORE);
    fixture.iommu.h_put_tce(LIOBN, 0x1000, RAM | 3).unwrap();
    let slot = guest(RAM, MORE);
    fixture.iommu.remove_memory(slot).unwrap_err();
    fixture.plug(RAM + MORE, MORE);
    let leaving = HcallError::Unplugging { at: GuestAddr(RAM), slot };
    assert_eq!(fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3), Err(leaving));
    fixture.iommu.h_put_tce(LIOBN, 0, (RAM + MORE) | 3).unwrap();
    fixture.ends_clean();
}

/// A device that the VMM uses itself, in a space of its own.
#[test]
fn memory_that_another_space_maps_is_not_removed_until_it_is_unmapped() {
    let fixture = Fixture::new("powernv9-64k");
    let space = AddressSpace::new(&fixture.registry);
    space.attach(Group(1)).unwrap();
    let (slot, at) = (guest(0, RAM), iova(0x1_0000, 0x1_0000));
    space.map(at, fixture.iommu.ram().slots()[0].user, Permission::Read).unwrap();
    for _ in 0..2 {
        let refused = RemoveMemoryError::Mapped { slot, mapped: vec![at] };
        assert_eq!(fixture.iommu.remove_memory(slot), Err(refused));
    }
    space.unmap(at).unwrap();
    fixture.iommu.remove_memory(slot).unwrap();
    assert_eq!(fixture.registry.regions(), []);
    drop(space);
    fixture.ends_clean();
}

#[test]
fn memory_that_goes_without_a_word_is_noticed() {
    let fixture = Fixture::new("powernv9-64k");
    let gone = fixture.slots.remove(GuestAddr(0)).unwrap();
    assert_eq!(fixture.iommu.add_memory(), Err(AddMemoryError::Vanished { slot: gone }));
    assert!(matches!(fixture.iommu.remove_memory(guest(0, MORE)), Err(RemoveMemoryError::NoSlot { .. })));
    fixture.iommu.remove_memory(gone.guest).unwrap();
    fixture.ends_clean();
}

#[test]
fn memory_that_devices_could_not_reach_is_not_added() {
    let fixture = Fixture::bare("pseries-64k");
    let huge = Memory::allocate(fixture.model.as_ref(), MORE, PageShift::P2M).unwrap().start();
    fixture.slots.plug(Slot { guest: guest(0, MORE), user: huge }, fixture.model.clone()).unwrap();
    fixture.iommu.add_memory().unwrap();
    fixture.phb.attach(Group(0)).unwrap();
    fixture.phb.create_window(21, 30).unwrap();
    let window =
        fixture.phb.space().status().windows.iter().find(|(window, _)| window.range.start().0 == BIG).unwrap().0;
    assert_eq!(window.page, PageShift::P2M);
    let before = fixture.registry.regions();
    let ordinary = Memory::allocate(fixture.model.as_ref(), MORE, PageShift::P64K).unwrap().start();
    fixture.slots.plug(Slot { guest: guest(RAM, MORE), user: ordinary }, fixture.model.clone()).unwrap();
    let (range, page) = (window.range, window.page);
    let refused = AddMemoryError::Page { max_iommu_page: PageShift::P64K, window: range, page };
    assert_eq!(fixture.iommu.add_memory(), Err(refused));
    assert_eq!(fixture.registry.regions(), before);
    fixture.phb.remove_window(DYNAMIC).unwrap();
    fixture.iommu.add_memory().unwrap();
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn a_device_joins_while_memory_that_is_mapped_is_to_go() {
    let fixture = Fixture::new("powernv9-64k");
    fixture.put(LIOBN, 0, &tces(0, 4, PageShift::P4K));
    fixture.iommu.remove_memory(guest(0, RAM)).unwrap_err();
    fixture.phb.attach(Group(0)).unwrap();
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn what_lies_past_memory_that_is_to_go_is_no_ram() {
    let fixture = Fixture::new("powernv9-64k");
    fixture.plug(RAM, MORE);
    fixture.phb.attach(Group(0)).unwrap();
    fixture.put(LIOBN, 0, &tces(RAM, 3, PageShift::P4K));
    fixture.iommu.remove_memory(guest(RAM, MORE)).unwrap_err();
    let past = GuestAddr(RAM + MORE);
    assert_eq!(fixture.iommu.h_put_tce(LIOBN, 0x8000, past.0 | 3), Err(HcallError::NotRam { at: past }));
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn memory_that_went_without_a_word_takes_no_new_tce() {
    for attached in [false, true] {
        let fixture = Fixture::new("powernv9-64k");
        fixture.plug(RAM, MORE);
        if attached {
            fixture.phb.attach(Group(0)).unwrap();
        }
        fixture.slots.remove(GuestAddr(RAM)).unwrap();
        let gone = HcallError::Gone { at: GuestAddr(RAM), slot: guest(RAM, MORE) };
        assert_eq!(fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3), Err(gone.clone()));
        fixture.list(&tces(RAM - 0x1000, 2, PageShift::P4K));
        assert_eq!(fixture.iommu.h_put_tce_indirect(LIOBN, 0, spapr_iommu_tests::guest_fixture::LIST, 2), Err(gone));
        // The rest of RAM is unchanged.
        fixture.iommu.h_put_tce(LIOBN, 0, 3).unwrap();
        fixture.agrees();
        fixture.iommu.remove_memory(guest(RAM, MORE)).unwrap();
        fixture.ends_clean();
    }
}

#[test]
fn a_device_that_joins_later_sees_the_table_with_one_map_per_run() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        fixture.put(LIOBN, 0x10_0000, &tces(0x20_0000, 1024, PageShift::P4K));
        fixture.put(LIOBN, 0x1000_0000, &tces(0x80_0000, 16, PageShift::P4K));
        fixture.phb.create_window(16, 30).unwrap();
        fixture.put(DYNAMIC, BIG, &tces(0, 1024, PageShift::P64K));
        assert_eq!(fixture.calls(), (0, 0));
        fixture.phb.attach(Group(0)).unwrap();
        let (maps, _) = fixture.calls();
        assert_eq!(maps, 3, "{preset}");
        fixture.agrees();
        fixture.phb.attach(Group(1)).unwrap();
        assert_eq!(fixture.calls().0, 3, "{preset}");
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn the_last_device_leaves_the_table_as_it_is() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        fixture.phb.attach(Group(0)).unwrap();
        fixture.put(LIOBN, 0, &tces(0, 4, PageShift::P4K));
        fixture.phb.attach(Group(1)).unwrap();
        fixture.phb.detach(Group(0)).unwrap();
        fixture.agrees();
        fixture.phb.detach(Group(1)).unwrap();
        assert_eq!(fixture.phb.space().mapped(), (0, 0));
        assert_eq!(fixture.iommu.h_get_tce(LIOBN, 0x3000), Ok(0x3003));
        // Bookkeeping continues, and the mappings return with the next device.
        fixture.iommu.h_put_tce(LIOBN, 0x4000, 0x4003).unwrap();
        fixture.phb.attach(Group(0)).unwrap();
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_guests_page_larger_than_the_hosts_is_several_of_them() {
    let fixture = Fixture::new("powernv9-4k");
    fixture.phb.attach(Group(0)).unwrap();
    fixture.phb.create_window(24, 32).unwrap();
    fixture.calls();
    fixture.put(DYNAMIC, BIG, &tces(0, 4, PageShift::P16M));
    assert_eq!(fixture.calls(), (1, 0));
    let window =
        fixture.phb.space().status().windows.iter().map(|(window, _)| *window).find(|w| w.range.start().0 == BIG);
    assert_eq!(window.unwrap().page, PageShift::P4K);
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn a_page_over_two_slots_leads_to_both() {
    let fixture = Fixture::bare("pseries-64k");
    fixture.plug(0, 8 << 20);
    fixture.plug(8 << 20, 8 << 20);
    fixture.phb.attach(Group(0)).unwrap();
    // All of it is 8 MiB aligned, so 16M pages are not offered; 2M pages are, and lie in one slot
    // each.
    assert_eq!(fixture.phb.offer().pages, 0x21_1000);
    fixture.phb.create_window(21, 30).unwrap();
    fixture.put(DYNAMIC, BIG, &tces(0, 8, PageShift::P2M));
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn a_page_that_ends_past_ram_is_refused() {
    for attached in [false, true] {
        let fixture = Fixture::new("powernv9-4k");
        if attached {
            fixture.phb.attach(Group(0)).unwrap();
        }
        fixture.phb.create_window(24, 32).unwrap();
        fixture.plug(RAM, 4 << 20);
        let past = HcallError::NotRam { at: GuestAddr(RAM + (4 << 20)) };
        // Also where the table has room already.
        fixture.iommu.h_put_tce(DYNAMIC, BIG, 3).unwrap();
        let next = BIG + (16 << 20);
        assert_eq!(fixture.iommu.h_put_tce(DYNAMIC, next, RAM | 3), Err(past));
        assert_eq!(fixture.iommu.h_get_tce(DYNAMIC, next), Ok(0));
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_host_without_the_guests_windows_is_refused_and_nothing_changes() {
    for preset in PRESETS {
        // The guest has its dynamic window where no host has one.
        let config = PhbConfig::new(BUID, LIOBN).unwrap().with_dynamic_window(Iova(1 << 58));
        let guest = Fixture::over(Model::new(preset.parse().unwrap()), config);
        guest.plug(0, RAM);
        guest.phb.create_window(16, 32).unwrap();
        guest.put(DYNAMIC, 1 << 58, &tces(0, 8, PageShift::P64K));
        let refused = guest.phb.attach(Group(0)).unwrap_err();
        assert!(matches!(refused, PhbError::Elsewhere { start: Iova(BIG), .. }), "{preset}: {refused}");
        assert_eq!(guest.model.containers(), []);
        assert_eq!(guest.iommu.h_get_tce(DYNAMIC, 1 << 58), Ok(3));
        guest.ends_clean();
    }
}
