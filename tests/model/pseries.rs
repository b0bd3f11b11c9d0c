//! Window rules of pseries: order, poisoning, one group a container.

use super::fixture::*;
use spapr_iommu::host::{Call, Errno, Host, Node};
use spapr_iommu::model::{Leak, Violation};

const POISONED: Violation = Violation::Poisoned { group: 0 };

fn leaked(bytes: u64) -> Violation {
    Violation::LeakedCharge { bytes }
}

#[test]
fn the_default_window_and_one_dynamic_window_fit() {
    let b = fixture("pseries");
    assert_eq!(b.create(16, 1 << 34, 0), Ok(HIGH));
    assert_eq!(b.model.tables(b.container).len(), 2);
    assert_eq!(b.model.locked(), (2 << 20) + (8 << 18));
    assert_eq!(b.violations(), []);
}

#[test]
fn a_dynamic_window_in_slot_0_lies_high_too() {
    let b = fixture("pseries");
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(16, 1 << 34, 1), Ok(HIGH));
    assert_eq!(b.remove(HIGH), OK);
    assert_eq!(b.create(21, 1 << 34, 1), Ok(HIGH), "once removed another one may come");
}

#[test]
fn a_default_like_window_has_the_size_that_is_asked_for() {
    let b = fixture("pseries");
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(12, 1 << 28, 1), Ok(0));
    assert_eq!(b.model.tables(b.container)[0].range.len(), 1 << 28);
    let b = fixture("pseries");
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(12, 1 << 31, 1), Ok(HIGH), "larger than the default window: a dynamic one");
}

#[test]
fn slot_0_is_closed_while_a_dynamic_window_lives() {
    let b = fixture("pseries");
    assert_eq!(b.create(16, 1 << 30, 1), Ok(HIGH));
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(12, 1 << 30, 1), Err(Errno::EPERM));
    assert_eq!(b.create(16, 1 << 30, 1), Err(Errno::EPERM));
    assert_eq!(b.violations(), [leaked(2 << 20), leaked(8 << 14)], "leaks, but does not poison");
    assert_eq!(b.remove(HIGH), OK);
    assert_eq!(b.create(12, 1 << 30, 1), Ok(0));
}

#[test]
fn a_second_dynamic_window_poisons_the_pe_for_ever() {
    let b = fixture("pseries");
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(16, 1 << 30, 1), Ok(HIGH));
    assert_eq!(b.create(16, 1 << 30, 1), Err(Errno::ENODEV));
    assert_eq!(b.violations(), [Violation::SecondDdw { group: 0 }, POISONED, leaked(8 << 14)]);
    b.close_all();
    // Another container of the same PE gets no window either, and each attempt leaks.
    let container = b.model.open(Node::Container).unwrap();
    let group = b.model.open(Node::Group(0)).unwrap();
    assert_eq!(b.on_fd(group, Call::GroupSetContainer(container)), OK);
    assert_eq!(b.on_fd(container, Call::SetIommu(7)), OK);
    let b = Fixture { model: b.model, container, groups: vec![group] };
    b.registered(0x10000);
    assert_eq!(b.unmap(0, 0x1000), Err(Errno::ENODEV));
    assert_eq!(b.unmap(0, 0x1000), Err(Errno::ENODEV));
    assert_eq!(b.model.leaks(), [Leak::Locked((8 << 14) + 2 * (2 << 20))]);
}

#[test]
fn levels_are_refused_after_a_charge_of_4_gib() {
    for (preset, charge) in [("pseries", 0xffff_0000), ("pseries-4k", 0xffff_f000)] {
        let b = fixture(preset);
        assert_eq!(b.remove(0), OK);
        assert_eq!(b.create(16, 1 << 30, 2), Err(Errno::EINVAL));
        assert_eq!(b.violations(), [leaked(charge)]);
    }
    let poor = Fixture::on(model("pseries").with_memlock(Some(8 << 20)), &[0], 7);
    assert_eq!(poor.create(16, 1 << 30, 2), Err(Errno::ENOMEM));
    assert_eq!(poor.violations(), []);
}

#[test]
fn too_large_a_window_may_be_tried_smaller() {
    let b = fixture("pseries");
    assert_eq!(b.create(12, 1 << 50, 1), Err(Errno::EINVAL));
    assert_eq!(b.create(12, 3 << 30, 1), Err(Errno::EINVAL));
    assert!(!b.violations().contains(&POISONED));
    assert_eq!(b.create(12, 1 << 32, 1), Ok(HIGH));
}

#[test]
fn firmware_without_dynamic_windows_is_of_no_use() {
    let b = fixture("pseries-noddw");
    let memory = b.registered(0x10000);
    assert_eq!(b.map(memory.start(), 0, 0x1000), Err(Errno::EINVAL));
    assert_eq!(b.map(memory.start(), 0, 0x1000), Err(Errno::ENODEV));
    assert_eq!(b.violations(), [POISONED, leaked(2 << 20), leaked(2 << 20)]);
}

#[test]
fn a_pe_with_one_window_takes_a_dynamic_one_instead_of_the_default() {
    let b = fixture("pseries-1window");
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(16, 1 << 34, 1), Ok(HIGH));
    assert_eq!(b.violations(), []);
    let b = fixture("pseries-1window");
    assert_eq!(b.create(16, 1 << 34, 1), Err(Errno::ENODEV));
    assert_eq!(b.violations()[0], POISONED);
}

#[test]
fn two_groups_cannot_share_windows() {
    let b = Fixture::on(model("pseries"), &[0, 1], 7);
    let memory = b.registered(0x10000);
    assert_eq!(b.violations().len(), 1, "the second group itself");
    assert_eq!(b.map(memory.start(), 0, 0x1000), Err(Errno::EPERM));
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(16, 1 << 30, 1), Err(Errno::EPERM));
    assert_eq!((b.model.locked(), b.model.tables(b.container)), (0x10000, vec![]), "this failure does not leak");
    assert_eq!(b.on_fd(b.groups[1], Call::GroupUnsetContainer), OK);
    assert_eq!(b.create(16, 1 << 30, 1), Ok(HIGH));
}

#[test]
fn a_second_group_does_not_come_to_a_window() {
    let b = fixture("pseries");
    b.create(16, 1 << 30, 1).unwrap();
    let other = b.model.open(Node::Group(1)).unwrap();
    assert_eq!(b.on_fd(other, Call::GroupSetContainer(b.container)), Err(Errno::EPERM));
    assert_eq!(b.violations(), []);
}

#[test]
fn leaving_the_container_resets_the_pe() {
    let b = fixture("pseries");
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(16, 1 << 30, 1), Ok(HIGH));
    assert_eq!(b.on_fd(b.groups[0], Call::GroupUnsetContainer), OK);
    assert_eq!(b.on_fd(b.groups[0], Call::GroupSetContainer(b.container)), OK);
    assert_eq!(b.call(Call::SetIommu(7)), OK);
    assert_eq!(b.create(16, 1 << 30, 1), Ok(HIGH));
    assert_eq!(b.violations(), []);
}

#[test]
fn a_window_smaller_than_a_page_holds_nothing_and_the_kernel_warns() {
    let b = fixture("pseries");
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(12, 0x800, 1), Ok(0));
    assert_eq!(b.violations(), [Violation::EmptyWindow { size: 0x800 }]);
    let memory = b.registered(0x10000);
    assert_eq!(b.map(memory.start(), 0, 0x1000), Err(Errno::ENXIO));
}
