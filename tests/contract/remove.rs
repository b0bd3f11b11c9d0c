//! TCE_REMOVE.

use crate::fixture::{Fixture, HIGH, K4, K64, iova};
use crate::locked::{default_charge, small_charge};
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::permission::Permission;
use spapr_iommu::space::WindowError;
use spapr_iommu::uapi::spapr::TceRemove;
use spapr_iommu::window::{DefaultWindow, PlanError, WindowRequest};

const RW: Permission = Permission::ReadWrite;

/// Creates a window of 64 KiB pages, whatever the memory.
fn large_pages() -> WindowRequest {
    WindowRequest::bytes(1 << 30).page(PageShift::P64K).max_iommu_page(PageShift::P64K)
}

pub(crate) fn remove_checks_its_arguments_before_it_cancels(fixture: &Fixture) {
    let raw = fixture.v2();
    let good = TceRemove { argsz: 16, flags: 0, start_addr: 0 };
    for args in [TceRemove { argsz: 15, ..good }, TceRemove { flags: 1, ..good }] {
        assert_eq!(raw.call(Call::TceRemove(args)), Err(Errno::EINVAL), "{args:?}");
    }
    assert_eq!(raw.call(Call::TceRemove(good)), Ok(0), "it still waited");
    drop(raw);

    let library = fixture.library();
    fixture.kernel.take();
    library.space.drop_default_window().unwrap();
    let calls: Vec<_> = fixture.kernel.take().into_iter().map(|record| record.call).collect();
    assert_eq!(calls, [Call::TceRemove(good)]);
}

/// Address 0 alone does this, and no table is ever created.
pub(crate) fn remove_of_0_cancels_the_pending_default_window(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.remove(K4), Err(Errno::EINVAL), "inside, but not its start");
    assert_eq!(raw.remove(HIGH), Err(Errno::EINVAL));
    assert_eq!(fixture.cost(|| raw.remove(0)), (Ok(0), 0));
    assert_eq!(raw.remove(0), Err(Errno::EINVAL), "it is gone");
    drop(raw);

    let library = fixture.library();
    let (dropped, cost) = fixture.cost(|| library.space.drop_default_window());
    assert_eq!((dropped, cost), (Ok(()), 0));
    assert_eq!(library.space.status().default, DefaultWindow::Gone);
    assert_eq!(library.space.drop_default_window(), Ok(()), "once more does no harm");
}

/// T10: only the first attached group makes one pending.
pub(crate) fn a_removed_default_window_does_not_come_back(fixture: &Fixture) {
    for live in [false, true] {
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        if live {
            assert_eq!(raw.unmap(0, K4), Ok(0));
        }
        assert_eq!(raw.remove(0), Ok(0));
        assert_eq!(raw.map(memory.start(), K64, K4), Err(Errno::ENXIO));
        assert_eq!(raw.unmap(K64, K4), Err(Errno::ENXIO));
        raw.gives_back(memory);
        assert_eq!(fixture.locked(), 0);
    }

    // A map there makes the library create a window again.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.drop_default_window().unwrap();
    library.space.map(iova(K64, K64), memory.start(), RW).unwrap();
    let windows = library.space.status().windows;
    assert!(matches!(windows[..], [(window, K64)] if window.range.start() == Iova(0)), "{windows:?}");
    library.space.unmap(iova(K64, K64)).unwrap();
}

/// T14: not just its start.
pub(crate) fn remove_takes_any_address_inside_a_window(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
    let charge = small_charge(fixture);
    assert_eq!(fixture.cost(|| raw.remove(HIGH + 0x1234_5678)), (Ok(0), -charge));
    let default = default_charge(fixture);
    assert_eq!(fixture.cost(|| raw.remove(fixture.default_window() - 1)), (Ok(0), -default));
    drop(raw);

    let library = fixture.library();
    let window = library.space.create_window(&large_pages()).unwrap();
    let inside = Iova(window.range.start().0 + 0x1234_5678);
    let refused = library.space.remove_window(inside).unwrap_err();
    assert!(
        matches!(refused, WindowError::Refused(PlanError::NoSuchWindow { start, .. }) if start == inside),
        "{refused}"
    );
    library.space.remove_window(window.range.start()).unwrap();
}

pub(crate) fn remove_outside_all_windows_gives_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
    for start in [fixture.default_window(), HIGH - 1, HIGH + (1 << 30), u64::MAX] {
        assert_eq!(fixture.cost(|| raw.remove(start)), (Err(Errno::EINVAL), 0), "{start:#x}");
    }
    drop(raw);

    let library = fixture.library();
    library.calls();
    let refused = library.space.remove_window(Iova(HIGH)).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(PlanError::NoSuchWindow { .. })), "{refused}");
    assert_eq!(library.calls(), [""; 0], "the kernel was asked");
}

/// There is no check: the maps are gone, the regions can be unregistered, the charge is returned.
pub(crate) fn remove_unmaps_what_is_mapped_in_the_window(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.create(12, 1 << 30, 1), Ok(HIGH));
    assert_eq!(raw.map(memory.start(), HIGH, K64), Ok(0));
    assert_eq!(fixture.cost(|| raw.remove(HIGH)), (Ok(0), -default_charge(fixture).min(4 << 20)));
    assert_eq!(raw.map(memory.start(), HIGH, K64), Err(Errno::ENXIO));
    raw.gives_back(memory);
    // The new one is empty: what is unmapped from it leads nowhere.
    assert_eq!(raw.create(12, 1 << 30, 1), Ok(HIGH));
    assert!(raw.entries(1).is_none_or(|entries| entries.is_empty()));
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    let start = library.space.create_window(&large_pages().page(PageShift::P4K)).unwrap().range.start();
    library.space.map(iova(start.0, K64), memory.start(), RW).unwrap();
    library.calls();
    let refused = library.space.remove_window(start).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(PlanError::InUse { .. })), "{refused}");
    assert_eq!(library.calls(), [""; 0], "the kernel was asked");
    library.space.unmap(iova(start.0, K64)).unwrap();
    library.space.remove_window(start).unwrap();
}

/// An older kernel only took the window from the device; this one clears it first, which the device
/// sees.
pub(crate) fn a_device_reaches_nothing_once_the_window_is_removed(fixture: &Fixture) {
    let raw = fixture.v2();
    let device = raw.device(0).unwrap();
    let memory = raw.registered(2 * K64);
    fixture.fill(memory, 7);
    assert_eq!(raw.create(12, 1 << 30, 1), Ok(HIGH));
    assert_eq!(raw.map(memory.start(), HIGH, 2 * K64), Ok(0));
    assert_eq!(raw.map(memory.start(), 0, 2 * K64), Ok(0));
    assert_eq!(raw.remove(HIGH), Ok(0));
    // The device reads nothing from there, and writes that nothing through the remaining window.
    raw.dma(device, HIGH, K64, 16);
    assert_eq!((fixture.byte(memory, 0), fixture.byte(memory, K64)), (7, 0));
    assert_eq!(raw.unmap(0, 2 * K64), Ok(0));
    raw.gives_back(memory);
    raw.close_devices();
    drop(raw);

    let library = fixture.library();
    let window = library.space.create_window(&large_pages()).unwrap();
    library.space.remove_window(window.range.start()).unwrap();
    assert!(library.space.status().windows.iter().all(|(left, _)| left.range != window.range));
}
