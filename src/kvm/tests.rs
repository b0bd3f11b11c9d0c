//! Tests acceleration on KVM in process.

use super::model::{GroupWindow, KvmModel};
use super::{Acceleration, KvmError, TableSpec};
use crate::addr::{Iova, IovaRange, Liobn, PageShift};
use crate::error::ErrorKind;
use crate::pci::Group;
use crate::space::GroupFile;
use crate::uapi::kvm::CAP_SPAPR_TCE_VFIO;
use std::sync::Arc;

const LIOBN: Liobn = Liobn(0x8000_0000);
const NEXT: Liobn = Liobn(LIOBN.0 + 1);
const OTHER: Liobn = Liobn(LIOBN.0 + 0x100);

fn window(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

fn default_window() -> GroupWindow {
    (window(0, 1 << 24), PageShift::P4K)
}

fn large_window() -> GroupWindow {
    (window(1 << 59, 1 << 26), PageShift::P64K)
}

fn spec(liobn: Liobn, (window, page): GroupWindow) -> TableSpec {
    TableSpec { liobn, window, page }
}

fn file(number: Group) -> GroupFile {
    GroupFile { number, file: None }
}

/// Creates a kernel with these groups, each with both windows.
fn kernel(groups: &[Group]) -> KvmModel {
    let kvm = KvmModel::new();
    groups.iter().for_each(|group| kvm.set_windows(*group, &[default_window(), large_window()]));
    kvm
}

fn accelerated(kvm: &KvmModel) -> Acceleration {
    let acceleration = Acceleration::new(Arc::new(kvm.clone())).unwrap();
    kvm.take_log();
    acceleration
}

#[test]
fn for_a_trusted_guest_the_kernel_is_asked_for_the_device_and_the_three_hypercalls() {
    let kvm = kernel(&[]);
    let _acceleration = Acceleration::trusting(Arc::new(kvm.clone())).unwrap();
    assert_eq!(kvm.take_log(), ["device", "enable 0x20", "enable 0x138", "enable 0x13c"]);
    let again = Acceleration::new(Arc::new(kvm.clone()));
    assert_eq!(again.err(), Some(KvmError::DeviceTaken));
}

#[test]
fn lists_and_runs_are_left_to_the_vmm_unless_the_guest_is_trusted() {
    let kvm = kernel(&[]);
    let _acceleration = Acceleration::new(Arc::new(kvm.clone())).unwrap();
    assert_eq!(kvm.take_log(), ["device", "enable 0x20"]);
}

#[test]
fn a_kernel_that_cannot_is_refused_before_anything_is_asked_of_it() {
    let kvm = kernel(&[]);
    kvm.lack(CAP_SPAPR_TCE_VFIO);
    let error = Acceleration::new(Arc::new(kvm.clone())).unwrap_err();
    assert_eq!(error, KvmError::Missing { capability: "KVM_CAP_SPAPR_TCE_VFIO" });
    assert_eq!(kvm.take_log(), [""; 0]);
}

#[test]
fn a_group_that_joins_is_attached_to_every_table_and_a_table_to_every_group() {
    let kvm = kernel(&[Group(1), Group(2)]);
    let acceleration = accelerated(&kvm);
    acceleration.add_group(file(Group(1))).unwrap();
    acceleration.add_table(spec(LIOBN, default_window())).unwrap();
    acceleration.add_table(spec(NEXT, large_window())).unwrap();
    acceleration.add_group(file(Group(2))).unwrap();
    let expected = [
        "add 1",
        "create 0x80000000",
        "attach 1 to 0x80000000",
        "create 0x80000001",
        "attach 1 to 0x80000001",
        "add 2",
        "attach 2 to 0x80000000",
        "attach 2 to 0x80000001",
    ];
    assert_eq!(kvm.take_log(), expected);
    assert_eq!((acceleration.groups(), acceleration.tables().len()), (vec![Group(1), Group(2)], 2));
}

#[test]
fn a_table_without_groups_is_kept_all_the_same() {
    let kvm = kernel(&[]);
    let acceleration = accelerated(&kvm);
    let table = acceleration.add_table(spec(LIOBN, default_window())).unwrap();
    assert_eq!(table.entries(), 1 << 12);
    table.store((1 << 12) - 1, 3);
    table.store(1 << 12, 3);
    assert_eq!((table.load((1 << 12) - 1), table.load(1 << 12), table.load(u64::MAX)), (3, 0, 0));
}

#[test]
fn a_table_whose_window_is_not_there_is_closed_again() {
    let kvm = kernel(&[Group(1), Group(2)]);
    // The default window of a group does not exist until something is mapped.
    kvm.set_windows(Group(2), &[large_window()]);
    let acceleration = accelerated(&kvm);
    acceleration.add_group(file(Group(1))).unwrap();
    acceleration.add_group(file(Group(2))).unwrap();
    let (range, page) = default_window();
    let error = acceleration.add_table(spec(LIOBN, default_window())).unwrap_err();
    assert_eq!(error, KvmError::NoWindow { group: Group(2), window: range, page });
    assert!(error.to_string().contains("create it before"), "{error}");
    assert!(kvm.table(LIOBN).is_none() && kvm.attached_tables().is_empty(), "{kvm:?}");
}

#[test]
fn a_group_without_the_windows_of_the_tables_is_taken_out_again() {
    let kvm = kernel(&[Group(1), Group(2)]);
    kvm.set_windows(Group(2), &[default_window()]);
    let acceleration = accelerated(&kvm);
    acceleration.add_table(spec(LIOBN, default_window())).unwrap();
    acceleration.add_table(spec(NEXT, large_window())).unwrap();
    acceleration.add_group(file(Group(1))).unwrap();
    let error = acceleration.add_group(file(Group(2))).unwrap_err();
    assert!(matches!(error, KvmError::NoWindow { group: Group(2), .. }), "{error}");
    assert_eq!(acceleration.groups(), [Group(1)]);
    assert_eq!((kvm.groups(), kvm.attached_tables()), (vec![Group(1)], vec![(Group(1), LIOBN), (Group(1), NEXT)]));
}

#[test]
fn a_table_may_have_larger_pages_than_the_window_and_be_shorter_but_not_the_reverse() {
    let kvm = kernel(&[Group(1)]);
    let acceleration = accelerated(&kvm);
    acceleration.add_group(file(Group(1))).unwrap();
    let start = 1 << 59;
    for (window, page, fits) in [
        (window(start, 1 << 26), PageShift::P16M, true),
        (window(start, 1 << 25), PageShift::P64K, true),
        (window(start, 1 << 27), PageShift::P64K, false),
        (window(start, 1 << 26), PageShift::P4K, false),
        (window(start + (1 << 25), 1 << 25), PageShift::P64K, false),
    ] {
        let result = acceleration.add_table(TableSpec { liobn: LIOBN, window, page });
        assert_eq!(result.is_ok(), fits, "{window} {page}");
        assert_eq!(acceleration.remove_table(LIOBN).is_ok(), fits);
    }
}

#[test]
fn what_is_there_already_or_not_at_all_is_named() {
    let kvm = kernel(&[Group(1)]);
    let acceleration = accelerated(&kvm);
    acceleration.add_group(file(Group(1))).unwrap();
    acceleration.add_table(spec(LIOBN, default_window())).unwrap();
    kvm.take_log();
    let error = acceleration.add_group(file(Group(1))).unwrap_err();
    assert_eq!(error, KvmError::GroupTaken { group: Group(1) });
    let error = acceleration.add_table(spec(LIOBN, large_window())).unwrap_err();
    assert_eq!(error, KvmError::LiobnTaken { liobn: LIOBN });
    assert_eq!(acceleration.remove_group(Group(7)), Err(KvmError::NoGroup { group: Group(7) }));
    assert_eq!(acceleration.remove_table(Liobn(7)), Err(KvmError::NoTable { liobn: Liobn(7) }));
    assert_eq!(kvm.take_log(), [""; 0], "the kernel was not asked");
    assert_eq!(acceleration.add_group(file(Group(9))), Err(KvmError::NotVfio { group: Group(9) }));
    let odd = TableSpec { liobn: Liobn(3), window: window(0x1000, 0x1_0000), page: PageShift::P64K };
    assert!(matches!(acceleration.add_table(odd), Err(KvmError::Misaligned { .. })));
    kvm.limit(100);
    let error = acceleration.add_table(spec(Liobn(3), large_window())).unwrap_err();
    assert_eq!(error, KvmError::Memory { entries: 1 << 10 });
    assert_eq!((error.kind(), error.code()), (ErrorKind::Memlock, "memory"));
}

#[test]
fn groups_leave_before_tables_are_closed() {
    let kvm = kernel(&[Group(1), Group(2)]);
    let acceleration = accelerated(&kvm);
    acceleration.add_table(spec(LIOBN, default_window())).unwrap();
    acceleration.add_group(file(Group(1))).unwrap();
    acceleration.add_group(file(Group(2))).unwrap();
    acceleration.remove_group(Group(1)).unwrap();
    assert_eq!(kvm.attached_tables(), [(Group(2), LIOBN)]);
    kvm.take_log();
    let table = kvm.table(LIOBN).unwrap();
    table.store(0, 3);
    drop(acceleration);
    assert_eq!(table.load(0), 0, "a view that is still held reads zeros");
    assert_eq!(kvm.take_log(), ["delete 2", "close 0x80000000"]);
}

#[test]
fn a_group_is_attached_to_the_tables_of_its_own_space_alone() {
    let kvm = kernel(&[Group(1), Group(2)]);
    let first = accelerated(&kvm);
    let second = first.for_another_phb();
    first.add_group(file(Group(1))).unwrap();
    second.add_group(file(Group(2))).unwrap();
    first.add_table(spec(LIOBN, default_window())).unwrap();
    second.add_table(spec(OTHER, default_window())).unwrap();
    assert_eq!(kvm.attached_tables(), [(Group(1), LIOBN), (Group(2), OTHER)]);
    assert!(second.add_table(spec(LIOBN, default_window())).is_err());
    drop(second);
    assert_eq!(kvm.attached_tables(), [(Group(1), LIOBN)]);
}
