//! Groups that join a container and leave it.

use crate::fixture::{Fixture, HIGH, K4, K64, iova};
use crate::locked::{default_charge, small_charge};
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::permission::Permission;
use spapr_iommu::space::AttachError;
use spapr_iommu::uapi::spapr::{TCE_IOMMU, TCE_V2_IOMMU};
use spapr_iommu::window::{DefaultWindow, WindowRequest};

const RW: Permission = Permission::ReadWrite;

/// Two groups in one space have a container each.
fn library_keeps_them_apart(fixture: &Fixture) {
    let library = fixture.library();
    library.space.attach(fixture.groups[1].0).unwrap();
    let containers: Vec<_> = library.space.status().groups.iter().map(|group| group.container).collect();
    assert_eq!(containers, [0, 1]);
}

pub(crate) fn v1_takes_one_group(fixture: &Fixture) {
    let raw = fixture.v1();
    assert_eq!(raw.attach(1), Err(Errno::EBUSY));
    drop(raw);
    // A refused SET_IOMMU leaves the container unchanged.
    let raw = fixture.empty();
    assert_eq!([raw.attach(0), raw.attach(1)], [Ok(0), Ok(0)]);
    assert_eq!(raw.set_iommu(TCE_IOMMU), Err(Errno::EBUSY));
    assert_eq!(raw.detach(1), Ok(0));
    assert_eq!(raw.set_iommu(TCE_V2_IOMMU), Ok(0));
    drop(raw);
    library_keeps_them_apart(fixture);
}

/// The windows are programmed into its PE, with everything mapped in them.
pub(crate) fn a_group_that_joins_sees_what_is_mapped_on_powernv(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(2 * K64);
    fixture.fill(memory, 3);
    assert_eq!(raw.map(memory.start(), 0, 2 * K64), Ok(0));
    assert_eq!(raw.attach(1), Ok(0));
    let device = raw.device(1).unwrap();
    fixture.source().write(memory.start(), b"seen").unwrap();
    raw.dma(device, 0, K64, 4);
    assert_eq!(fixture.byte(memory, K64), b's');
    assert_eq!(raw.unmap(0, 2 * K64), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    library.calls();
    library.space.attach(fixture.groups[1].0).unwrap();
    assert!(library.calls().contains(&"VFIO_IOMMU_MAP_DMA"), "its own container gets the same maps");
    library.space.unmap(iova(0, K64)).unwrap();
}

pub(crate) fn a_group_does_not_join_anothers_window_on_pseries(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
    assert_eq!(raw.attach(1), Err(Errno::EPERM));
    assert_eq!(fixture.locked(), default_charge(fixture) + small_charge(fixture));
    assert_eq!(raw.remove(HIGH), Ok(0));
    drop(raw);

    let library = fixture.library();
    let refused = library.space.attach_beside(fixture.groups[1].0, fixture.groups[0].0).unwrap_err();
    assert!(matches!(refused, AttachError::OneGroup { .. }), "{refused}");
    drop(library);
    library_keeps_them_apart(fixture);
}

/// T10: later groups find the existing windows, or none.
pub(crate) fn the_default_window_is_pending_for_the_first_group_alone_on_powernv(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.remove(0), Ok(0));
    assert_eq!(raw.attach(1), Ok(0));
    assert_eq!(raw.map(memory.start(), K64, K4), Err(Errno::ENXIO));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    library.space.drop_default_window().unwrap();
    library.space.attach(fixture.groups[1].0).unwrap();
    assert_eq!(library.space.status().default, DefaultWindow::Gone, "in neither container");
}

/// T8: the other group's device sees nothing, and the memory can be unregistered.
pub(crate) fn a_group_that_leaves_takes_the_maps_from_the_devices_of_others_on_powernv(fixture: &Fixture) {
    let raw = fixture.container(TCE_V2_IOMMU, &[0, 1]);
    let device = raw.device(0).unwrap();
    let memory = raw.registered(2 * K64);
    fixture.fill(memory, 3);
    assert_eq!(raw.map(memory.start(), 0, K64), Ok(0));
    assert_eq!(raw.detach(1), Ok(0));
    // Its reads at 0 return nothing, and its writes go through a map made since.
    assert_eq!(raw.map(spapr_iommu::addr::UserAddr(memory.start().0 + K64), K64, K64), Ok(0));
    raw.dma(device, 0, K64, 16);
    assert_eq!((fixture.byte(memory, 0), fixture.byte(memory, K64)), (3, 0));
    assert_eq!(raw.unmap(K64, K64), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    library.space.attach_beside(fixture.groups[1].0, fixture.groups[0].0).unwrap();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    library.calls();
    library.space.detach(fixture.groups[1].0).unwrap();
    assert_eq!(library.calls(), ["VFIO_GROUP_UNSET_CONTAINER", "VFIO_IOMMU_MAP_DMA"], "mapped again at once");
    assert_eq!(library.space.mapped(), (1, K64));
    library.space.unmap(iova(0, K64)).unwrap();
}

/// Tables, regions and, of v1, the charge of ENABLE. After that the container is as new.
pub(crate) fn the_last_group_takes_everything_along(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.create(16, 1 << 30, 1), Ok(HIGH));
    assert_eq!(raw.map(memory.start(), 0, K64), Ok(0));
    assert_eq!(raw.detach(0), Ok(0));
    assert_eq!(fixture.locked(), 0);
    assert_eq!(raw.call(Call::Enable), Err(Errno::EINVAL), "there is no driver");
    assert_eq!([raw.attach(0), raw.set_iommu(TCE_IOMMU), raw.call(Call::Enable)], [Ok(0); 3]);
    assert_eq!(raw.map(memory.start(), 0, K64), Ok(0));
    assert_eq!(raw.detach(0), Ok(0));
    assert_eq!(fixture.locked(), 0);
    drop(raw);

    // Leases stay, and are registered again with the next group.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    let group = fixture.groups[0].0;
    library.space.detach(group).unwrap();
    assert_eq!((library.space.mapped(), fixture.locked()), ((0, 0), 0));
    library.space.attach(group).unwrap();
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    library.space.unmap(iova(0, K64)).unwrap();
}

/// Its PE belongs to the host in between, which restores it.
pub(crate) fn a_group_that_comes_back_has_all_its_windows_again(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.remove(0), Ok(0));
    assert!(raw.create(16, 1 << 30, 1).is_ok());
    assert_eq!([raw.detach(0), raw.attach(0), raw.set_iommu(TCE_V2_IOMMU)], [Ok(0); 3]);
    let charge = default_charge(fixture) + small_charge(fixture);
    assert_eq!(fixture.cost(|| raw.create(16, 1 << 30, 1)), (Ok(HIGH), charge), "the default window comes too");
    drop(raw);

    let library = fixture.library();
    let group = fixture.groups[0].0;
    library.space.drop_default_window().unwrap();
    library.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
    library.space.detach(group).unwrap();
    library.space.attach(group).unwrap();
    let status = library.space.status();
    assert_eq!((status.default, status.windows.len()), (DefaultWindow::Pending, 0));
    library.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
}
