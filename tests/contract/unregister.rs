//! UNREGISTER_MEMORY, and who holds a region. The kernel has no EBUSY here: UNREGISTER of memory
//! that TCEs point into returns 0, and the region is held by no one.

use crate::fixture::{Fixture, K4, K64, iova, part};
use crate::raw::Raw;
use ppc64_init::memory::settled_free_kib;
use spapr_iommu::addr::UserRange;
use spapr_iommu::host::Errno;
use spapr_iommu::model::{Leak, Violation};
use spapr_iommu::permission::Permission;
use spapr_iommu::uapi::spapr;
use spapr_iommu_tests::by_address::ByAddress;
use std::process::Command;

const RW: Permission = Permission::ReadWrite;

/// What an application does instead of the kernel's call: it releases a lease, which succeeds only
/// when nothing is mapped.
fn leases_go_in_time(fixture: &Fixture) {
    let library = fixture.library();
    let (memory, lease) = library.leased(K64);
    library.space.map(iova(K64, K64), memory.start(), RW).unwrap();
    let refused = lease.release().unwrap_err();
    assert_eq!(refused.mapped, [iova(K64, K64)]);
    library.space.unmap(iova(K64, K64)).unwrap();
    let ((), cost) = fixture.cost(|| refused.lease.release().unwrap());
    assert_eq!(cost, -K64.cast_signed());
}

/// In a container that never had a REGISTER, CREATE or REMOVE.
pub(crate) fn unregister_before_the_process_is_known_is_eperm(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = fixture.memory(K64);
    assert_eq!(raw.unregister(memory), Err(Errno::EPERM));
    assert_eq!(raw.unregister_at(1, 1), Err(Errno::EPERM), "before any look at the arguments");
    drop(raw);
    let library = fixture.library();
    library.calls();
    drop(library.registry.lease(memory));
    let calls = library.calls();
    assert_eq!(calls, ["VFIO_IOMMU_SPAPR_REGISTER_MEMORY", "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY"]);
}

/// A range that wraps is not a region either, rather than an invalid range as with REGISTER.
pub(crate) fn unregister_of_parts_of_host_pages_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let (start, half) = (memory.start().0, fixture.page() / 2);
    for (vaddr, size) in [(start + half, K64), (start, half), (start + 1, 1)] {
        assert_eq!(raw.unregister_at(vaddr, size), Err(Errno::EINVAL), "{vaddr:#x} {size:#x}");
    }
    assert_eq!(raw.unregister_at(u64::MAX - (K64 - 1), 2 * K64), Err(Errno::ENOENT));
    raw.gives_back(memory);
    drop(raw);
    leases_go_in_time(fixture);
}

/// A part, more than all, the same length elsewhere: regions are never split.
pub(crate) fn unregister_of_anything_but_the_exact_range_is_enoent(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = fixture.memory(4 * K64);
    assert_eq!(raw.register(part(memory, K64, 2 * K64)), Ok(0));
    for (offset, len) in [(K64, K64), (2 * K64, K64), (K64, 3 * K64), (0, 3 * K64), (0, 2 * K64), (0, 4 * K64)] {
        assert_eq!(raw.unregister(part(memory, offset, len)), Err(Errno::ENOENT), "{offset:#x} {len:#x}");
    }
    raw.gives_back(part(memory, K64, 2 * K64));
    drop(raw);

    // Leases may be cut freely; the registry keeps whole regions.
    let library = fixture.library();
    let before = fixture.locked();
    let leases = [(0, 3 * K64), (K64, 3 * K64), (2 * K64, K64)];
    let leases = leases.map(|(offset, len)| library.registry.lease(part(memory, offset, len)).unwrap());
    assert_eq!(fixture.locked() - before, memory.len().cast_signed());
    leases.into_iter().for_each(|lease| lease.release().unwrap());
    assert_eq!(fixture.locked(), before);
}

/// It exists, and yet cannot be found.
pub(crate) fn unregister_of_what_only_another_container_registered_is_enoent(fixture: &Fixture) {
    let (one, two) = (fixture.v2(), fixture.container(spapr::TCE_V2_IOMMU, &[1]));
    let (memory, own) = (one.registered(K64), two.registered(K64));
    assert_eq!(two.unregister(memory), Err(Errno::ENOENT));
    assert_eq!(one.unregister(own), Err(Errno::ENOENT));
    one.gives_back(memory);
    two.gives_back(own);
    drop((one, two));
    leases_go_in_time(fixture);
}

pub(crate) fn unregister_gives_back_what_no_tce_points_into(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(4 * K64);
    assert_eq!(raw.map(memory.start(), 0, 4 * K64), Ok(0));
    assert_eq!(raw.unmap(0, 4 * K64), Ok(0));
    raw.gives_back(memory);
    assert_eq!(raw.unregister(memory), Err(Errno::ENOENT), "once");
    assert_eq!(raw.register(memory), Ok(0), "and it can be registered again");
    raw.gives_back(memory);
    drop(raw);
    leases_go_in_time(fixture);
}

/// The last one frees it.
pub(crate) fn unregister_is_fine_while_mapped_as_long_as_another_container_holds_it(fixture: &Fixture) {
    let (one, two) = (fixture.v2(), fixture.container(spapr::TCE_V2_IOMMU, &[1]));
    let memory = one.registered(K64);
    assert_eq!(two.register(memory), Ok(0));
    assert_eq!(one.map(memory.start(), 0, K64), Ok(0));
    let (result, cost) = fixture.cost(|| one.unregister(memory));
    assert_eq!((result, cost), (Ok(0), 0));
    assert_eq!(one.unmap(0, K64), Ok(0));
    two.gives_back(memory);
    drop((one, two));

    // The library registers in each container that maps, and unregisters in all of them at the end.
    let library = fixture.library();
    library.space.attach(fixture.groups[1].0).unwrap();
    let (memory, lease) = library.leased(K64);
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    library.space.unmap(iova(0, K64)).unwrap();
    let ((), cost) = fixture.cost(|| lease.release().unwrap());
    assert_eq!(cost, -K64.cast_signed());
}

/// A closed container unregisters what it registered.
pub(crate) fn close_of_a_container_unregisters_its_memory(fixture: &Fixture) {
    let raw = fixture.v2();
    let (_, cost) = fixture.cost(|| (raw.registered(K64), raw.registered(4 * K64)));
    assert_eq!(cost, (5 * K64).cast_signed());
    drop(raw);
    assert_eq!(fixture.locked(), 0);
    let library = fixture.library();
    let _lease = library.leased(K64);
}

/// Its own TCEs are cleared first, so that a mapped region is freed too.
pub(crate) fn close_of_a_container_unmaps_before_it_unregisters(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.map(memory.start(), 0, K64), Ok(0));
    drop(raw);
    assert_eq!(fixture.locked(), 0);
    let library = fixture.library();
    let (memory, lease) = library.leased(K64);
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    drop(lease);
    assert!(library.space.translate(iova(0, K64).start()).is_some(), "mapped until the space goes");
}

/// A region mapped by another container, which closes first: the kernel warns and loses it.
pub(crate) fn close_of_the_registrant_orphans_what_another_container_maps(fixture: &Fixture) {
    let lost = |memory: UserRange| Violation::ReleasedWhileMapped { range: memory, mapped: K64 / K4 };
    fixture.scars(|| {
        let (one, two) = (fixture.v2(), fixture.container(spapr::TCE_V2_IOMMU, &[1]));
        let memory = one.registered(K64);
        let own = two.registered(K64);
        assert_eq!(two.map(memory.start(), 0, K64), Ok(0), "registered by the other container");
        drop(one);
        assert_eq!(two.unmap(0, K64), Ok(0));
        assert_eq!(two.unregister(memory), Err(Errno::ENOENT));
        two.gives_back(own);
        drop(two);
        assert_eq!(fixture.locked(), K64.cast_signed(), "locked by nobody");
        fixture.on_model(|model| assert_eq!(model.violations(), [lost(memory)]));
    });
    // The container that maps has registered the memory, so either may close first.
    let library = fixture.library();
    let other = spapr_iommu::space::AddressSpace::new(&library.registry);
    other.attach(fixture.groups[1].0).unwrap();
    let (memory, lease) = library.leased(K64);
    other.map(iova(0, K64), memory.start(), RW).unwrap();
    library.space.detach(fixture.groups[0].0).unwrap();
    assert!(lease.release().is_err(), "the other space still maps it");
    other.unmap(iova(0, K64)).unwrap();
}

const BIG: u64 = 64 << 20;

/// Makes a region that no one holds, mapped at bus address 64 KiB.
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

/// Not even when it is registered again, unmapped and unregistered in order.
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
        // Other containers of the process are affected as well.
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

/// The pinned pages are not returned even when the process has ended.
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
