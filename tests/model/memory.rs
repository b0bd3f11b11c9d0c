//! Memory of the process.

use super::*;
use spapr_iommu::addr::{PageShift, UserAddr};
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Errno, Extent, Host, Memory};
use spapr_iommu::model::MemoryKind;

#[test]
fn new_memory_is_zero_aligned_and_its_own() {
    let model = model("powernv9-4k");
    let (one, two) = (model.allocate(0x1000, page(12)).unwrap(), model.allocate(0x1001, page(12)).unwrap());
    assert_eq!((one.start().0 | two.start().0) & 0xffff, 0);
    assert_eq!((one.intersection(&two), two.len()), (None, 0x2000));
    model.write(one.start(), b"mine").unwrap();
    let mut text = [1; 4];
    model.read(two.start(), &mut text).unwrap();
    assert_eq!(text, [0; 4]);
    assert_eq!(model.allocate(0, page(12)), Err(Errno::EINVAL));
    assert_eq!(model.allocate(u64::MAX, page(12)), Err(Errno::EINVAL));
    assert_eq!(model.allocate(1 << 52, page(12)), Err(Errno::ENOMEM));
}

#[test]
fn access_outside_memory_is_efault() {
    let model = model("powernv9");
    let memory = model.allocate(0x20000, page(16)).unwrap();
    let mut bytes = [0; 2];
    assert_eq!(model.read(at(memory, 0x1ffff), &mut bytes), Err(Errno::EFAULT));
    assert_eq!(model.read(UserAddr(u64::MAX), &mut bytes), Err(Errno::EFAULT));
    model.protect(user(memory.start().0, 0x10000), Protection::Read).unwrap();
    assert_eq!(model.write(at(memory, 0xffff), b"ab"), Err(Errno::EFAULT));
    assert_eq!(model.read(at(memory, 0xffff), &mut bytes), Ok(()));
    model.protect(user(memory.start().0, 0x10000), Protection::None).unwrap();
    assert_eq!(model.read(at(memory, 0xffff), &mut bytes), Err(Errno::EFAULT));
    model.free(user(memory.start().0 + 0x10000, 0x10000)).unwrap();
    assert_eq!(model.protect(memory, Protection::Read), Err(Errno::ENOMEM));
    assert_eq!(model.free(user(memory.start().0, 0x1000)), Err(Errno::EINVAL));
}

#[test]
fn hugetlb_pages_are_the_machines_and_run_out() {
    assert_eq!(model("powernv9").allocate(2 << 20, PageShift::P2M), Err(Errno::EINVAL));
    assert!(model("powernv8").allocate(16 << 20, PageShift::P16M).is_ok());
    let b = Fixture::on(model("pseries").with_free_huge_pages(2), &[0], 7);
    let memory = b.model.allocate(3 << 20, PageShift::P2M).unwrap();
    assert_eq!(memory.len(), 4 << 20);
    assert_eq!(b.model.allocate(1, PageShift::P2M), Err(Errno::ENOMEM));
    assert_eq!(b.model.free(user(memory.start().0, 0x10000)), Err(Errno::EINVAL));
    assert_eq!(b.register(memory), OK);
    b.model.free(memory).unwrap();
    assert_eq!(b.model.allocate(1, PageShift::P2M), Err(Errno::ENOMEM), "they are still pinned");
    assert_eq!(b.unregister(memory), OK);
    assert!(b.model.allocate(4 << 20, PageShift::P2M).is_ok());
}

#[test]
fn backing_shows_page_size_holes_and_what_can_be_pinned() {
    let model = model("pseries-4k");
    let place = |start: u64, len, kind| model.declare(user(start, len), kind).unwrap();
    let base = 1 << 40;
    place(base, 2 << 20, MemoryKind::Huge(PageShift::P2M));
    place(base + (2 << 20), 0x1000, MemoryKind::Ordinary);
    place(base + (2 << 20) + 0x1000, 0x1000, MemoryKind::TransparentHuge);
    place(base + (2 << 20) + 0x3000, 0x1000, MemoryKind::Device);
    let extent = |start, len, shift, pinnable| Extent { range: user(start, len), page: page(shift), pinnable };
    let expected = [
        extent(base + (1 << 20), 1 << 20, 21, true),
        extent(base + (2 << 20), 0x2000, 12, true),
        extent(base + (2 << 20) + 0x3000, 0x1000, 12, false),
    ];
    assert_eq!(model.backing(user(base + (1 << 20), 4 << 20)).unwrap(), expected);
}

#[test]
fn open_memory_is_everywhere_but_where_something_else_was_declared() {
    let model = model("powernv9").with_open_memory();
    model.write(UserAddr(0x1234_5678), b"here").unwrap();
    let mut text = [0; 4];
    model.read(UserAddr(0x1234_5678), &mut text).unwrap();
    assert_eq!(&text, b"here");
    assert_eq!(model.write(UserAddr((1 << 52) - 2), b"here"), Err(Errno::EFAULT));
    let memory = model.allocate(0x10000, page(16)).unwrap();
    model.protect(memory, Protection::Read).unwrap();
    let extents = model.backing(user(memory.start().0, 0x20000)).unwrap();
    assert_eq!(extents.iter().map(|extent| extent.pinnable).collect::<Vec<_>>(), [false, true]);
}
