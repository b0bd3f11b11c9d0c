//! Calls of VFIO's core on a container.

use crate::fixture::{Ground, K64};
use spapr_iommu::host::{Call, Errno, Host, Node};
use spapr_iommu::space::AttachError;
use spapr_iommu::uapi::{eeh, spapr};

pub(crate) fn api_version_is_0(ground: &Ground) {
    let raw = ground.empty();
    assert_eq!(raw.call(Call::GetApiVersion), Ok(0));
    drop(raw);
    let library = ground.library_without_groups();
    library.space.attach(ground.groups[0].0).unwrap();
    assert!(library.calls().contains(&"VFIO_GET_API_VERSION"));
}

/// On every platform, whether a driver is bound or not: only SET_IOMMU tells.
pub(crate) fn check_extension_says_yes_to_both_types(ground: &Ground) {
    let ask =
        |raw: &crate::raw::Raw<'_>| [spapr::TCE_IOMMU, spapr::TCE_V2_IOMMU].map(|n| raw.call(Call::CheckExtension(n)));
    assert_eq!(ask(&ground.empty()), [Ok(1); 2]);
    assert_eq!(ask(&ground.v1()), [Ok(1); 2]);
    assert_eq!(ask(&ground.v2()), [Ok(1); 2]);
    // The library goes on to SET_IOMMU, and believes that.
    let library = ground.library_without_groups();
    library.space.attach(ground.groups[0].0).unwrap();
    assert!(library.calls().contains(&"VFIO_SET_IOMMU"));
}

/// That driver is not built for POWER.
pub(crate) fn check_extension_denies_type1(ground: &Ground) {
    for raw in [ground.empty(), ground.v2()] {
        assert_eq!([0, 1, 3, 4, 6, 8, 99].map(|n| raw.call(Call::CheckExtension(n))), [Ok(0); 7]);
    }
    drop(ground.library());
}

pub(crate) fn check_extension_of_eeh_follows_the_platform(ground: &Ground) {
    let expected = Ok(i32::from(ground.powernv()));
    assert_eq!(ground.empty().call(Call::CheckExtension(eeh::EXTENSION)), expected);
    assert_eq!(ground.v2().call(Call::CheckExtension(eeh::EXTENSION)), expected);
    drop(ground.library());
}

pub(crate) fn set_iommu_without_a_group_is_einval(ground: &Ground) {
    let raw = ground.empty();
    assert_eq!([7, 2, 99].map(|kind| raw.set_iommu(kind)), [Err(Errno::EINVAL); 3]);
    drop(raw);
    // The library puts the group in first.
    let library = ground.library_without_groups();
    library.space.attach(ground.groups[0].0).unwrap();
    let calls = library.calls();
    let place = |name| calls.iter().position(|call| *call == name);
    assert!(place("VFIO_GROUP_SET_CONTAINER") < place("VFIO_SET_IOMMU"), "{calls:?}");
}

/// The type of a container stays.
pub(crate) fn set_iommu_twice_is_einval(ground: &Ground) {
    let raw = ground.v2();
    assert_eq!([7, 2, 99].map(|kind| raw.set_iommu(kind)), [Err(Errno::EINVAL); 3]);
    drop(raw);
    let library = ground.library();
    let again = library.space.attach(ground.groups[0].0).unwrap_err();
    assert!(matches!(again, AttachError::AttachedAlready { .. }), "{again}");
}

/// Type1 among them. The container is as before, and may try another.
pub(crate) fn set_iommu_of_an_unknown_type_is_enodev_and_may_be_tried_again(ground: &Ground) {
    let raw = ground.empty();
    assert_eq!(raw.attach(0), Ok(0));
    assert_eq!([0, 1, 3, 99].map(|kind| raw.set_iommu(kind)), [Err(Errno::ENODEV); 4]);
    assert_eq!(raw.call(Call::Enable), Err(Errno::EINVAL), "no driver yet");
    assert_eq!(raw.set_iommu(spapr::TCE_V2_IOMMU), Ok(0));
    drop(raw);
    drop(ground.library());
}

/// Where there is EEH, the driver says yes to it, and cannot open it.
pub(crate) fn set_iommu_of_the_eeh_extension_is_einval_where_there_is_eeh(ground: &Ground) {
    let raw = ground.empty();
    assert_eq!(raw.attach(0), Ok(0));
    let expected = if ground.powernv() { Errno::EINVAL } else { Errno::ENODEV };
    assert_eq!(raw.set_iommu(eeh::EXTENSION), Err(expected));
    assert_eq!(raw.set_iommu(spapr::TCE_V2_IOMMU), Ok(0));
    drop(raw);
    drop(ground.library());
}

/// No driver, no calls of one.
pub(crate) fn calls_of_a_driver_that_is_not_there_are_einval(ground: &Ground) {
    let calls = [
        Call::TceGetInfo(Default::default()),
        Call::Enable,
        Call::Disable,
        Call::MapDma(Default::default()),
        Call::UnmapDma(Default::default()),
        Call::RegisterMemory(Default::default()),
        Call::UnregisterMemory(Default::default()),
        Call::TceCreate(Default::default()),
        Call::TceRemove(Default::default()),
        Call::EehPeOp(Default::default()),
        Call::GroupUnsetContainer,
    ];
    let empty = ground.empty();
    let with_group = ground.empty();
    assert_eq!(with_group.attach(0), Ok(0));
    for raw in [empty, with_group] {
        for call in calls {
            assert_eq!(raw.call(call), Err(Errno::EINVAL), "{call:?}");
        }
    }
    // The library has no container without a driver.
    let library = ground.library_without_groups();
    library.leased(K64);
    assert!(library.calls().is_empty());
}

/// Here a call for groups.
pub(crate) fn calls_that_the_driver_does_not_know_are_enotty(ground: &Ground) {
    for kind in [spapr::TCE_IOMMU, spapr::TCE_V2_IOMMU] {
        assert_eq!(ground.container(kind, &[0]).call(Call::GroupUnsetContainer), Err(Errno::ENOTTY));
    }
    // A `Call` is made for one kind of file, by `host::calls` alone.
    drop(ground.library());
}

/// The driver goes with the last group. (So GET_INFO's ENXIO and ENABLE's ENODEV for lack of a
/// group are never seen.)
pub(crate) fn container_without_groups_loses_its_driver_and_takes_another(ground: &Ground) {
    let raw = ground.v1();
    assert_eq!(raw.call(Call::Enable), Ok(0));
    assert!(ground.locked() > 0);
    assert_eq!(raw.detach(0), Ok(0));
    assert_eq!(ground.locked(), 0);
    assert_eq!(raw.info(), Err(Errno::EINVAL));
    assert_eq!(raw.call(Call::Enable), Err(Errno::EINVAL));
    assert_eq!(raw.attach(0), Ok(0));
    assert_eq!(raw.set_iommu(spapr::TCE_V2_IOMMU), Ok(0));
    assert!(raw.info().is_ok());
    raw.registered(K64);
    raw.close_group(0);
    assert_eq!((raw.info(), ground.locked()), (Err(Errno::EINVAL), 0), "closing the group's file does it as well");
    drop(raw);

    // A space without groups keeps its leases, and registers them anew.
    let library = ground.library();
    let (_, _lease) = library.leased(K64);
    library.space.detach(ground.groups[0].0).unwrap();
    library.space.attach(ground.groups[0].0).unwrap();
    assert_eq!(ground.locked(), K64.cast_signed());
}

/// What stands in the way when a container cannot be opened as a group.
pub(crate) fn group_has_one_opener(ground: &Ground) {
    let raw = ground.v2();
    let again = ground.kernel.open(Node::Group(ground.groups[0].0));
    assert_eq!(again, Err(Errno::EBUSY));
    assert!(!ground.is_free(0));
    let library = ground.library_without_groups();
    let refused = library.space.attach(ground.groups[0].0).unwrap_err();
    assert!(matches!(refused, AttachError::Obstacle(_)), "{refused}");
    drop(library);
    drop(raw);
    assert!(ground.is_free(0));
}
