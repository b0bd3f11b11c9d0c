//! What belongs to a process: containers, once they are bound to it, and regions.

use crate::fixture::{Fixture, K64, iova};
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::permission::Permission;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::uapi::spapr::TCE_V2_IOMMU;

const RW: Permission = Permission::ReadWrite;

/// A call that fails for its argument binds as well.
pub(crate) fn a_failed_create_binds_the_container(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.unregister_at(0, fixture.page()), Err(Errno::EPERM), "not bound");
    assert_eq!(raw.call(Call::TceCreate(Default::default())), Err(Errno::EINVAL));
    assert_eq!(raw.unregister_at(0, fixture.page()), Err(Errno::ENOENT));
    drop(raw);
    let raw = fixture.v2();
    assert_eq!(raw.call(Call::TceRemove(Default::default())), Err(Errno::EINVAL));
    assert_eq!(raw.unregister_at(0, fixture.page()), Err(Errno::ENOENT));
    drop(raw);

    // The library registers before it unregisters.
    let library = fixture.library();
    let (_, lease) = library.leased(K64);
    library.calls();
    lease.release().unwrap();
    assert_eq!(library.calls(), ["VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY"]);
}

/// T17. MAP looks through all regions of the process; it only wants that some REGISTER has
/// succeeded in its container.
pub(crate) fn a_container_maps_what_another_registered(fixture: &Fixture) {
    let (one, other) = (fixture.v2(), fixture.container(TCE_V2_IOMMU, &[1]));
    let memory = one.registered(K64);
    assert_eq!(other.map(memory.start(), K64, K64), Err(Errno::EPERM));
    let own = other.registered(K64);
    assert_eq!(other.map(memory.start(), K64, K64), Ok(0));
    assert_eq!(other.unregister(memory), Err(Errno::ENOENT), "it is not on its list");
    assert_eq!(other.unmap(K64, K64), Ok(0));
    other.gives_back(own);
    one.gives_back(memory);
    drop((one, other));

    // The library registers it in each container that maps it.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    let other = AddressSpace::new(&library.registry);
    other.attach(fixture.groups[1].0).unwrap();
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    library.calls();
    other.map(iova(0, K64), memory.start(), RW).unwrap();
    assert!(library.calls().contains(&"VFIO_IOMMU_SPAPR_REGISTER_MEMORY"));
    other.unmap(iova(0, K64)).unwrap();
    library.space.unmap(iova(0, K64)).unwrap();
}
