//! What belongs to a process: containers, once they are bound to it, and regions.

use crate::fork::child;
use crate::ground::{Ground, K4, K64, at, iova};
use spapr_iommu::host::model::Violation;
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::permission::Permission;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::uapi::eeh::PeOp;
use spapr_iommu::uapi::spapr::TCE_V2_IOMMU;

const RW: Permission = Permission::ReadWrite;

/// T15. The first call that registers, creates or removes binds the container to the address space of its caller.
pub(crate) fn a_child_gets_eperm_from_a_container_that_is_bound(ground: &Ground) {
    let raw = ground.v2();
    let memory = ground.memory(K64);
    assert!(child(|| assert!(raw.info().is_ok())), "it is bound to nobody yet");
    assert_eq!(raw.register(memory), Ok(0));
    let ended = child(|| {
        assert_eq!(raw.info(), Err(Errno::EPERM));
        assert_eq!(raw.register(memory), Err(Errno::EPERM));
        assert_eq!(raw.unregister(memory), Err(Errno::EPERM));
        assert_eq!(raw.map(memory.start(), 0, K4), Err(Errno::EPERM));
        assert_eq!(raw.unmap(0, K4), Err(Errno::EPERM));
        assert_eq!(raw.create(12, 1 << 30, 1), Err(Errno::EPERM));
        assert_eq!(raw.remove(0), Err(Errno::EPERM));
        assert_eq!(raw.call(Call::EehPeOp(PeOp::default())), Err(Errno::EPERM));
        assert_eq!(raw.call(Call::CheckExtension(TCE_V2_IOMMU)), Ok(1));
    });
    assert!(ended, "the child saw something else");
    assert_eq!(raw.map(memory.start(), 0, K4), Ok(0), "the parent works on");
    assert_eq!(raw.unmap(0, K4), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    // The library hands the error on, and the parent's space is as it was.
    let library = ground.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, K4), memory.start(), RW).unwrap();
    assert!(child(|| assert!(library.space.map(iova(K4, K4), at(memory, K4), RW).is_err())));
    library.space.map(iova(K4, K4), at(memory, K4), RW).unwrap();
    assert_eq!(library.space.unmap(iova(0, 2 * K4)), Ok(2 * K4));
}

/// A call that fails for its argument binds as well.
pub(crate) fn a_failed_create_binds_the_container(ground: &Ground) {
    let raw = ground.v2();
    assert_eq!(raw.unregister_at(0, ground.page()), Err(Errno::EPERM), "not bound");
    assert_eq!(raw.call(Call::TceCreate(Default::default())), Err(Errno::EINVAL));
    assert_eq!(raw.unregister_at(0, ground.page()), Err(Errno::ENOENT));
    drop(raw);
    let raw = ground.v2();
    assert_eq!(raw.call(Call::TceRemove(Default::default())), Err(Errno::EINVAL));
    assert_eq!(raw.unregister_at(0, ground.page()), Err(Errno::ENOENT));
    drop(raw);

    // The library registers before it unregisters.
    let library = ground.library();
    let (_, lease) = library.leased(K64);
    library.calls();
    lease.release().unwrap();
    assert_eq!(library.calls(), ["VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY"]);
}

/// T17. MAP looks through all regions of the process; it only wants that some REGISTER has succeeded in its container.
pub(crate) fn a_container_maps_what_another_registered(ground: &Ground) {
    let (one, other) = (ground.v2(), ground.container(TCE_V2_IOMMU, &[1]));
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
    let library = ground.library();
    let (memory, _lease) = library.leased(K64);
    let other = AddressSpace::new(&library.registry);
    other.attach(ground.groups[1].0).unwrap();
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    library.calls();
    other.map(iova(0, K64), memory.start(), RW).unwrap();
    assert!(library.calls().contains(&"VFIO_IOMMU_SPAPR_REGISTER_MEMORY"));
    other.unmap(iova(0, K64)).unwrap();
    library.space.unmap(iova(0, K64)).unwrap();
}

/// T17. The kernel warns, and the memory stays pinned after the other one unmaps it.
pub(crate) fn a_container_that_ends_before_another_unmaps_its_memory_loses_it(ground: &Ground) {
    ground.scars(|| {
        let (one, other) = (ground.v2(), ground.container(TCE_V2_IOMMU, &[1]));
        let memory = one.registered(K64);
        let own = other.registered(K64);
        assert_eq!(other.map(memory.start(), K64, K64), Ok(0));
        drop(one);
        let lost = Violation::ReleasedWhileMapped { range: memory, mapped: K64 / K4 };
        ground.on_model(|model| assert_eq!(model.violations(), [lost]));
        assert_eq!(other.unmap(K64, K64), Ok(0));
        other.gives_back(own);
        assert_eq!(other.unregister(memory), Err(Errno::ENOENT));
        drop(other);
        assert_eq!(ground.locked(), K64.cast_signed());
    });
    let library = ground.library();
    let (memory, _lease) = library.leased(K64);
    let other = AddressSpace::new(&library.registry);
    other.attach(ground.groups[1].0).unwrap();
    other.map(iova(0, K64), memory.start(), RW).unwrap();
    library.space.detach(ground.groups[0].0).unwrap();
    assert_eq!(other.mapped(), (1, K64));
    other.unmap(iova(0, K64)).unwrap();
}
