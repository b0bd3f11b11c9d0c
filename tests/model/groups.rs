//! Groups, containers, and the order in which files are closed.

use super::*;
use spapr_iommu::Group;
use spapr_iommu::host::{Call, Errno, Host, Node, Obstacle};
use spapr_iommu::uapi::{spapr, vfio};
use spapr_iommu_tests::by_address::RunCall;

fn status(b: &Fixture, group: usize) -> u32 {
    let mut call = Call::GroupGetStatus(vfio::GroupStatus { argsz: 8, flags: 0 });
    assert_eq!(b.model.run_call(b.groups[group], &mut call), OK);
    match call {
        Call::GroupGetStatus(status) => status.flags,
        _ => unreachable!(),
    }
}

#[test]
fn a_group_has_one_opener() {
    let model = model("powernv9");
    assert_eq!(model.obstacle(Node::Group(Group(0))), None);
    let group = model.open(Node::Group(Group(0))).unwrap();
    assert_eq!(model.open(Node::Group(Group(0))), Err(Errno::EBUSY));
    assert_eq!(model.obstacle(Node::Group(Group(0))), Some(Obstacle::Busy { group: Group(0) }));
    model.close(group);
    assert!(model.open(Node::Group(Group(0))).is_ok());
}

#[test]
fn a_missing_group_is_named_with_those_that_are_there() {
    let model = model("powernv9").with_groups(3);
    assert_eq!(model.open(Node::Group(Group(9))), Err(Errno::ENOENT));
    assert_eq!(
        model.obstacle(Node::Group(Group(9))),
        Some(Obstacle::NoGroup { group: Group(9), device: None, present: vec![Group(0), Group(1), Group(2)] })
    );
}

#[test]
fn a_group_with_a_host_driver_is_not_viable() {
    let model = model("powernv9").with_host_driver(Group(0), "nvme");
    let container = model.open(Node::Container).unwrap();
    let group = model.open(Node::Group(Group(0))).unwrap();
    let mut call = Call::GroupGetStatus(vfio::GroupStatus { argsz: 8, flags: 9 });
    assert_eq!(model.run_call(group, &mut call), OK);
    assert_eq!(call, Call::GroupGetStatus(vfio::GroupStatus { argsz: 8, flags: 0 }));
    assert_eq!(model.run_call(group, &mut Call::GroupSetContainer(container)), Err(Errno::EPERM));
    let (device, driver) = ("0000:00:01.0".to_owned(), "nvme".to_owned());
    assert_eq!(model.obstacle(Node::Group(Group(0))), Some(Obstacle::NotViable { group: Group(0), device, driver }));
    let devices = model.groups()[0].devices.clone();
    assert_eq!(devices.iter().map(|d| d.driver.as_deref()).collect::<Vec<_>>(), [Some("vfio-pci"), Some("nvme")]);
}

#[test]
fn set_container_wants_a_container_once() {
    let b = fixture("powernv9");
    let other = b.model.open(Node::Group(Group(1))).unwrap();
    assert_eq!(status(&b, 0), vfio::GROUP_FLAGS_VIABLE | vfio::GROUP_FLAGS_CONTAINER_SET);
    assert_eq!(b.on_fd(other, Call::GroupSetContainer(spapr_iommu::host::Fd(999))), Err(Errno::EBADF));
    assert_eq!(b.on_fd(other, Call::GroupSetContainer(other)), Err(Errno::EBADFD));
    assert_eq!(b.on_fd(b.groups[0], Call::GroupSetContainer(b.container)), Err(Errno::EINVAL));
    assert_eq!(b.on_fd(other, Call::GroupUnsetContainer), Err(Errno::EINVAL));
}

#[test]
fn a_device_opens_only_in_a_bound_container() {
    let model = model("powernv9");
    let container = model.open(Node::Container).unwrap();
    let group = model.open(Node::Group(Group(0))).unwrap();
    let node = Node::Device { group, name: "0000:00:00.0" };
    assert_eq!(model.open(Node::Device { group, name: "0000:00:07.0" }), Err(Errno::ENODEV));
    assert_eq!(model.open(node), Err(Errno::EINVAL));
    let (device, devices) = ("0000:00:07.0".to_owned(), vec!["0000:00:00.0".to_owned()]);
    let missing = model.obstacle(Node::Device { group, name: "0000:00:07.0" });
    assert_eq!((missing, model.obstacle(node)), (Some(Obstacle::NoDevice { group: Group(0), device, devices }), None));
    model.run_call(group, &mut Call::GroupSetContainer(container)).unwrap();
    assert_eq!(model.open(node), Err(Errno::EINVAL));
    model.run_call(container, &mut Call::SetIommu(spapr::TCE_V2_IOMMU)).unwrap();
    let device = model.open(node).unwrap();
    assert_eq!(model.run_call(group, &mut Call::GroupUnsetContainer), Err(Errno::EBUSY));
    model.close(device);
    assert_eq!(model.run_call(group, &mut Call::GroupUnsetContainer), OK);
}

#[test]
fn a_device_file_holds_its_group() {
    let b = fixture("powernv9");
    let memory = b.registered(0x10000);
    assert_eq!(b.map(memory.start(), 0, 0x10000), OK);
    let device = b.model.open(Node::Device { group: b.groups[0], name: "0000:00:00.0" }).unwrap();
    b.close_all();
    assert_eq!(b.mapped(memory), 16, "nothing was detached yet");
    assert_eq!(b.model.open(Node::Group(Group(0))), Err(Errno::EBUSY));
    b.model.close(device);
    assert_eq!((b.model.regions(), b.model.locked()), (vec![], 0));
    assert!(b.model.open(Node::Group(Group(0))).is_ok());
}

#[test]
fn a_container_lives_while_groups_are_in_it() {
    let b = fixture("powernv9");
    let memory = b.registered(0x10000);
    assert_eq!(b.map(memory.start(), 0, 0x10000), OK);
    b.model.close(b.container);
    assert_eq!(b.mapped(memory), 16);
    assert_eq!(b.map(memory.start(), 0, 0x10000), Err(Errno::EBADF));
    assert_eq!(status(&b, 0), vfio::GROUP_FLAGS_VIABLE | vfio::GROUP_FLAGS_CONTAINER_SET);
    b.model.close(b.groups[0]);
    assert_eq!((b.model.regions(), b.model.leaks(), b.violations()), (vec![], vec![], vec![]));
}

#[test]
fn without_its_last_group_a_container_is_as_new() {
    let b = fixture("powernv9");
    b.registered(0x10000);
    b.create(16, 1 << 30, 1).unwrap();
    assert_eq!(b.on_fd(b.groups[0], Call::GroupUnsetContainer), OK);
    assert_eq!((b.model.regions(), b.model.locked()), (vec![], 0));
    assert_eq!(b.call(Call::Enable), Err(Errno::EINVAL));
    assert_eq!(b.on_fd(b.groups[0], Call::GroupSetContainer(b.container)), OK);
    assert_eq!(b.call(Call::SetIommu(spapr::TCE_IOMMU)), OK);
}

#[test]
fn detaching_one_group_clears_the_tables_all_share() {
    let b = Fixture::on(model("powernv9"), &[0, 1], spapr::TCE_V2_IOMMU);
    let memory = b.registered(0x20000);
    assert_eq!(b.map(memory.start(), 0, 0x20000), OK);
    assert_eq!(b.on_fd(b.groups[1], Call::GroupUnsetContainer), OK);
    assert_eq!((b.entries(0), b.mapped(memory)), (vec![], 0));
    assert_eq!(b.map(memory.start(), 0, 0x20000), OK, "the window is still there for the other group");
    assert_eq!(b.violations(), []);
}

#[test]
fn the_processs_end_closes_all_and_shows_what_is_left() {
    let b = fixture("powernv9");
    let memory = b.registered(0x10000);
    assert_eq!(b.map(memory.start(), 0, 0x10000), OK);
    b.model.exit();
    assert_eq!((b.model.locked(), b.violations()), (0, vec![]));
    assert!(b.model.open(Node::Group(Group(0))).is_ok());
}
