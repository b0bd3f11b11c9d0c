//! What differs between bare metal and partitions, beyond windows.

use crate::fixture::{Fixture, HIGH, K4, K64, iova};
use spapr_iommu::addr::Iova;
use spapr_iommu::host::Errno;
use spapr_iommu::permission::Permission;
use spapr_iommu::space::MapError;
use spapr_iommu::window::PlanError;

const RW: Permission = Permission::ReadWrite;

/// 2 GiB on powernv, 1 GiB on pseries of QEMU, of 4K pages.
pub(crate) fn the_default_window_starts_at_0_with_4k_pages(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let end = fixture.default_window();
    assert_eq!(raw.map(memory.start(), end - K4, K4), Ok(0));
    assert_eq!(raw.map(memory.start(), 0, K4), Ok(0));
    assert_eq!(raw.map(memory.start(), end, K4), Err(Errno::ENXIO));
    assert_eq!([raw.unmap(0, K4), raw.unmap(end - K4, K4)], [Ok(0); 2]);
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(end - K4, K4), memory.start(), RW).unwrap();
    let windows = library.space.status().windows;
    assert!(matches!(windows[..], [(window, K4)] if window.range == iova(0, end)), "{windows:?}");
    let refused = library.space.map(iova(end, K4), memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::NoWindow { why: PlanError::OutOfReach { .. }, .. }), "{refused}");
    library.space.unmap(iova(end - K4, K4)).unwrap();
}

/// powernv's own window at 1 << 59, through which a device of the host reaches all memory, is
/// closed while VFIO has the group: the exception vectors at the start of memory read as zeros.
pub(crate) fn no_way_round_the_tables_is_left_on_powernv(fixture: &Fixture) {
    let raw = fixture.v2();
    let device = raw.device(0).unwrap();
    let memory = raw.registered(K64);
    fixture.fill(memory, 7);
    assert_eq!(raw.map(memory.start(), 0, K64), Ok(0));
    raw.dma(device, HIGH, 0, K4);
    let mut seen = [7; K4 as usize];
    fixture.source().read(memory.start(), &mut seen).unwrap();
    assert_eq!(seen, [0; K4 as usize]);
    assert_eq!(fixture.byte(memory, K4), 7);
    assert_eq!(raw.unmap(0, K64), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    assert_eq!((library.space.translate(Iova(HIGH)), library.space.status().windows), (None, vec![]));
}
