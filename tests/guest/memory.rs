//! Memory that is plugged in and out.

use spapr_iommu::addr::{GuestAddr, PageShift, UserAddr};
use spapr_iommu::guest::{AddMemoryError, HcallError, RemoveMemoryError, Slot};
use spapr_iommu::host::Memory;
use spapr_iommu_tests::guest_fixture::{BIG, DYNAMIC, Fixture, LIOBN, PRESETS, RAM, guest, iova, tces};

const MORE: u64 = 16 << 20;

#[test]
fn memory_plugged_in_can_be_mapped_at_once_and_is_few_regions() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        fixture.phb.attach(0).unwrap();
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
        fixture.slots.insert(slot).unwrap();
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
            fixture.phb.attach(0).unwrap();
        }
        let slot = guest(RAM, MORE);
        fixture.put(LIOBN, 0x8000, &tces(RAM + 0x1000, 3, PageShift::P4K));
        let refused = fixture.iommu.remove_memory(slot).unwrap_err();
        assert_eq!(refused, RemoveMemoryError::Mapped { asked: slot, mapped: vec![iova(0x8000, 0x3000)] });
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
fn memory_that_goes_without_a_word_is_noticed() {
    let fixture = Fixture::new("powernv9-64k");
    let gone = fixture.slots.remove(GuestAddr(0)).unwrap();
    assert_eq!(fixture.iommu.add_memory(), Err(AddMemoryError::Vanished { gone }));
    assert!(matches!(fixture.iommu.remove_memory(guest(0, MORE)), Err(RemoveMemoryError::NoSlot { .. })));
    fixture.iommu.remove_memory(gone.guest).unwrap();
    fixture.ends_clean();
}

#[test]
fn memory_that_devices_could_not_reach_is_not_added() {
    let fixture = Fixture::bare("pseries-64k");
    let huge = Memory::allocate(fixture.model.as_ref(), MORE, PageShift::P2M).unwrap().start();
    fixture.slots.insert(Slot { guest: guest(0, MORE), user: huge }).unwrap();
    fixture.iommu.add_memory().unwrap();
    fixture.phb.attach(0).unwrap();
    fixture.phb.create_window(21, 30).unwrap();
    let window =
        fixture.phb.space().status().windows.iter().find(|(window, _)| window.range.start().0 == BIG).unwrap().0;
    assert_eq!(window.page, PageShift::P2M);
    let before = fixture.registry.regions();
    let ordinary = Memory::allocate(fixture.model.as_ref(), MORE, PageShift::P64K).unwrap().start();
    fixture.slots.insert(Slot { guest: guest(RAM, MORE), user: ordinary }).unwrap();
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
    fixture.phb.attach(0).unwrap();
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn what_lies_past_memory_that_is_to_go_is_no_ram() {
    let fixture = Fixture::new("powernv9-64k");
    fixture.plug(RAM, MORE);
    fixture.phb.attach(0).unwrap();
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
            fixture.phb.attach(0).unwrap();
        }
        fixture.slots.remove(GuestAddr(RAM)).unwrap();
        let gone = HcallError::Gone { at: GuestAddr(RAM), slot: guest(RAM, MORE) };
        assert_eq!(fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3), Err(gone.clone()));
        fixture.list(&tces(RAM - 0x1000, 2, PageShift::P4K));
        assert_eq!(fixture.iommu.h_put_tce_indirect(LIOBN, 0, spapr_iommu_tests::guest_fixture::LIST, 2), Err(gone));
        // The rest of RAM is as it was.
        fixture.iommu.h_put_tce(LIOBN, 0, 3).unwrap();
        fixture.agrees();
        fixture.iommu.remove_memory(guest(RAM, MORE)).unwrap();
        fixture.ends_clean();
    }
}
