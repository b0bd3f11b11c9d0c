//! TCE_CREATE: its checks, in order, and what it does on every machine.

use crate::fixture::{Fixture, HIGH, K4, K64, iova};
use crate::locked::{default_charge, small_charge, without_default};
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::model::Violation;
use spapr_iommu::permission::Permission;
use spapr_iommu::space::{MapError, WindowError};
use spapr_iommu::uapi::spapr::TceCreate;
use spapr_iommu::window::{DefaultWindow, PlanError, Reason, WindowRequest};
use spapr_iommu_tests::by_address::RunCall;

/// A window that every machine offers.
const GOOD: TceCreate = TceCreate {
    argsz: 40,
    flags: 0,
    page_shift: 16,
    resv1: 0,
    window_size: 1 << 30,
    levels: 1,
    resv2: 0,
    start_addr: 0,
};

/// Creates a window of 64 KiB pages, whatever the memory.
fn large_pages() -> WindowRequest {
    WindowRequest::bytes(1 << 30).page(PageShift::P64K).max_iommu_page(PageShift::P64K)
}

/// The default window stays pending.
pub(crate) fn create_checks_its_arguments_before_the_default_window_comes(fixture: &Fixture) {
    let raw = fixture.v2();
    for args in [TceCreate { argsz: 39, ..GOOD }, TceCreate { argsz: 0, ..GOOD }, TceCreate { flags: 1, ..GOOD }] {
        assert_eq!(fixture.cost(|| raw.call(Call::TceCreate(args))), (Err(Errno::EINVAL), 0), "{args:?}");
    }
    drop(raw);

    let library = fixture.library();
    fixture.kernel.take();
    library.space.create_window(&large_pages()).unwrap();
    let created = fixture.kernel.take().into_iter().find_map(|record| match record.call {
        Call::TceCreate(args) => Some((args.argsz, args.flags)),
        _ => None,
    });
    assert_eq!(created, Some((40, 0)));
}

pub(crate) fn create_looks_at_no_reserved_word(fixture: &Fixture) {
    let raw = fixture.v2();
    let asked = TceCreate { resv1: 7, resv2: 9, start_addr: 0xdead, ..GOOD };
    let (result, answer) = raw.answer(Call::TceCreate(asked)).unwrap();
    assert_eq!((result, answer), (0, Call::TceCreate(TceCreate { start_addr: HIGH, ..asked })));
    drop(raw);

    let library = fixture.library();
    let window = library.space.create_window(&large_pages()).unwrap();
    assert_eq!((window.range.start(), window.range.len()), (Iova(HIGH), 1 << 30));
}

/// Size and reserved words stay as the caller set them; only the start is new. After a failure
/// nothing is.
pub(crate) fn create_writes_back_the_start_and_only_when_it_succeeds(fixture: &Fixture) {
    let raw = without_default(fixture);
    let mut failed = Call::TceCreate(TceCreate { page_shift: 13, start_addr: 0xdead, ..GOOD });
    let before = failed;
    assert_eq!(fixture.kernel.run_call(raw.fd, &mut failed), Err(Errno::EINVAL));
    assert_eq!(failed, before);
    // powernv makes the table larger, and does not say so.
    let asked = TceCreate { window_size: 1 << 24, ..GOOD };
    let start_addr = if fixture.powernv() { 0 } else { HIGH };
    let answer = raw.answer(Call::TceCreate(asked)).unwrap();
    assert_eq!(answer, (0, Call::TceCreate(TceCreate { start_addr, ..asked })));
    drop(raw);

    // The library never requests less than the smallest table, so it knows the whole window.
    let library = fixture.library();
    let window = library.space.create_window(&WindowRequest::bytes(1 << 24).page(PageShift::P4K)).unwrap();
    assert_eq!(window.range.len(), (fixture.page() / 8 * K4).max(1 << 24));
}

/// T10: even where CREATE itself is refused.
pub(crate) fn create_makes_the_pending_default_window_first(fixture: &Fixture) {
    let raw = fixture.v2();
    let charge = default_charge(fixture);
    assert_eq!(fixture.cost(|| raw.create(13, 1 << 30, 1)), (Err(Errno::EINVAL), charge));
    assert_eq!(fixture.cost(|| raw.create(16, 1 << 30, 1)), (Ok(HIGH), small_charge(fixture)));
    drop(raw);

    // The library says so first, and refuses without a call.
    let library = fixture.library();
    let plan = library.space.plan(&large_pages()).unwrap();
    assert!(plan.reasons.contains(&Reason::CreatesDefault), "{:?}", plan.reasons);
    let refused = library.space.create_window(&large_pages().page(PageShift::new(13).unwrap())).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(PlanError::PageUnsupported { .. })), "{refused}");
    assert_eq!(library.space.status().default, DefaultWindow::Pending);
    library.space.create_window(&large_pages()).unwrap();
    assert_eq!(library.space.status().default, DefaultWindow::Live);
    assert_eq!(fixture.locked(), charge + small_charge(fixture));
}

/// T10, and how to avoid it.
pub(crate) fn without_the_default_window_create_makes_one_window(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(fixture.cost(|| raw.remove(0)), (Ok(0), 0));
    let (start, cost) = fixture.cost(|| raw.create(16, 1 << 30, 1).unwrap());
    assert_eq!((start, cost), (if fixture.powernv() { 0 } else { HIGH }, small_charge(fixture)));
    drop(raw);

    let library = fixture.library();
    // The library occupies powernv's first slot meanwhile, so that the window starts where it
    // always does.
    library.space.drop_default_window().unwrap();
    let window = library.space.create_window(&large_pages()).unwrap();
    assert_eq!((window.range.start().0, fixture.locked()), (HIGH, small_charge(fixture)));
}

/// Before any other argument is checked.
pub(crate) fn a_third_window_gives_enospc(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
    for (shift, size, levels) in [(16, 1 << 30, 1), (99, 3, 77)] {
        assert_eq!(fixture.cost(|| raw.create(shift, size, levels)), (Err(Errno::ENOSPC), 0));
    }
    drop(raw);

    let library = fixture.library();
    library.space.create_window(&large_pages()).unwrap();
    library.calls();
    let refused = library.space.create_window(&large_pages()).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(PlanError::NoFreeWindow { .. })), "{refused}");
    assert_eq!(library.calls(), [""; 0], "the kernel was asked");
}

/// Including 16 GiB, which the kernel's arithmetic cannot handle.
pub(crate) fn a_page_the_machine_lacks_gives_einval(fixture: &Fixture) {
    let raw = without_default(fixture);
    let pages = raw.info().unwrap().ddw.pgsizes;
    for shift in (0..64).filter(|shift| pages & (1 << shift) == 0) {
        assert_eq!(fixture.cost(|| raw.create(shift, 1 << 40, 1)), (Err(Errno::EINVAL), 0), "{shift}");
    }
    drop(raw);

    let library = fixture.library();
    for shift in (12..40).filter(|shift| pages & (1 << shift) == 0) {
        let Some(page) = PageShift::new(shift) else { continue };
        let refused = library.space.plan(&WindowRequest::bytes(1 << 40).page(page)).unwrap_err();
        let WindowError::Refused(PlanError::PageUnsupported { supported, .. }) = refused else { panic!("{refused}") };
        assert!(supported.iter().all(|page| pages & page.bytes() != 0), "{supported:?}");
    }
}

/// 76 is not 12, but 140 is: the processor shifts by the low seven bits.
pub(crate) fn a_page_shift_counts_by_its_low_seven_bits_in_6_12(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = without_default(fixture);
        for shift in [64 + 12, 127, 128 + 13] {
            assert_eq!(fixture.cost(|| raw.create(shift, 1 << 63, 2)), (Err(Errno::EINVAL), 0), "{shift}");
        }
        // It passed the check, was charged for two levels, and is refused because of them.
        let charge = (0xffff_ffff & !(fixture.page() - 1)).cast_signed();
        assert_eq!(fixture.cost(|| raw.create(128 + 12, 1 << 63, 2)), (Err(Errno::EINVAL), charge));
        let taken = Violation::WildPageShift { page_shift: 140 };
        fixture.on_model(|model| assert_eq!(model.violations()[0], taken));
    });
    // Pages of the library are 2^12 to 2^63 bytes.
    assert_eq!(PageShift::new(128 + 12), None);
    fixture.library().space.create_window(&large_pages()).unwrap();
}

pub(crate) fn a_page_shift_above_63_gives_einval_since_7_2(fixture: &Fixture) {
    let raw = without_default(fixture);
    for shift in [64 + 12, 127, 128 + 12, 128 + 16, 1 << 31 | 12] {
        assert_eq!(fixture.cost(|| raw.create(shift, 1 << 63, 2)), (Err(Errno::EINVAL), 0), "{shift}");
    }
    drop(raw);
    assert_eq!(PageShift::new(128 + 12), None);
    fixture.library().space.create_window(&large_pages()).unwrap();
}

/// A window must have room for a page; on powernv five levels and one level are no good either.
pub(crate) fn an_empty_table_gives_einval(fixture: &Fixture) {
    let raw = without_default(fixture);
    let refused: &[(u64, u32)] = if fixture.powernv() {
        &[(0, 1), (3 << 30, 1), (u64::MAX, 1), (1 << 30, 0), (1 << 30, 6), (1 << 30, u32::MAX)]
    } else {
        &[(0, 1), (0x100, 1), (0x100, 0)]
    };
    for &(size, levels) in refused {
        assert_eq!(fixture.cost(|| raw.create(12, size, levels)), (Err(Errno::EINVAL), 0), "{size:#x} {levels}");
    }
    drop(raw);

    // The library rounds up, and chooses levels itself.
    let library = fixture.library();
    let window = library.space.create_window(&WindowRequest::bytes(0x100)).unwrap();
    assert_eq!(window.range.len(), fixture.page() / 8 * window.page.bytes());
    let (memory, _lease) = library.leased(K64);
    let first = iova(window.range.start().0, window.page.bytes());
    library.space.map(first, memory.start(), Permission::ReadWrite).unwrap();
    library.space.unmap(first).unwrap();
}

/// T12: windows take the lowest free slot, and each slot has its address.
pub(crate) fn a_slot_decides_where_a_window_starts_on_powernv(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
    assert_eq!(raw.remove(0), Ok(0));
    assert_eq!(raw.create(16, 1 << 36, 1), Ok(0));
    assert_eq!(raw.remove(HIGH), Ok(0));
    assert_eq!(raw.create(12, 1 << 30, 1), Ok(HIGH));
    drop(raw);

    let library = fixture.library();
    library.space.create_window(&large_pages()).unwrap();
    library.space.drop_default_window().unwrap();
    let plan = library.space.plan(&large_pages()).unwrap();
    assert_eq!(plan.window.start, Some(Iova(0)));
    assert!(plan.reasons.contains(&Reason::SlotStart(Iova(0))), "{:?}", plan.reasons);
    assert_eq!(library.space.create_window(&large_pages()).unwrap().range.start(), Iova(0));
}

/// T12 and T13: no page size allows the five levels that GET_INFO reports.
pub(crate) fn levels_over_55_bits_give_einval_on_powernv(fixture: &Fixture) {
    let (small, large) = if fixture.page() == K4 { (4, 4) } else { (3, 2) };
    let raw = without_default(fixture);
    assert_eq!(raw.info().unwrap().ddw.levels, 5);
    for (shift, most) in [(12, small), (16, large)] {
        for levels in 2..=most {
            assert_eq!(raw.create(shift, 1 << 30, levels), Ok(0), "{shift} {levels}");
            assert_eq!(raw.remove(0), Ok(0));
        }
    }
    fixture.scars(|| {
        for (shift, most) in [(12, small), (16, large)] {
            for levels in most + 1..=5 {
                let (outcome, lost) = fixture.cost(|| raw.create(shift, 1 << 30, levels));
                assert_eq!((outcome, lost > 0), (Err(Errno::EINVAL), true), "{shift} {levels}: {lost}");
            }
        }
    });
    drop(raw);

    let library = fixture.library();
    for (page, most) in [(PageShift::P4K, small), (PageShift::P64K, large)] {
        let request = WindowRequest::bytes(1 << 40).page(page).max_iommu_page(PageShift::P64K);
        let plan = library.space.plan(&request).unwrap();
        assert!(plan.window.levels <= most, "{plan:?}");
    }
    library.space.create_window(&large_pages()).unwrap();
}

/// All of the host page that the smallest table occupies can be mapped.
pub(crate) fn a_small_window_is_larger_than_asked_on_powernv(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.create(12, 64 << 10, 1), Ok(HIGH));
    let end = HIGH + fixture.page() / 8 * K4;
    assert_eq!(raw.map(memory.start(), end - K4, K4), Ok(0));
    assert_eq!(raw.map(memory.start(), end, K4), Err(Errno::ENXIO));
    assert_eq!(raw.unmap(end - K4, K4), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let request = WindowRequest::bytes(64 << 10).page(PageShift::P4K);
    let plan = library.space.plan(&request).unwrap();
    let rounded = Reason::Rounded { asked: 64 << 10, size: end - HIGH };
    assert!(plan.reasons.contains(&rounded), "{:?}", plan.reasons);
    assert_eq!(library.space.create_window(&request).unwrap().range.len(), end - HIGH);
}

/// The device may not get that far: the PHB decodes 2 to 4 GiB as MMIO, and the kernel itself
/// avoids that range.
pub(crate) fn a_large_window_at_0_covers_mmio_on_powernv(fixture: &Fixture) {
    let raw = without_default(fixture);
    let memory = raw.registered(K64);
    assert_eq!(raw.create(16, 8 << 30, 1), Ok(0));
    if fixture.page() == K64 {
        assert_eq!(raw.map(memory.start(), 3 << 30, K64), Ok(0));
        assert_eq!(raw.unmap(3 << 30, K64), Ok(0));
    }
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    library.space.drop_default_window().unwrap();
    let large_pages = |request: WindowRequest| request.page(PageShift::P64K).max_iommu_page(PageShift::P64K);
    let request = large_pages(WindowRequest::bytes(8 << 30));
    assert_eq!(library.space.plan(&request).unwrap().window.start, Some(Iova(HIGH)));
    // A window at 0 is created for what lies above the MMIO, and nothing is mapped over that.
    let cover = |start| large_pages(WindowRequest::cover(iova(start, 1 << 30)));
    let refused = library.space.plan(&cover(3 << 30)).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(PlanError::OverMmio { .. })), "{refused}");
    let plan = library.space.plan(&cover(7 << 30)).unwrap();
    assert!(plan.reasons.contains(&Reason::OverlapsMmio), "{:?}", plan.reasons);
    if fixture.page() == K64 {
        let (memory, _lease) = library.leased(K64);
        library.space.create_window(&cover(7 << 30)).unwrap();
        let refused = library.space.map(iova(3 << 30, K64), memory.start(), Permission::ReadWrite).unwrap_err();
        assert!(matches!(refused, MapError::NoWindow { why: PlanError::OverMmio { .. }, .. }), "{refused}");
    }
}
