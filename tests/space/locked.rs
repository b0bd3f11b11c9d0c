//! Locked memory: counted before the kernel counts it.

use crate::fixture::{BIG, Fixture, RW, at, iova, part};
use spapr_iommu::host::MemlockError;
use spapr_iommu::model::Model;
use spapr_iommu::registry::RegisterError;
use spapr_iommu::space::{MapError, WindowError};
use spapr_iommu::window::{PlanError, WindowRequest};

const M: u64 = 1 << 20;

fn limited(preset: &str, limit: u64) -> Fixture {
    let fixture = Fixture::with(Model::new(preset.parse().unwrap()).with_memlock(Some(limit)));
    fixture.space.attach(0).unwrap();
    fixture
}

#[test]
fn registering_too_much_says_how_much_is_missing_and_what_to_do() {
    let fixture = limited("powernv9-64k", 16 * M);
    let ram = fixture.allocate(32 * M);
    let _some = fixture.registry.register(part(ram, 0, 4 * M)).unwrap();
    let error = fixture.registry.register(ram).unwrap_err();
    let RegisterError::Memlock(MemlockError::OverLimit { needed, missing, .. }) = &error else { panic!("{error}") };
    assert_eq!((*needed, *missing), (28 * M, 16 * M));
    let text = error.to_string();
    assert!(
        text.contains("16 MiB more than allowed") && text.contains("ulimit -l") && text.contains("32768 KiB"),
        "{text}"
    );
    assert_eq!(fixture.model.locked(), 4 * M);
    fixture.agrees();
}

#[test]
fn a_window_whose_table_is_too_large_is_refused_without_losing_a_byte() {
    let fixture = limited("powernv9-64k", M);
    let error = fixture.space.create_window(&WindowRequest::bytes(1 << 40)).unwrap_err();
    assert!(matches!(error, WindowError::Refused(PlanError::Memlock(_))), "{error}");
    assert_eq!(fixture.model.locked(), 0);
    assert_eq!(fixture.model.violations(), []);
    fixture.ends_clean();
}

#[test]
fn the_default_windows_table_counts_as_well() {
    let fixture = limited("powernv9-64k", 8 * M);
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.register(ram).unwrap();
    let error = fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap_err();
    assert!(matches!(error, MapError::NoWindow { why: PlanError::Memlock(_), .. }), "{error}");
    fixture.space.drop_default_window().unwrap();
    fixture.space.create_window(&WindowRequest::bytes(64 * M)).unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    fixture.agrees();
    assert!(fixture.space.map(iova(BIG, M), at(ram, 0), RW).is_ok());
}
