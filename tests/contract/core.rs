//! Calls of VFIO's core on a container.

use crate::fixture::{Fixture, K64};
use spapr_iommu::host::{Call, Errno, Host, Node};
use spapr_iommu::space::AttachError;
use spapr_iommu::uapi::{eeh, spapr};

pub(crate) fn api_version_is_0(fixture: &Fixture) {
    let raw = fixture.empty();
    assert_eq!(raw.call(Call::GetApiVersion), Ok(0));
    drop(raw);
    let library = fixture.library_without_groups();
    library.space.attach(fixture.groups[0].0).unwrap();
    assert!(library.calls().contains(&"VFIO_GET_API_VERSION"));
}

/// On every platform, whether a driver is bound or not: only SET_IOMMU shows that.
pub(crate) fn check_extension_says_yes_to_both_types(fixture: &Fixture) {
    let ask =
        |raw: &crate::raw::Raw<'_>| [spapr::TCE_IOMMU, spapr::TCE_V2_IOMMU].map(|n| raw.call(Call::CheckExtension(n)));
    assert_eq!(ask(&fixture.empty()), [Ok(1); 2]);
    assert_eq!(ask(&fixture.v1()), [Ok(1); 2]);
    assert_eq!(ask(&fixture.v2()), [Ok(1); 2]);
    // The library calls SET_IOMMU and relies on its result.
    let library = fixture.library_without_groups();
    library.space.attach(fixture.groups[0].0).unwrap();
    assert!(library.calls().contains(&"VFIO_SET_IOMMU"));
}

/// That driver is not built for POWER.
pub(crate) fn check_extension_denies_type1(fixture: &Fixture) {
    for raw in [fixture.empty(), fixture.v2()] {
        assert_eq!([0, 1, 3, 4, 6, 8, 99].map(|n| raw.call(Call::CheckExtension(n))), [Ok(0); 7]);
    }
    drop(fixture.library());
}

pub(crate) fn check_extension_of_eeh_follows_the_platform(fixture: &Fixture) {
    let expected = Ok(i32::from(fixture.powernv()));
    assert_eq!(fixture.empty().call(Call::CheckExtension(eeh::EXTENSION)), expected);
    assert_eq!(fixture.v2().call(Call::CheckExtension(eeh::EXTENSION)), expected);
    drop(fixture.library());
}

pub(crate) fn set_iommu_without_a_group_is_einval(fixture: &Fixture) {
    let raw = fixture.empty();
    assert_eq!([7, 2, 99].map(|kind| raw.set_iommu(kind)), [Err(Errno::EINVAL); 3]);
    drop(raw);
    // The library puts the group in first.
    let library = fixture.library_without_groups();
    library.space.attach(fixture.groups[0].0).unwrap();
    let calls = library.calls();
    let place = |name| calls.iter().position(|call| *call == name);
    assert!(place("VFIO_GROUP_SET_CONTAINER") < place("VFIO_SET_IOMMU"), "{calls:?}");
}

/// The container keeps its type.
pub(crate) fn set_iommu_twice_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!([7, 2, 99].map(|kind| raw.set_iommu(kind)), [Err(Errno::EINVAL); 3]);
    drop(raw);
    let library = fixture.library();
    let again = library.space.attach(fixture.groups[0].0).unwrap_err();
    assert!(matches!(again, AttachError::AttachedAlready { .. }), "{again}");
}

/// Type1 is among them. The container is unchanged and may try another type.
pub(crate) fn set_iommu_of_an_unknown_type_is_enodev_and_may_be_tried_again(fixture: &Fixture) {
    let raw = fixture.empty();
    assert_eq!(raw.attach(0), Ok(0));
    assert_eq!([0, 1, 3, 99].map(|kind| raw.set_iommu(kind)), [Err(Errno::ENODEV); 4]);
    assert_eq!(raw.call(Call::Enable), Err(Errno::EINVAL), "no driver yet");
    assert_eq!(raw.set_iommu(spapr::TCE_V2_IOMMU), Ok(0));
    drop(raw);
    drop(fixture.library());
}

/// Where there is EEH, the driver claims to support it, and cannot open it.
pub(crate) fn set_iommu_of_the_eeh_extension_is_einval_where_there_is_eeh(fixture: &Fixture) {
    let raw = fixture.empty();
    assert_eq!(raw.attach(0), Ok(0));
    let expected = if fixture.powernv() { Errno::EINVAL } else { Errno::ENODEV };
    assert_eq!(raw.set_iommu(eeh::EXTENSION), Err(expected));
    assert_eq!(raw.set_iommu(spapr::TCE_V2_IOMMU), Ok(0));
    drop(raw);
    drop(fixture.library());
}

/// Without a driver, none of a driver's calls.
pub(crate) fn calls_of_a_driver_that_is_not_there_are_einval(fixture: &Fixture) {
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
    let empty = fixture.empty();
    let with_group = fixture.empty();
    assert_eq!(with_group.attach(0), Ok(0));
    for raw in [empty, with_group] {
        for call in calls {
            assert_eq!(raw.call(call), Err(Errno::EINVAL), "{call:?}");
        }
    }
    // The library has no container without a driver.
    let library = fixture.library_without_groups();
    library.leased(K64);
    assert!(library.calls().is_empty());
}

/// A container gets a call for groups.
pub(crate) fn calls_that_the_driver_does_not_know_are_enotty(fixture: &Fixture) {
    for kind in [spapr::TCE_IOMMU, spapr::TCE_V2_IOMMU] {
        assert_eq!(fixture.container(kind, &[0]).call(Call::GroupUnsetContainer), Err(Errno::ENOTTY));
    }
    // A `Call` is made for one kind of file, by `host::calls` alone.
    drop(fixture.library());
}

/// The driver leaves with the last group. (GET_INFO's ENXIO and ENABLE's ENODEV for lack of a group
/// therefore never appear.)
pub(crate) fn container_without_groups_loses_its_driver_and_takes_another(fixture: &Fixture) {
    let raw = fixture.v1();
    assert_eq!(raw.call(Call::Enable), Ok(0));
    assert!(fixture.locked() > 0);
    assert_eq!(raw.detach(0), Ok(0));
    assert_eq!(fixture.locked(), 0);
    assert_eq!(raw.info(), Err(Errno::EINVAL));
    assert_eq!(raw.call(Call::Enable), Err(Errno::EINVAL));
    assert_eq!(raw.attach(0), Ok(0));
    assert_eq!(raw.set_iommu(spapr::TCE_V2_IOMMU), Ok(0));
    assert!(raw.info().is_ok());
    raw.registered(K64);
    raw.close_group(0);
    assert_eq!((raw.info(), fixture.locked()), (Err(Errno::EINVAL), 0), "closing the group's file does it as well");
    drop(raw);

    // A space without groups keeps its leases, and registers them again later.
    let library = fixture.library();
    let (_, _lease) = library.leased(K64);
    library.space.detach(fixture.groups[0].0).unwrap();
    library.space.attach(fixture.groups[0].0).unwrap();
    assert_eq!(fixture.locked(), K64.cast_signed());
}

/// Returns the obstacle when a container cannot be opened as a group.
pub(crate) fn group_has_one_opener(fixture: &Fixture) {
    let raw = fixture.v2();
    let again = fixture.kernel.open(Node::Group(fixture.groups[0].0));
    assert_eq!(again, Err(Errno::EBUSY));
    assert!(!fixture.is_free(0));
    let library = fixture.library_without_groups();
    let refused = library.space.attach(fixture.groups[0].0).unwrap_err();
    assert!(matches!(refused, AttachError::Obstacle(_)), "{refused}");
    drop(library);
    drop(raw);
    assert!(fixture.is_free(0));
}
