//! Hypercalls: arguments, codes and effects, with and without devices.

use spapr_iommu::Group;
use spapr_iommu::addr::{GuestAddr, Iova, PageShift};
use spapr_iommu::guest::{GuestMemory, HcallError, Liobn};
use spapr_iommu::host::Memory;
use spapr_iommu::uapi::papr::hcall::{H_GET_TCE, H_PARAMETER, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, H_SUCCESS};
use spapr_iommu_tests::guest_fixture::{BIG, Fixture, LIOBN, LIST, PRESETS, RAM, tces};

const PAGE: u64 = 0x1000;

/// Guests with and without a device.
fn both(preset: &str, test: impl Fn(&Fixture)) {
    for attached in [false, true] {
        let fixture = Fixture::new(preset);
        if attached {
            fixture.phb.attach(Group(0)).unwrap();
        }
        test(&fixture);
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_tce_is_entered_read_replaced_and_cleared() {
    for preset in PRESETS {
        both(preset, |fixture| {
            let iommu = &fixture.iommu;
            assert_eq!(iommu.h_get_tce(LIOBN, 0), Ok(0));
            iommu.h_put_tce(LIOBN, PAGE, 0x5003).unwrap();
            fixture.agrees();
            iommu.h_put_tce(LIOBN, PAGE, 0x7001).unwrap();
            fixture.agrees();
            assert_eq!(iommu.h_get_tce(LIOBN, PAGE), Ok(0x7001));
            // Without permissions, the other bits are the guest's own.
            iommu.h_put_tce(LIOBN, PAGE, 0xffff_ffff_0000_0abc).unwrap();
            assert_eq!(iommu.h_get_tce(LIOBN, PAGE), Ok(0xffff_ffff_0000_0abc));
            assert_eq!(fixture.phb.space().mapped(), (0, 0));
        });
    }
}

#[test]
fn a_list_of_neighbours_is_one_map_and_clearing_it_one_unmap() {
    let fixture = Fixture::new("powernv9-64k");
    fixture.phb.attach(Group(0)).unwrap();
    // The host's default window is created.
    fixture.iommu.h_put_tce(LIOBN, 0, 3).unwrap();
    fixture.iommu.h_put_tce(LIOBN, 0, 0).unwrap();
    fixture.calls();
    fixture.put(LIOBN, 0, &tces(0x20_0000, 512, PageShift::P4K));
    assert_eq!(fixture.calls(), (1, 0));
    fixture.agrees();
    fixture.iommu.h_stuff_tce(LIOBN, 0, 0, 512).unwrap();
    assert_eq!(fixture.calls(), (0, 1));
    // Nothing is there now.
    fixture.iommu.h_stuff_tce(LIOBN, 0, 0, 512).unwrap();
    assert_eq!(fixture.calls(), (0, 0));
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn a_list_may_map_and_clear_at_once() {
    both("pseries-64k", |fixture| {
        fixture.put(LIOBN, 0, &tces(0, 16, PageShift::P4K));
        let mixed = [0x9003, 0, 0, 0x3001, 0x4001, 8, 0x6002];
        fixture.put(LIOBN, 2 * PAGE, &mixed);
        let seen: Vec<u64> = (0..16).map(|n| fixture.iommu.h_get_tce(LIOBN, n * PAGE).unwrap()).collect();
        assert_eq!(seen[..2], [3, 0x1003]);
        assert_eq!(seen[2..9], mixed);
        assert_eq!(seen[9], 0x9003);
    });
}

#[test]
fn a_list_with_one_wrong_tce_changes_nothing() {
    both("powernv9-4k-7.2", |fixture| {
        fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
        for (wrong, error) in [
            (RAM | 3, HcallError::NotRam { at: GuestAddr(RAM) }),
            (!0xfff | 1, HcallError::NotRam { at: GuestAddr(!0xfff) }),
            (0x1803, HcallError::TceMisaligned { tce: 0x1803, page: PageShift::P4K }),
            (0x1007, HcallError::TceMisaligned { tce: 0x1007, page: PageShift::P4K }),
        ] {
            let mut list = tces(0x10_0000, 8, PageShift::P4K);
            list[7] = wrong;
            fixture.list(&list);
            assert_eq!(fixture.iommu.h_put_tce_indirect(LIOBN, 0, LIST, 8), Err(error.clone()));
            assert_eq!(error.return_code(), H_PARAMETER);
            assert_eq!(fixture.iommu.h_get_tce(LIOBN, 0), Ok(3));
            fixture.agrees();
        }
    });
}

#[test]
fn arguments_out_of_range_are_h_parameter() {
    both("powernv8-64k", |fixture| {
        let code = |number, args: &[u64]| {
            let mut all = [0; 9];
            all[..args.len()].copy_from_slice(args);
            fixture.iommu.hcall(number, &mut all)
        };
        let end = 1 << 30;
        let ours = u64::from(LIOBN.0);
        fixture.list(&[0x1003, 0x2003]);
        for (number, args) in [
            (H_PUT_TCE, [7, 0, 3, 0]),
            (H_PUT_TCE, [ours | 1 << 32, 0, 3, 0]),
            (H_PUT_TCE, [ours, 0x800, 3, 0]),
            (H_PUT_TCE, [ours, end, 3, 0]),
            (H_PUT_TCE, [ours, BIG, 3, 0]),
            (H_PUT_TCE, [ours, !0xfff, 3, 0]),
            (H_GET_TCE, [ours, end, 0, 0]),
            (H_GET_TCE, [ours, 1, 0, 0]),
            (H_STUFF_TCE, [ours, 0, 3, 1]),
            (H_STUFF_TCE, [ours, 0, 0, end / PAGE + 1]),
            (H_STUFF_TCE, [ours, end - PAGE, 0, 2]),
            (H_STUFF_TCE, [ours, PAGE, 0, u64::MAX]),
            (H_STUFF_TCE, [ours, end, 0, 0]),
            (H_PUT_TCE_INDIRECT, [ours, end, LIST, 0]),
            (H_PUT_TCE_INDIRECT, [ours, 0, LIST, 513]),
            (H_PUT_TCE_INDIRECT, [ours, 0, LIST, u64::MAX]),
            (H_PUT_TCE_INDIRECT, [ours, 0, LIST + 8, 2]),
            (H_PUT_TCE_INDIRECT, [ours, end - PAGE, LIST, 2]),
            (H_PUT_TCE_INDIRECT, [ours, 0, RAM, 2]),
            (H_PUT_TCE_INDIRECT, [ours, 0, !0xfff, 2]),
        ] {
            assert_eq!(code(number, &args), Some(H_PARAMETER), "{number:#x} {args:x?}");
        }
        assert_eq!(code(0x1234, &[ours]), None);
        // An empty list is valid.
        assert_eq!(code(H_STUFF_TCE, &[ours, 0, 0, 0]), Some(H_SUCCESS));
        assert_eq!(code(H_PUT_TCE_INDIRECT, &[ours, 0, LIST, 0]), Some(H_SUCCESS));
        assert_eq!(code(H_STUFF_TCE, &[ours, 0, 0, end / PAGE]), Some(H_SUCCESS));
        let mut args = [ours, 0, 0, 0, 0, 0, 0, 0, 0];
        fixture.iommu.h_put_tce(LIOBN, 0, 0x3003).unwrap();
        assert_eq!((fixture.iommu.hcall(H_GET_TCE, &mut args), args[0]), (Some(H_SUCCESS), 0x3003));
    });
}

#[test]
fn what_the_kernel_refuses_is_h_hardware_and_changes_nothing() {
    use spapr_iommu::host::Errno;
    use spapr_iommu::model::Faulty;
    use spapr_iommu::model::Model;
    use std::sync::Arc;
    let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let host = Arc::new(Faulty::new(Arc::clone(&model)));
    let registry = spapr_iommu::registry::Registry::new(host.clone());
    let slots = Arc::new(spapr_iommu::guest::Slots::new());
    let ram = spapr_iommu::host::Host::share(&*model, 1 << 20, PageShift::P64K).unwrap();
    slots.insert(GuestAddr(0), &ram).unwrap();
    let iommu = spapr_iommu::guest::GuestIommu::new(&registry, slots.clone());
    iommu.add_memory().unwrap();
    let phb = iommu.add_phb(spapr_iommu::guest::PhbConfig::new(1, LIOBN).unwrap()).unwrap();
    phb.attach(Group(0)).unwrap();
    iommu.h_put_tce(LIOBN, 0, 0x1003).unwrap();
    host.arm(0, 1, Err(Errno::ENOMEM));
    let refused = iommu.h_put_tce(LIOBN, 0, 0x2003).unwrap_err();
    assert_eq!(refused.return_code(), -1);
    assert_eq!(iommu.h_get_tce(LIOBN, 0), Ok(0x1003));
    assert_eq!(phb.space().translate(Iova(0)).unwrap().user.0, ram.range().start().0 + 0x1000);
    host.arm(0, 1, Err(Errno::EIO));
    assert_eq!(iommu.h_stuff_tce(LIOBN, 0, 0, 1).unwrap_err().return_code(), -1);
    assert_eq!(iommu.h_get_tce(LIOBN, 0), Ok(0x1003));
    iommu.h_stuff_tce(LIOBN, 0, 0, 1).unwrap();
}

#[test]
fn a_list_is_read_once() {
    // A list within the range it maps: entries that change under it do not matter, because only the
    // copy counts.
    both("powernv9-64k", |fixture| {
        let list: Vec<u64> = tces(LIST, 512, PageShift::P4K);
        fixture.put(LIOBN, 0, &list);
        fixture.slots.write(GuestAddr(LIST), &[0xff; 4096]).unwrap();
        assert_eq!(fixture.iommu.h_get_tce(LIOBN, 5 * PAGE), Ok(list[5]));
    });
}

#[test]
fn an_unknown_liobn_names_itself() {
    let fixture = Fixture::new("powernv9-64k");
    let error = fixture.iommu.h_put_tce(Liobn(5), 0, 0).unwrap_err();
    assert_eq!(error.to_string(), "there is no table with LIOBN 0x5");
}

#[test]
fn a_list_that_leaves_ram_after_it_was_in_it_is_refused() {
    both("powernv9-64k", |fixture| {
        // The second run starts in the slot of the first one, and ends after it.
        let list = [0x1003, (RAM - PAGE) | 3, RAM | 3];
        fixture.list(&list);
        let refused = Err(HcallError::NotRam { at: GuestAddr(RAM) });
        assert_eq!(fixture.iommu.h_put_tce_indirect(LIOBN, 0, LIST, 3), refused);
        assert_eq!(fixture.iommu.h_get_tce(LIOBN, 0), Ok(0));
        fixture.agrees();
        // With RAM there that lies elsewhere in user memory, each page leads to its own.
        Memory::allocate(fixture.model.as_ref(), RAM, PageShift::P64K).unwrap();
        fixture.plug(RAM, RAM);
        fixture.put(LIOBN, 0, &list);
        fixture.agrees();
    });
}

#[test]
fn neighbours_with_different_rights_are_mapped_each_with_its_own() {
    for preset in ["powernv9-64k", "pseries-4k"] {
        both(preset, |fixture| {
            fixture.put(LIOBN, 0, &[0x1001, 0x2003, 0x3002, 0x4002, 0x5001]);
            fixture.agrees();
        });
    }
}
