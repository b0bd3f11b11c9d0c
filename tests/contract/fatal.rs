//! Calls that end the machine.

use crate::fixture::{Fixture, K4, K64, iova};
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::model::Violation;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::PinError;
use spapr_iommu::space::MapError;
use std::fs;

const RW: Permission = Permission::ReadWrite;

/// A hung CPU is seen by the watchdog, which is to end the machine soon.
fn watch(fixture: &Fixture) {
    if !fixture.is_model() {
        fs::write("/proc/sys/kernel/softlockup_panic", "1").unwrap();
        fs::write("/proc/sys/kernel/watchdog_thresh", "3").unwrap();
    }
}

/// What follows a refusal: a good map in the same place.
fn works_on(library: &crate::library::Library<'_>) {
    let (memory, lease) = library.leased(K64);
    library.space.map(iova(0, K4), memory.start(), RW).unwrap();
    library.space.unmap(iova(0, K4)).unwrap();
    lease.release().unwrap();
}

/// One page more than the window has: an oops.
pub(crate) fn map_past_the_end_of_a_window_is_an_oops_on_pseries(fixture: &Fixture) {
    let end = fixture.default_window();
    fixture.scars(|| {
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        let outcome = raw.map(memory.start(), end - K4, 2 * K4);
        let (start, window) = (Iova(end - K4), iova(0, end));
        let expected = Violation::MapPastWindow { start, size: 2 * K4, window, fatal: true };
        fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
        outcome
    });
    let library = fixture.library();
    let (memory, lease) = library.leased(K64);
    let asked = iova(end - K4, 2 * K4);
    let refused = library.space.map(asked, memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::NoWindow { asked: named, .. } if named == asked), "{refused}");
    lease.release().unwrap();
    works_on(&library);
}

/// The loop that tells PHB3 to forget TCEs does not end for none.
pub(crate) fn map_of_no_bytes_at_0_hangs_power8(fixture: &Fixture) {
    fixture.scars(|| {
        watch(fixture);
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        let outcome = raw.map(memory.start(), 0, 0);
        let expected = Violation::EmptyMap { start: Iova(0) };
        fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
        outcome
    });
    // A range without a byte is none.
    assert!(IovaRange::new(Iova(0), 0).is_err());
    works_on(&fixture.library());
}

/// Likewise.
pub(crate) fn unmap_of_no_bytes_at_0_hangs_power8(fixture: &Fixture) {
    fixture.scars(|| {
        watch(fixture);
        let raw = fixture.v2();
        raw.registered(K64);
        let outcome = raw.unmap(0, 0);
        let expected = Violation::EmptyUnmap { start: Iova(0) };
        fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
        outcome
    });
    assert!(IovaRange::new(Iova(0), 0).is_err());
    works_on(&fixture.library());
}

/// The rollback of a map that fails at its first page is one of no pages.
pub(crate) fn map_at_0_that_fails_at_once_hangs_power8(fixture: &Fixture) {
    fixture.scars(|| {
        watch(fixture);
        let raw = fixture.v2();
        raw.registered(K64);
        let outcome = raw.map(fixture.memory(K64).start(), 0, K4);
        let expected = Violation::FailedMapAtZero { size: K4 };
        fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
        outcome
    });
    let library = fixture.library();
    let stranger = fixture.memory(K64);
    let refused = library.space.map(iova(0, K4), stranger.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::Memory(PinError::NotRegistered { .. })), "{refused}");
    works_on(&library);
}
