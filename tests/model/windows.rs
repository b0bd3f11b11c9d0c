//! TCE_CREATE, TCE_REMOVE and the default window; on pseries also order, poisoning, and one group
//! per container.

use super::*;
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr};
use spapr_iommu::host::{Call, Errno, Host, Node};
use spapr_iommu::model::{Leak, Violation};

#[test]
fn a_whole_path_leaves_nothing_behind() {
    for preset in ["powernv8-4k", "powernv9", "powernv10-7.2", "pseries", "pseries-4k"] {
        let b = fixture(preset);
        let memory = b.registered(1 << 20);
        let start = b.create(16, 1 << 30, 1).unwrap();
        assert_eq!(start, HIGH, "{preset}");
        let expected = if preset.ends_with("4k") { Err(Errno::EINVAL) } else { OK };
        assert_eq!(b.map(memory.start(), start, 1 << 20), expected, "{preset}");
        assert_eq!(b.map(memory.start(), 0, 1 << 20), OK);
        assert_eq!(b.entries(0), [(0, 1 << 20, memory.start().0)]);
        assert_eq!(b.unmap(start, 1 << 20), OK);
        assert_eq!(b.unmap(0, 1 << 20), OK);
        assert_eq!(b.remove(start), OK);
        assert_eq!(b.unregister(memory), OK);
        b.close_all();
        b.model.exit();
        assert_eq!((b.model.locked(), b.model.leaks(), b.violations()), (0, vec![], vec![]));
    }
}

#[test]
fn map_unmap_and_create_bring_the_default_window() {
    for preset in ["powernv9", "pseries"] {
        let size = if preset == "pseries" { 1 << 30 } else { 2 << 30 };
        let charge = size >> 9 << u32::from(preset != "pseries");
        let b = fixture(preset);
        assert_eq!(b.map(UserAddr(0), 0, 0x1000), Err(Errno::EPERM), "no REGISTER has succeeded yet");
        assert_eq!(b.model.tables(b.container), []);
        b.registered(0x10000);
        // A MAP that fails later has created the window nevertheless.
        assert_eq!(b.map(UserAddr(0), 0, 0x1000), Err(Errno::EINVAL));
        assert_eq!(b.model.tables(b.container)[0].range, IovaRange::new(Iova(0), size).unwrap());
        assert_eq!(b.model.locked(), 0x10000 + charge);

        let b = fixture(preset);
        b.registered(0x10000);
        assert_eq!(b.unmap(0, 0x1000), OK);
        assert_eq!(b.model.tables(b.container).len(), 1);

        let b = fixture(preset);
        assert_eq!(b.create(5, 1 << 30, 1), Err(Errno::EINVAL));
        assert_eq!(b.model.tables(b.container).len(), 1);
    }
}

#[test]
fn a_cancelled_default_window_never_comes_back() {
    let b = fixture("powernv9");
    b.registered(0x10000);
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.remove(0), Err(Errno::EINVAL));
    assert_eq!(b.unmap(0, 0x1000), Err(Errno::ENXIO));
    assert_eq!(b.create(16, 1 << 36, 1), Ok(0), "the first window lies at 0, whatever its size");
}

#[test]
fn remove_takes_any_address_inside() {
    let b = fixture("powernv9");
    let start = b.create(16, 1 << 30, 1).unwrap();
    let locked = b.model.locked();
    assert_eq!(b.remove(start + (1 << 30)), Err(Errno::EINVAL));
    assert_eq!(b.remove(start + (1 << 30) - 1), OK);
    assert_eq!(locked - b.model.locked(), 2 * (8 << 14));
    assert_eq!(b.remove(start), Err(Errno::EINVAL));
    assert_eq!(b.create(16, 1 << 30, 1), Ok(start));
}

#[test]
fn removing_a_window_lets_its_regions_go() {
    let b = fixture("pseries");
    let memory = b.registered(0x10000);
    let start = b.create(16, 1 << 30, 1).unwrap();
    assert_eq!(b.map(memory.start(), start, 0x10000), OK);
    assert_eq!(b.remove(start), OK);
    assert_eq!(b.unregister(memory), OK);
    assert_eq!((b.model.regions(), b.violations()), (vec![], vec![]));
}

#[test]
fn two_windows_are_the_most_and_that_is_checked_first() {
    let b = fixture("powernv9");
    b.create(16, 1 << 30, 1).unwrap();
    let locked = b.model.locked();
    assert_eq!(b.create(99, 3, 77), Err(Errno::ENOSPC));
    assert_eq!((b.model.locked(), b.violations()), (locked, vec![]));
}

#[test]
fn a_page_size_the_machine_lacks_is_refused_without_a_charge() {
    let b = fixture("powernv9");
    b.registered(0x10000);
    b.unmap(0, 0x1000).unwrap();
    let locked = b.model.locked();
    for (shift, size, levels) in [
        (24, 1 << 30, 1),
        (64, 1 << 30, 1),
        (0, 1 << 30, 1),
        (16, 3 << 30, 1),
        (16, 0, 1),
        (16, 1 << 30, 0),
        (16, 1 << 30, 6),
    ] {
        assert_eq!(b.create(shift, size, levels), Err(Errno::EINVAL), "{shift} {size:#x} {levels}");
    }
    assert_eq!((b.model.locked(), b.violations()), (locked, vec![]));
}

#[test]
fn a_failed_create_leaks_its_charge() {
    let b = fixture("powernv9");
    assert_eq!(b.remove(0), OK);
    // A single level would need 128 MiB in one piece.
    assert_eq!(b.create(16, 1 << 40, 1), Err(Errno::ENOMEM));
    let bytes = 2 * (8 << 24);
    assert_eq!(b.violations(), [Violation::LeakedCharge { bytes }]);
    assert_eq!((b.model.locked(), b.model.leaks()), (bytes, vec![Leak::Locked(bytes)]));
    b.model.exit();
    assert_eq!(b.violations()[1], Violation::LeftBehind { locked: bytes, regions: vec![] });
}

#[test]
fn the_limit_itself_leaks_nothing() {
    let b = Fixture::on(model("powernv9").with_memlock(Some(8 << 20)), &[0], 7);
    assert_eq!(b.create(16, 1 << 36, 1), Err(Errno::ENOMEM));
    assert_eq!(b.model.locked(), 8 << 20, "that is the default window");
    assert_eq!(b.violations(), []);
}

#[test]
fn a_small_powernv_window_is_larger_than_asked_for() {
    let b = fixture("powernv9");
    let start = b.create(16, 1 << 20, 1).unwrap();
    let memory = b.registered(0x10000);
    assert_eq!(b.map(memory.start(), start + (512 << 20) - 0x10000, 0x10000), OK);
    assert_eq!(b.violations(), []);
}

#[test]
fn a_new_group_gets_the_windows_that_are_there() {
    let b = fixture("powernv9");
    b.create(16, 1 << 30, 1).unwrap();
    let other = b.model.open(Node::Group(Group(1))).unwrap();
    assert_eq!(b.on_fd(other, Call::GroupSetContainer(b.container)), OK);
    assert_eq!(b.on_fd(b.groups[0], Call::GroupUnsetContainer), OK);
    assert_eq!(b.model.tables(b.container).len(), 2);
}

#[test]
fn a_page_shift_passes_for_another_by_its_low_seven_bits() {
    let b = fixture("pseries");
    assert_eq!(b.remove(0), OK);
    for page_shift in [64 + 12, 127, 128 + 13] {
        assert_eq!(b.create(page_shift, 1 << 30, 1), Err(Errno::EINVAL));
        assert_eq!(b.violations(), [], "{page_shift}");
    }
    assert_eq!(b.create(128 + 12, 1 << 63, 2), Err(Errno::EINVAL));
    // What the kernel charges for a table of two levels, in whole pages.
    assert_eq!(b.model.locked(), 0xffff_0000);
    assert!(b.violations().contains(&Violation::WildPageShift { page_shift: 140 }));
    let b = fixture("pseries-7.2");
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(128 + 12, 1 << 63, 2), Err(Errno::EINVAL));
    assert_eq!((b.model.locked(), b.violations()), (0, vec![]));
}

#[test]
fn a_wild_page_shift_loses_no_more_than_was_charged() {
    let b = fixture("pseries");
    // A table below one host page costs nothing.
    assert_eq!(b.create(128 + 12, 0x7_0000, 1), Err(Errno::EINVAL));
    assert_eq!(b.violations(), [Violation::WildPageShift { page_shift: 140 }]);
    assert_eq!(b.model.leaks(), []);
}

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
    let group = b.model.open(Node::Group(Group(0))).unwrap();
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
    let other = b.model.open(Node::Group(Group(1))).unwrap();
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
