//! TCE_CREATE on pseries: the firmware decides, and what it refuses once is refused until reboot.

use crate::fixture::{Fixture, HIGH, K4, K64, iova};
use crate::locked::{default_charge, small_charge, without_default};
use crate::rule::Leaves;
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::host::Errno;
use spapr_iommu::model::{Firmware, Machine, Preset, Violation};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::{AddressSpace, MapError, WindowError};
use spapr_iommu::window::{DefaultWindow, Origin, PlanError, Reason, WindowRequest};
use spapr_iommu_tests::by_address::ByAddress;

const RW: Permission = Permission::ReadWrite;

fn large_pages() -> WindowRequest {
    WindowRequest::bytes(1 << 30).page(PageShift::P64K).max_iommu_page(PageShift::P64K)
}

pub(crate) fn the_default_window_and_a_dynamic_one_fit_on_pseries(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    // 0 levels count as 1.
    assert_eq!(raw.create(12, 1 << 30, 0), Ok(HIGH));
    for start in [0, HIGH] {
        assert_eq!(raw.map(memory.start(), start, K64), Ok(0));
        assert_eq!(raw.unmap(start, K64), Ok(0));
    }
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    let window = library.space.create_window(&large_pages().page(PageShift::P4K)).unwrap();
    assert_eq!((window.range.start(), window.levels), (Iova(HIGH), 1));
    for start in [0, HIGH] {
        library.space.map(iova(start, K64), memory.start(), RW).unwrap();
        library.space.unmap(iova(start, K64)).unwrap();
    }
}

/// The firmware chooses start_addr, whatever the slot.
pub(crate) fn a_dynamic_window_in_slot_0_lies_high_on_pseries(fixture: &Fixture) {
    let raw = without_default(fixture);
    assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
    assert_eq!(raw.remove(HIGH), Ok(0));
    // 4K pages, but larger than the default window was.
    assert_eq!(raw.create(12, 1 << 31, 1), Ok(HIGH));
    drop(raw);

    let library = fixture.library();
    library.space.drop_default_window().unwrap();
    let plan = library.space.plan(&large_pages()).unwrap();
    assert_eq!(plan.window.start, None, "not known before");
    assert!(plan.reasons.contains(&Reason::FirmwareStart), "{:?}", plan.reasons);
    assert_eq!(library.space.create_window(&large_pages()).unwrap().range.start(), Iova(HIGH));
}

/// With 4K pages, no larger than the default window and in slot 0, it takes the default window's
/// place, with the length requested.
pub(crate) fn a_small_window_in_slot_0_is_a_default_window_on_pseries(fixture: &Fixture) {
    let raw = without_default(fixture);
    let memory = raw.registered(K64);
    assert_eq!(raw.create(12, 1 << 28, 1), Ok(0));
    assert_eq!(raw.map(memory.start(), (1 << 28) - K64, K64), Ok(0));
    assert_eq!(raw.map(memory.start(), 1 << 28, K64), Err(Errno::ENXIO));
    assert_eq!(raw.unmap((1 << 28) - K64, K64), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    // The library creates it at full size again.
    let library = fixture.library();
    library.space.drop_default_window().unwrap();
    let window = library.space.create_window(&WindowRequest::bytes(1 << 28).page(PageShift::P4K)).unwrap();
    assert_eq!((window.range, window.origin), (iova(0, fixture.default_window()), Origin::Default));
    assert_eq!(library.space.status().default, DefaultWindow::Live);
}

/// EPERM, which leaks but poisons nothing.
pub(crate) fn slot_0_is_closed_while_a_dynamic_window_lives_on_pseries(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = fixture.v2();
        assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
        assert_eq!(raw.remove(0), Ok(0));
        let charges = [default_charge(fixture), small_charge(fixture)];
        for (shift, lost) in [12, 16].into_iter().zip(charges) {
            assert_eq!(fixture.cost(|| raw.create(shift, 1 << 30, 1)), (Err(Errno::EPERM), lost));
        }
        let leaked = charges.map(|bytes| Violation::LeakedCharge { bytes: bytes.unsigned_abs() });
        fixture.on_model(|model| assert_eq!(model.violations(), leaked));
        assert_eq!(raw.remove(HIGH), Ok(0));
        assert_eq!(raw.create(12, 1 << 30, 1), Ok(0), "as soon as that is gone");
    });
    let library = fixture.library();
    let dynamic = library.space.create_window(&large_pages()).unwrap();
    library.space.drop_default_window().unwrap();
    for request in [large_pages(), large_pages().page(PageShift::P4K)] {
        let refused = library.space.create_window(&request).unwrap_err();
        let present = dynamic.range;
        assert_eq!(refused, WindowError::Refused(PlanError::SecondDdw { present }));
    }
    library.space.remove_window(dynamic.range.start()).unwrap();
    let window = library.space.create_window(&large_pages().page(PageShift::P4K)).unwrap();
    assert_eq!(window.range, iova(0, fixture.default_window()));
}

/// Refused after 4 GiB were charged.
pub(crate) fn more_than_one_level_gives_einval_and_loses_4_gib_on_pseries(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = without_default(fixture);
        let charge = (0xffff_ffff & !(fixture.page() - 1)).cast_signed();
        assert_eq!(fixture.cost(|| raw.create(16, 1 << 30, 2)), (Err(Errno::EINVAL), charge));
        let bytes = charge.unsigned_abs();
        fixture.on_model(|model| assert_eq!(model.violations(), [Violation::LeakedCharge { bytes }]));
        let limit = fixture.limit(K64);
        assert_eq!(fixture.cost(|| raw.create(16, 1 << 30, 2)), (Err(Errno::ENOMEM), 0), "without the capability");
        drop(limit);
    });
    let library = fixture.library();
    let window = library.space.create_window(&WindowRequest::bytes(1 << 34).page(PageShift::P4K)).unwrap();
    assert_eq!(window.levels, 1);
}

/// More TCEs than the firmware's largest block: leaks, but a smaller window still works.
pub(crate) fn too_large_a_window_gives_einval_and_poisons_nothing_on_pseries(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = without_default(fixture);
        let charge = 8 << 38;
        assert_eq!(fixture.cost(|| raw.create(12, 1 << 50, 1)), (Err(Errno::EINVAL), charge));
        let bytes = charge.unsigned_abs();
        fixture.on_model(|model| assert_eq!(model.violations(), [Violation::LeakedCharge { bytes }]));
        assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
    });
    let library = fixture.library();
    library.calls();
    let refused = library.space.create_window(&WindowRequest::bytes(1 << 50).page(PageShift::P4K)).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(PlanError::TooLarge { .. })), "{refused}");
    assert_eq!(library.calls(), [""; 0], "the kernel was asked");
    library.space.create_window(&large_pages()).unwrap();
}

/// The kernel warns of an allocation of zero bytes; the window exists and holds no page.
pub(crate) fn a_window_below_its_page_makes_the_kernel_warn_on_pseries(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = without_default(fixture);
        let memory = raw.registered(K64);
        assert_eq!(raw.create(12, 0x800, 1), Ok(0));
        fixture.on_model(|model| assert_eq!(model.violations(), [Violation::EmptyWindow { size: 0x800 }]));
        assert_eq!(raw.map(memory.start(), 0, K4), Err(Errno::ENXIO));
    });
    let library = fixture.library();
    library.space.drop_default_window().unwrap();
    let window = library.space.create_window(&WindowRequest::bytes(0x800).page(PageShift::P4K)).unwrap();
    assert_eq!(window.range, iova(0, fixture.default_window()));
}

/// T6. Each MAP, UNMAP and CREATE tries to create the default window again, is refused, and is
/// charged.
pub(crate) fn every_try_on_a_pe_out_of_use_loses_a_charge_on_pseries(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = without_default(fixture);
        assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
        let lost = small_charge(fixture);
        assert_eq!(fixture.cost(|| raw.create(16, 1 << 30, 1)), (Err(Errno::ENODEV), lost));
        let group = fixture.groups[0].0;
        let bytes = lost.unsigned_abs();
        let poison = [
            Violation::SecondDdw { group: group.0 },
            Violation::Poisoned { group: group.0 },
            Violation::LeakedCharge { bytes },
        ];
        fixture.on_model(|model| assert_eq!(model.violations(), poison));
        drop(raw);

        let raw = fixture.v2();
        let memory = raw.registered(K64);
        let lost = default_charge(fixture);
        assert_eq!(fixture.cost(|| raw.map(memory.start(), 0, K4)), (Err(Errno::ENODEV), lost));
        assert_eq!(fixture.cost(|| raw.unmap(0, K4)), (Err(Errno::ENODEV), lost));
        assert_eq!(fixture.cost(|| raw.create(16, 1 << 30, 1)), (Err(Errno::ENODEV), lost));
        assert_eq!(raw.remove(0), Ok(0));
        assert_eq!(raw.create(16, 1 << 30, 1), Err(Errno::ENODEV));
        raw.gives_back(memory);
        drop(raw);

        // The library, which disabled nothing, tries once and never again, whatever the window and
        // space.
        let registry = Registry::new(fixture.kernel.clone());
        let lease = registry.lease(memory).unwrap();
        for (again, lost) in [(false, lost), (true, 0)] {
            let space = AddressSpace::new(&registry);
            space.attach(group).unwrap();
            let (refused, cost) = fixture.cost(|| space.map(iova(0, K4), memory.start(), RW).unwrap_err());
            let poisoned = matches!(
                refused,
                MapError::NoWindow { why: PlanError::Poisoned, .. }
                    | MapError::Window(WindowError::Refused(PlanError::Poisoned))
            );
            assert_eq!((poisoned, cost), (again, lost), "{refused}");
        }
        lease.release().unwrap();
    });
}

/// GET_INFO reported this by all ones and no levels: T13. The first attempt is EINVAL, all later
/// ones ENODEV.
pub(crate) fn without_ddw_in_the_firmware_there_is_no_window_on_pseries(fixture: &Fixture) {
    // First the library, which makes no request.
    {
        let library = fixture.library();
        let (memory, _lease) = library.leased(K64);
        library.calls();
        let refused = library.space.map(iova(0, K4), memory.start(), RW).unwrap_err();
        assert!(matches!(refused, MapError::NoWindow { why: PlanError::NoDdw, .. }), "{refused}");
        let refused = library.space.create_window(&large_pages()).unwrap_err();
        assert_eq!(refused, WindowError::Refused(PlanError::NoDdw));
        assert_eq!(library.calls(), [""; 0], "the kernel was asked");
    }
    fixture.scars(|| {
        let raw = fixture.v2();
        let ddw = raw.info().unwrap().ddw;
        assert_eq!((ddw.pgsizes, ddw.max_dynamic_windows_supported, ddw.levels), (0x1000, u32::MAX, 0));
        let memory = raw.registered(K64);
        let lost = default_charge(fixture);
        assert_eq!(fixture.cost(|| raw.map(memory.start(), 0, K4)), (Err(Errno::EINVAL), lost));
        assert_eq!(fixture.cost(|| raw.map(memory.start(), 0, K4)), (Err(Errno::ENODEV), lost));
        let group = fixture.groups[0].0;
        fixture.on_model(|model| assert_eq!(model.violations()[0], Violation::Poisoned { group: group.0 }));
        raw.gives_back(memory);
    });
}

/// The firmware counts its windows; the default one occupies the only place until it is removed.
pub(crate) fn the_only_window_is_available_once_the_default_one_is_gone_on_pseries(fixture: &Fixture) {
    let machine = Machine::Pseries(Firmware { windows: 1, ..Firmware::default() });
    let fixture = &Fixture::model(Preset { machine, ..fixture.preset });
    let raw = without_default(fixture);
    assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
    drop(raw);

    let library = fixture.library();
    let plan = library.space.plan(&large_pages()).unwrap();
    assert!(plan.reasons.contains(&Reason::DefaultMakesRoom), "{:?}", plan.reasons);
    assert_eq!(library.space.create_window(&large_pages()).unwrap().range.start(), Iova(HIGH));
    assert_eq!(library.space.status().default, DefaultWindow::Gone);
    drop(library);
    fixture.ends(Leaves::CleanModel);
}
