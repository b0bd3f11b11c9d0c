//! Devices that come and go behind a PHB.

use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::guest::{PhbConfig, PhbError};
use spapr_iommu::model::Model;
use spapr_iommu_tests::guest_fixture::{BIG, BUID, DYNAMIC, Fixture, LIOBN, PRESETS, RAM, tces};

#[test]
fn a_device_that_joins_later_sees_the_table_with_one_map_per_run() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        fixture.put(LIOBN, 0x10_0000, &tces(0x20_0000, 1024, PageShift::P4K));
        fixture.put(LIOBN, 0x1000_0000, &tces(0x80_0000, 16, PageShift::P4K));
        fixture.phb.create_window(16, 30).unwrap();
        fixture.put(DYNAMIC, BIG, &tces(0, 1024, PageShift::P64K));
        assert_eq!(fixture.calls(), (0, 0));
        fixture.phb.attach(0).unwrap();
        let (maps, _) = fixture.calls();
        assert_eq!(maps, 3, "{preset}");
        fixture.agrees();
        fixture.phb.attach(1).unwrap();
        assert_eq!(fixture.calls().0, 3, "{preset}");
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn the_last_device_leaves_the_table_as_it_is() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        fixture.phb.attach(0).unwrap();
        fixture.put(LIOBN, 0, &tces(0, 4, PageShift::P4K));
        fixture.phb.attach(1).unwrap();
        fixture.phb.detach(0).unwrap();
        fixture.agrees();
        fixture.phb.detach(1).unwrap();
        assert_eq!(fixture.phb.space().mapped(), (0, 0));
        assert_eq!(fixture.iommu.h_get_tce(LIOBN, 0x3000), Ok(0x3003));
        // Bookkeeping goes on, and comes back with the next device.
        fixture.iommu.h_put_tce(LIOBN, 0x4000, 0x4003).unwrap();
        fixture.phb.attach(0).unwrap();
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_guests_page_larger_than_the_hosts_is_several_of_them() {
    let fixture = Fixture::new("powernv9-4k");
    fixture.phb.attach(0).unwrap();
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
    fixture.phb.attach(0).unwrap();
    // All of it is 8 MiB aligned, so 16M pages are not offered; 2M pages are, and lie in one slot
    // each.
    assert_eq!(fixture.phb.offer().pages, 0x21_1000);
    fixture.phb.create_window(21, 30).unwrap();
    fixture.put(DYNAMIC, BIG, &tces(0, 8, PageShift::P2M));
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn a_host_without_the_guests_windows_is_refused_and_nothing_changes() {
    for preset in PRESETS {
        // The guest has its dynamic window where no host has one.
        let config = PhbConfig { dynamic: Iova(1 << 58), ..PhbConfig::new(BUID, LIOBN).unwrap() };
        let guest = Fixture::over(Model::new(preset.parse().unwrap()), config);
        guest.plug(0, RAM);
        guest.phb.create_window(16, 32).unwrap();
        guest.put(DYNAMIC, 1 << 58, &tces(0, 8, PageShift::P64K));
        let refused = guest.phb.attach(0).unwrap_err();
        assert!(matches!(refused, PhbError::Elsewhere { start: Iova(BIG), .. }), "{preset}: {refused}");
        assert_eq!(guest.model.containers(), []);
        assert_eq!(guest.iommu.h_get_tce(DYNAMIC, 1 << 58), Ok(3));
        guest.ends_clean();
    }
}
