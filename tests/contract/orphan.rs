//! The kernel cannot say EBUSY: UNREGISTER of memory that TCEs point into returns 0, and nobody
//! holds the region any more.

use crate::fixture::{Fixture, K4, K64, iova, part};
use crate::raw::Raw;
use ppc64_init::memory::settled_free_kib;
use spapr_iommu::addr::UserRange;
use spapr_iommu::host::Errno;
use spapr_iommu::model::{Leak, Violation};
use spapr_iommu::permission::Permission;
use std::process::Command;

const BIG: u64 = 64 << 20;

/// A region that nobody holds, at bus address 64 KiB.
fn orphan<'g>(fixture: &'g Fixture, size: u64) -> (Raw<'g>, UserRange) {
    let raw = fixture.v2();
    let memory = raw.registered(size);
    assert_eq!(raw.map(memory.start(), K64, size), Ok(0));
    let (result, cost) = fixture.cost(|| raw.unregister(memory));
    assert_eq!((result, cost), (Ok(0), 0), "0, and still locked");
    let expected = Violation::UnregisterWhileMapped { range: memory, mapped: size / K4 };
    fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
    (raw, memory)
}

/// The library refuses, and names the bus addresses.
fn refused(fixture: &Fixture) {
    let library = fixture.library();
    let (memory, lease) = library.leased(K64);
    library.space.map(iova(K64, K64), memory.start(), Permission::ReadWrite).unwrap();
    library.calls();
    let refused = lease.release().unwrap_err();
    assert_eq!((refused.mapped.clone(), library.calls().len()), (vec![iova(K64, K64)], 0));
    library.space.unmap(iova(K64, K64)).unwrap();
    let ((), cost) = fixture.cost(|| refused.lease.release().unwrap());
    assert_eq!(cost, -K64.cast_signed());
}

pub(crate) fn unregister_while_mapped_returns_0_and_orphans_the_region(fixture: &Fixture) {
    fixture.scars(|| {
        let (raw, memory) = orphan(fixture, K64);
        assert_eq!(raw.unregister(memory), Err(Errno::ENOENT), "it is nobody's");
    });
    refused(fixture);
}

pub(crate) fn orphan_can_still_be_mapped_and_unmapped(fixture: &Fixture) {
    fixture.scars(|| {
        let (raw, memory) = orphan(fixture, K64);
        assert_eq!(raw.map(memory.start(), 4 * K64, K64), Ok(0));
        assert_eq!((raw.unmap(K64, K64), raw.unmap(4 * K64, K64)), (Ok(0), Ok(0)));
    });
    refused(fixture);
}

/// Not even registered again, unmapped and unregistered in order.
pub(crate) fn orphan_is_never_given_back(fixture: &Fixture) {
    fixture.scars(|| {
        let (raw, memory) = orphan(fixture, K64);
        let (result, cost) = fixture.cost(|| raw.register(memory));
        assert_eq!((result, cost), (Ok(0), 0), "the same region");
        assert_eq!(raw.unmap(K64, K64), Ok(0));
        let (result, cost) = fixture.cost(|| raw.unregister(memory));
        assert_eq!((result, cost), (Ok(0), 0), "nothing is mapped, and still it stays");
        assert_eq!(raw.unregister(memory), Err(Errno::ENOENT));
    });
    refused(fixture);
}

pub(crate) fn orphan_keeps_what_overlaps_it_from_registering(fixture: &Fixture) {
    fixture.scars(|| {
        let memory = fixture.memory(4 * K64);
        let raw = fixture.v2();
        let middle = part(memory, K64, 2 * K64);
        assert_eq!((raw.register(middle), raw.map(middle.start(), K64, K64)), (Ok(0), Ok(0)));
        assert_eq!((raw.unregister(middle), raw.unmap(K64, K64)), (Ok(0), Ok(0)));
        for (offset, len) in [(0, 4 * K64), (K64, K64), (2 * K64, 2 * K64)] {
            assert_eq!(raw.register(part(memory, offset, len)), Err(Errno::EINVAL), "{offset:#x}");
        }
        drop(raw);
        // Other containers of the process meet it as well.
        assert_eq!(fixture.v2().register(memory), Err(Errno::EINVAL));
    });
    refused(fixture);
}

pub(crate) fn orphan_outlives_its_container(fixture: &Fixture) {
    fixture.scars(|| {
        let (raw, memory) = orphan(fixture, K64);
        drop(raw);
        assert_eq!(fixture.locked(), K64.cast_signed(), "tables are given back, the orphan is not");
        fixture.on_model(|model| assert_eq!(model.leaks(), [Leak::Region(memory)]));
    });
    refused(fixture);
}

/// The pinned pages are not given back even when the process is gone.
pub(crate) fn orphan_keeps_its_pages_until_reboot(fixture: &Fixture) {
    const WORD: &str = "SPAPR_IOMMU_ORPHAN";
    fixture.scars(|| {
        if fixture.is_model() {
            orphan(fixture, BIG);
            fixture.on_model(|model| {
                model.exit();
                assert!(matches!(model.violations()[1], Violation::LeftBehind { locked: BIG, .. }));
            });
        } else if std::env::var_os(WORD).is_some() {
            orphan(fixture, BIG);
        } else {
            let before = settled_free_kib().unwrap();
            let name = "orphan_keeps_its_pages_until_reboot";
            let victim = Command::new("/proc/self/exe").args(["--alone", name]).env(WORD, "").output().unwrap();
            assert!(victim.status.success(), "{}", String::from_utf8_lossy(&victim.stderr));
            let lost = before.saturating_sub(settled_free_kib().unwrap()) << 10;
            assert!(lost > BIG - (8 << 20), "{lost:#x} bytes lost of {BIG:#x}");
        }
    });
    refused(fixture);
}
