//! MAP_DMA: what is checked, in which order.

use crate::ground::{Ground, K4, K64, iova};
use spapr_iommu::permission::Permission;
use spapr_iommu::space::MapError;

const RW: Permission = Permission::ReadWrite;

/// The kernel returns a C boolean: neither 0 nor an error number.
pub(crate) fn map_with_a_misaligned_iova_gives_1(ground: &Ground) {
    let raw = ground.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.map(memory.start(), 0x800, K4), Ok(1));
    raw.gives_back(memory);
    drop(raw);

    let library = ground.library();
    let (memory, _lease) = library.leased(K64);
    let refused = library.space.map(iova(0x800, K4), memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::Misaligned { .. }), "{refused}");
}
