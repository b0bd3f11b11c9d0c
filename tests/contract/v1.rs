//! v1 containers: ENABLE, DISABLE, and memory that is pinned map by map. The library uses none.

use crate::fixture::{Fixture, K4, K64, at, iova, part};
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::permission::Permission;

/// Does the same with the library: v2, and no ENABLE.
fn v2_instead(fixture: &Fixture) {
    let library = fixture.library();
    let (memory, lease) = library.leased(K64);
    library.space.map(iova(0, K64), memory.start(), Permission::ReadWrite).unwrap();
    library.space.unmap(iova(0, K64)).unwrap();
    drop(lease);
    let calls = library.calls();
    assert!(!calls.iter().any(|call| call.ends_with("ABLE")), "{calls:?}");
}

pub(crate) fn enable_and_disable_are_enotty_on_v2(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!([raw.call(Call::Enable), raw.call(Call::Disable)], [Err(Errno::ENOTTY); 2]);
    drop(raw);
    v2_instead(fixture);
}

pub(crate) fn register_unregister_create_and_remove_are_enotty_on_v1(fixture: &Fixture) {
    let raw = fixture.v1();
    let memory = fixture.memory(K64);
    assert_eq!([raw.register(memory), raw.unregister(memory), raw.remove(0)], [Err(Errno::ENOTTY); 3]);
    assert_eq!(raw.create(12, 1 << 30, 1), Err(Errno::ENOTTY));
    drop(raw);
    v2_instead(fixture);
}

/// Whether or not anything is mapped in it.
pub(crate) fn enable_charges_the_whole_window_and_disable_gives_it_back(fixture: &Fixture) {
    let raw = fixture.v1();
    let (result, cost) = fixture.cost(|| raw.call(Call::Enable));
    assert_eq!((result, cost), (Ok(0), fixture.default_window().cast_signed()));
    let (result, cost) = fixture.cost(|| raw.call(Call::Disable));
    assert_eq!((result, cost), (Ok(0), -fixture.default_window().cast_signed()));
    drop(raw);
    v2_instead(fixture);
}

pub(crate) fn enable_twice_is_ebusy(fixture: &Fixture) {
    let raw = fixture.v1();
    assert_eq!(raw.call(Call::Enable), Ok(0));
    let (result, cost) = fixture.cost(|| raw.call(Call::Enable));
    assert_eq!((result, cost), (Err(Errno::EBUSY), 0));
    drop(raw);
    assert_eq!(fixture.locked(), 0, "closing gives it back as well");
    v2_instead(fixture);
}

pub(crate) fn enable_over_the_limit_is_enomem(fixture: &Fixture) {
    let raw = fixture.v1();
    let limit = fixture.limit(fixture.default_window() - K64);
    let (result, cost) = fixture.cost(|| raw.call(Call::Enable));
    assert_eq!((result, cost), (Err(Errno::ENOMEM), 0));
    drop(limit);
    assert_eq!(raw.map(fixture.memory(K64).start(), 0, K4), Err(Errno::EPERM));
    let limit = fixture.limit(fixture.default_window());
    assert_eq!(raw.call(Call::Enable), Ok(0));
    drop(limit);
    drop(raw);
    v2_instead(fixture);
}

/// Enabled or not, any number of times.
pub(crate) fn disable_is_always_0(fixture: &Fixture) {
    let raw = fixture.v1();
    assert_eq!([raw.call(Call::Disable), raw.call(Call::Disable)], [Ok(0); 2]);
    assert_eq!(raw.call(Call::Enable), Ok(0));
    assert_eq!([raw.call(Call::Disable), raw.call(Call::Disable)], [Ok(0); 2]);
    assert_eq!(fixture.locked(), 0);
    drop(raw);
    v2_instead(fixture);
}

/// A device still reads what was mapped; only MAP and UNMAP are refused.
pub(crate) fn disable_leaves_mappings_to_the_device(fixture: &Fixture) {
    let raw = fixture.v1();
    let (source, target) = (fixture.memory(K64), fixture.memory(K64));
    fixture.fill(source, 0x3c);
    fixture.fill(target, 0);
    assert_eq!(raw.call(Call::Enable), Ok(0));
    assert_eq!(raw.map(source.start(), 0, K4), Ok(0));
    assert_eq!(raw.map(target.start(), K4, K4), Ok(0));
    assert_eq!(raw.call(Call::Disable), Ok(0));
    assert_eq!(raw.map(source.start(), 0, K4), Err(Errno::EPERM));
    assert_eq!(raw.unmap(0, K4), Err(Errno::EPERM));
    let device = raw.device(0).unwrap();
    raw.dma(device, 0, K4, 64);
    assert_eq!((fixture.byte(target, 0), fixture.byte(target, 63)), (0x3c, 0x3c));
    drop(raw);
    v2_instead(fixture);
}

/// For reading as well: pages are pinned as if they were to be written.
pub(crate) fn map_of_what_cannot_be_written_is_efault_on_v1(fixture: &Fixture) {
    let raw = fixture.v1();
    assert_eq!(raw.call(Call::Enable), Ok(0));
    let memory = fixture.memory(2 * K64);
    assert_eq!(raw.map(memory.start(), 0, 2 * K64), Ok(0), "no registration is needed");
    assert_eq!(raw.unmap(0, 2 * K64), Ok(0));
    fixture.source().protect(part(memory, K64, K64), Protection::Read).unwrap();
    assert_eq!(raw.map_for(crate::raw::READ, at(memory, K64), K4, K4), Err(Errno::EFAULT));
    assert_eq!(raw.map(memory.start(), K64, 2 * K64), Err(Errno::EFAULT));
    fixture.free(part(memory, 0, K64));
    assert_eq!(raw.map(memory.start(), K4, K4), Err(Errno::EFAULT), "a hole");
    drop(raw);
    v2_instead(fixture);
}

/// The error is EFAULT here; a failure also destroys earlier mappings.
pub(crate) fn map_that_fails_on_v1_takes_the_pages_before_along(fixture: &Fixture) {
    let raw = fixture.v1();
    assert_eq!(raw.call(Call::Enable), Ok(0));
    let memory = fixture.memory(2 * K64);
    let (source, target) = (fixture.memory(K64), fixture.memory(K64));
    fixture.fill(source, 0x42);
    fixture.fill(target, 0x01);
    // The old mapping has two pages: one that the failing map covers before it fails, and one after
    // it.
    assert_eq!(raw.map(source.start(), K64 - K4, 2 * K4), Ok(0));
    assert_eq!(raw.map(target.start(), 0x10_0000, K4), Ok(0));
    fixture.free(part(memory, K64, K64));
    assert_eq!(raw.map(at(memory, K64 - K4), K64 - K4, 2 * K4), Err(Errno::EFAULT));
    if let Some(entries) = raw.entries(0) {
        assert_eq!(entries, [(K64, K4, at(source, K4).0), (0x10_0000, K4, target.start().0)]);
    }
    let device = raw.device(0).unwrap();
    raw.dma(device, K64, 0x10_0000, 16);
    assert_eq!((fixture.byte(target, 15), fixture.byte(target, 16)), (0x42, 0x01), "the page after it is still mapped");
    drop(raw);
    v2_instead(fixture);
}

/// Of a larger host page as well.
pub(crate) fn map_on_v1_takes_memory_at_any_iommu_page(fixture: &Fixture) {
    let raw = fixture.v1();
    assert_eq!(raw.call(Call::Enable), Ok(0));
    let memory = fixture.memory(K64);
    let (_, cost) = fixture.cost(|| {
        for index in 0..16 {
            assert_eq!(raw.map(at(memory, index * K4), (15 - index) * K4, K4), Ok(0));
        }
    });
    // ENABLE charged everything in advance; the first map creates the table.
    assert_eq!(cost, crate::map::default_table(fixture));
    assert_eq!(raw.map(at(memory, 1), 0, K4), Err(Errno::EINVAL));
    assert_eq!(raw.map(memory.start(), 1, K4), Ok(1));
    assert_eq!(raw.unmap(0, 16 * K4), Ok(0));
    drop(raw);
    v2_instead(fixture);
}
