//! Groups, devices and the files that hold them; and what belongs to a process: regions, and
//! containers once they are bound to it.

use crate::fixture::{Fixture, K4, K64, iova};
use crate::locked::default_charge;
use crate::raw::Raw;
use crate::rule::Leaves;
use spapr_iommu::Group;
use spapr_iommu::host::{Call, Errno, Host, Node, Obstacle};
use spapr_iommu::model::Model;
use spapr_iommu::permission::Permission;
use spapr_iommu::space::{AddressSpace, AttachError};
use spapr_iommu::uapi::spapr::TCE_V2_IOMMU;
use spapr_iommu::uapi::vfio::{GROUP_FLAGS_CONTAINER_SET, GROUP_FLAGS_VIABLE, GroupStatus};
use spapr_iommu_tests::by_address::RunCall;

const RW: Permission = Permission::ReadWrite;

fn status(raw: &Raw<'_>, fixture: &Fixture) -> u32 {
    let mut call = Call::GroupGetStatus(GroupStatus { argsz: 8, flags: 9 });
    assert_eq!(fixture.kernel.run_call(raw.group(0), &mut call), Ok(0));
    match call {
        Call::GroupGetStatus(status) => status.flags,
        _ => unreachable!(),
    }
}

pub(crate) fn a_groups_status_says_viable_and_then_in_a_container(fixture: &Fixture) {
    let raw = fixture.empty();
    assert_eq!(status(&raw, fixture), GROUP_FLAGS_VIABLE);
    assert_eq!(raw.attach(0), Ok(0));
    assert_eq!(status(&raw, fixture), GROUP_FLAGS_VIABLE | GROUP_FLAGS_CONTAINER_SET);
    assert_eq!(raw.detach(0), Ok(0));
    assert_eq!(status(&raw, fixture), GROUP_FLAGS_VIABLE);
    let short = Call::GroupGetStatus(GroupStatus { argsz: 7, flags: 0 });
    assert_eq!(raw.on(raw.group(0), short), Err(Errno::EINVAL));
    drop(raw);

    let library = fixture.library_without_groups();
    library.space.attach(fixture.groups[0].0).unwrap();
    assert!(library.calls().contains(&"VFIO_GROUP_GET_STATUS"), "it looks before it attaches");
}

/// A container that does not exist, a group that has one, a group that has none.
pub(crate) fn set_container_and_unset_container_want_their_turn(fixture: &Fixture) {
    let raw = fixture.empty();
    assert_eq!(raw.detach(0), Err(Errno::EINVAL));
    assert_eq!(raw.on(raw.group(0), Call::GroupSetContainer(raw.group(0))), Err(Errno::EBADFD));
    assert_eq!(raw.attach(0), Ok(0));
    assert_eq!(raw.attach(0), Err(Errno::EINVAL));
    assert_eq!(raw.detach(0), Ok(0));
    drop(raw);

    let library = fixture.library();
    let group = fixture.groups[0].0;
    let refused = library.space.attach(group).unwrap_err();
    assert!(matches!(refused, AttachError::AttachedAlready { .. }), "{refused}");
    library.space.detach(group).unwrap();
    let refused = library.space.detach(group).unwrap_err();
    assert!(matches!(refused, AttachError::NotAttached { .. }), "{refused}");
}

/// If any of its devices has a driver of the host, a group is not viable.
pub(crate) fn a_group_with_a_host_driver_gives_eperm(fixture: &Fixture) {
    let model = Model::new(fixture.preset).with_host_driver(Group(0), "nvme");
    let fixture = &Fixture::over(model, fixture.preset);
    let raw = fixture.empty();
    assert_eq!(status(&raw, fixture), 0);
    assert_eq!(raw.attach(0), Err(Errno::EPERM));
    drop(raw);

    let library = fixture.library_without_groups();
    let refused = library.space.attach(Group(0)).unwrap_err();
    assert!(
        matches!(&refused, AttachError::Obstacle(Obstacle::NotViable { driver, .. }) if driver == "nvme"),
        "{refused}"
    );
    drop(library);
    fixture.ends(Leaves::CleanModel);
}

pub(crate) fn a_device_opens_only_after_set_iommu(fixture: &Fixture) {
    let raw = fixture.empty();
    assert_eq!(raw.device(0), Err(Errno::EINVAL));
    assert_eq!(raw.attach(0), Ok(0));
    assert_eq!(raw.device(0), Err(Errno::EINVAL));
    assert_eq!(raw.set_iommu(TCE_V2_IOMMU), Ok(0));
    let stranger = Node::Device { group: raw.group(0), name: "ffff:00:07.0" };
    assert_eq!(fixture.kernel.open(stranger), Err(Errno::ENODEV));
    assert!(raw.device(0).is_ok());
    drop(raw);

    let library = fixture.library_without_groups();
    let (group, address) = &fixture.groups[0];
    let refused = library.space.device(*group, address).unwrap_err();
    assert!(matches!(refused, AttachError::NotAttached { .. }), "{refused}");
    library.space.attach(*group).unwrap();
    let refused = library.space.device(*group, "ffff:00:07.0").unwrap_err();
    assert!(matches!(refused, AttachError::Open { errno: Errno::ENODEV, .. }), "{refused}");
}

/// The group stays in its container, with everything mapped, until the device is closed too.
pub(crate) fn a_device_file_holds_its_group(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.map(memory.start(), 0, K64), Ok(0));
    raw.device(0).unwrap();
    assert_eq!(raw.detach(0), Err(Errno::EBUSY));
    raw.close_group(0);
    assert!(!fixture.is_free(0));
    assert_eq!(fixture.locked(), K64.cast_signed() + default_charge(fixture));
    assert_eq!(raw.unmap(0, K64), Ok(0), "the container works on");
    raw.close_devices();
    assert_eq!(fixture.locked(), 0);
    assert!(fixture.is_free(0));
    drop(raw);

    let library = fixture.library();
    let (group, address) = &fixture.groups[0];
    let device = library.space.device(*group, address).unwrap();
    let refused = library.space.detach(*group).unwrap_err();
    assert!(matches!(refused, AttachError::DevicesOpen { count: 1, .. }), "{refused}");
    drop(device);
    library.space.detach(*group).unwrap();
}

/// No one can call it any longer, but what it holds stays until the last group leaves.
pub(crate) fn a_closed_container_lives_while_groups_are_in_it(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.map(memory.start(), 0, K64), Ok(0));
    let held = fixture.locked();
    fixture.kernel.close(raw.fd);
    assert_eq!((held, fixture.locked()), (K64.cast_signed() + default_charge(fixture), held));
    assert_eq!(status(&raw, fixture), GROUP_FLAGS_VIABLE | GROUP_FLAGS_CONTAINER_SET);
    raw.close_group(0);
    assert_eq!(fixture.locked(), 0);
    drop(raw);

    // The library tears down in order: maps, regions, groups, container.
    let library = fixture.library();
    let (memory, lease) = library.leased(K64);
    library.space.map(iova(0, K4), memory.start(), RW).unwrap();
    library.calls();
    library.space.detach(fixture.groups[0].0).unwrap();
    assert_eq!(library.calls(), ["VFIO_IOMMU_UNMAP_DMA", "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY"]);
    assert_eq!((fixture.locked(), fixture.is_free(0)), (0, true));
    drop(lease);
}

/// A call that fails because of its argument binds as well.
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

/// T17. MAP searches all regions of the process; it only requires that some REGISTER has succeeded
/// in its container.
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

    // The library registers memory in each container that maps it.
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
