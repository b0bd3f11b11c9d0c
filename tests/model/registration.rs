//! REGISTER and UNREGISTER: regions of the whole process.

use super::*;
use spapr_iommu::Group;
use spapr_iommu::addr::{PageShift, UserAddr};
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Errno, Fd, Host, Memory, Node};
use spapr_iommu::model::{Leak, MemoryKind, Violation};

#[test]
fn a_region_is_host_pages_and_does_not_wrap() {
    let b = fixture("powernv9");
    let start = b.memory(0x40000).start().0;
    for (vaddr, size) in [(start + 0x1000, 0x10000), (start, 0x1000), (u64::MAX - 0xffff, 0x10000)] {
        assert_eq!(b.call(Call::RegisterMemory(register(vaddr, size))), Err(Errno::EINVAL));
    }
    assert_eq!(b.model.locked(), 0);
    let small = fixture("powernv9-4k");
    let memory = small.memory(0x2000);
    assert_eq!(small.register(user(memory.start().0 + 0x1000, 0x1000)), OK);
}

#[test]
fn a_hole_in_the_first_page_is_efault_and_later_a_page_count() {
    for (preset, page) in [("powernv9-4k", 0x1000), ("pseries", 0x10000)] {
        for bad in [0, 1, 5, 80] {
            let b = fixture(preset);
            let memory = b.memory(128 * page);
            b.model.free(user(memory.start().0 + bad * page, page)).unwrap();
            let expected = if bad == 0 { Err(Errno::EFAULT) } else { Ok(bad as i32) };
            assert_eq!(b.register(memory), expected);
            assert_eq!((b.model.locked(), b.model.regions()), (0, vec![]));
            assert_eq!(b.map(memory.start(), 0, page), Err(Errno::EPERM), "it did not enable the container");
        }
    }
}

#[test]
fn the_page_count_starts_anew_with_each_chunk_of_2_mi_pages() {
    let b = Fixture::on(model("powernv9-4k").with_open_memory(), &[0], 7);
    let memory = user(1 << 40, 16 << 30);
    let chunk = 8 << 30;
    b.model.declare(user((1 << 40) + chunk, 0x1000), MemoryKind::Device).unwrap();
    assert_eq!(b.register(memory), Err(Errno::EFAULT));
    b.model.declare(user((1 << 40) + chunk, 0x1000), MemoryKind::Ordinary).unwrap();
    b.model.declare(user((1 << 40) + chunk + 0x7000, 0x1000), MemoryKind::Device).unwrap();
    assert_eq!(b.register(memory), Ok(7));
}

#[test]
fn what_cannot_be_written_cannot_be_registered() {
    let b = fixture("powernv9");
    for protection in [Protection::None, Protection::Read] {
        let memory = b.memory(0x10000);
        b.model.protect(memory, protection).unwrap();
        assert_eq!(b.register(memory), Err(Errno::EFAULT));
    }
    assert_eq!(b.register(user(1 << 52, 0x10000)), Err(Errno::EFAULT));
}

#[test]
fn nothing_and_absurdly_much_is_enomem() {
    let b = Fixture::on(model("powernv9").with_open_memory(), &[0], 7);
    assert_eq!(b.call(Call::RegisterMemory(register(1 << 40, 0))), Err(Errno::ENOMEM));
    assert_eq!(b.call(Call::RegisterMemory(register(0, 1 << 60))), Err(Errno::ENOMEM));
    assert_eq!((b.model.locked(), b.violations()), (0, vec![Violation::EmptyRegister]));
}

#[test]
fn overlap_with_any_region_is_refused_but_only_after_the_pages_were_there() {
    let b = fixture("powernv9");
    let memory = b.memory(0x40000);
    let start = memory.start().0;
    assert_eq!(b.register(user(start, 0x20000)), OK);
    assert_eq!(b.register(user(start + 0x10000, 0x20000)), Err(Errno::EINVAL));
    assert_eq!(b.register(user(start, 0x10000)), Err(Errno::EINVAL));
    assert_eq!(b.register(user(start, 0x30000)), Err(Errno::EINVAL));
    b.model.free(user(start + 0x30000, 0x10000)).unwrap();
    assert_eq!(b.register(user(start + 0x10000, 0x30000)), Ok(2), "the hole is noticed before the overlap");
    assert_eq!(b.register(user(start + 0x20000, 0x10000)), OK, "a neighbour is not an overlap");
    assert_eq!(b.model.locked(), 0x30000);
}

#[test]
fn the_limit_of_locked_memory_is_kept() {
    let b = Fixture::on(model("powernv9").with_memlock(Some(0x20000)), &[0], 7);
    let memory = b.memory(0x30000);
    assert_eq!(b.register(memory), Err(Errno::ENOMEM));
    assert_eq!(b.register(user(memory.start().0, 0x20000)), OK);
    let host = b.model.memlock().unwrap();
    assert_eq!((host.locked, host.missing(1)), (0x20000, 1));
}

/// A second container with group 1.
fn second(b: &Fixture) -> (Fd, Fd) {
    let container = b.model.open(Node::Container).unwrap();
    let group = b.model.open(Node::Group(Group(1))).unwrap();
    assert_eq!(b.on_fd(group, Call::GroupSetContainer(container)), OK);
    assert_eq!(b.on_fd(container, Call::SetIommu(7)), OK);
    (container, group)
}

#[test]
fn containers_share_a_region_that_is_charged_once() {
    let b = fixture("powernv9");
    let memory = b.registered(0x20000);
    let args = register(memory.start().0, memory.len());
    assert_eq!(b.register(memory), Err(Errno::EBUSY));
    let (other, _) = second(&b);
    assert_eq!(b.on_fd(other, Call::UnregisterMemory(args)), Err(Errno::EPERM), "it never saw the process");
    assert_eq!(b.on_fd(other, Call::RegisterMemory(args)), OK);
    assert_eq!((b.model.locked(), b.model.regions()[0].used), (0x20000, 2));
    assert_eq!(b.map(memory.start(), 0, 0x20000), OK);
    assert_eq!(b.unregister(memory), OK, "mapped, but there is another registrant");
    assert_eq!(b.violations(), []);
    assert_eq!(b.unmap(0, 0x20000), OK);
    assert_eq!(b.unregister(memory), Err(Errno::ENOENT), "it is there, but not this container's");
    assert_eq!(b.on_fd(other, Call::UnregisterMemory(args)), OK);
    assert_eq!((b.model.regions(), b.violations()), (vec![], vec![]));
}

#[test]
fn a_region_is_freed_by_exact_match_only() {
    let b = fixture("powernv9");
    let memory = b.memory(0x40000);
    let start = memory.start().0;
    assert_eq!(b.unregister(user(start, 0x20000)), Err(Errno::EPERM));
    assert_eq!(b.register(user(start, 0x20000)), OK);
    for (at, len) in [(start, 0x10000), (start, 0x30000), (start + 0x10000, 0x10000)] {
        assert_eq!(b.unregister(user(at, len)), Err(Errno::ENOENT));
    }
    assert_eq!(b.unregister(user(start, 0x1000)), Err(Errno::EINVAL));
}

#[test]
fn unregister_while_mapped_returns_0_and_loses_the_region_for_ever() {
    for preset in ["powernv9", "pseries-7.2"] {
        let b = fixture(preset);
        let memory = b.registered(0x20000);
        assert_eq!(b.map(memory.start(), 0, 0x20000), OK);
        assert_eq!(b.unregister(memory), OK);
        assert_eq!(b.violations(), [Violation::UnregisterWhileMapped { range: memory, mapped: 32 }]);
        assert_eq!(b.unregister(memory), Err(Errno::ENOENT));
        assert!(b.model.regions()[0].orphan);
        assert_eq!(b.map(memory.start(), 0x100000, 0x1000), OK, "it can still be mapped");
        assert_eq!(b.register(user(memory.start().0, 0x10000)), Err(Errno::EINVAL));
        // Even registering it again, unmapping everything and unregistering it does not free it.
        assert_eq!(b.register(memory), OK);
        assert_eq!(b.unmap(0, 1 << 30), OK);
        assert_eq!(b.mapped(memory), 0);
        assert_eq!(b.unregister(memory), OK);
        b.close_all();
        assert_eq!((b.model.locked(), b.model.leaks()), (0x20000, vec![Leak::Region(memory)]));
        b.model.exit();
        assert_eq!(b.violations()[1], Violation::LeftBehind { locked: 0x20000, regions: vec![memory] });
    }
}

#[test]
fn a_container_may_map_what_another_registered_and_loses_it_when_that_goes_first() {
    let b = fixture("powernv9");
    let memory = b.registered(0x10000);
    let (other, _) = second(&b);
    let own = b.memory(0x10000);
    assert_eq!(b.on_fd(other, Call::RegisterMemory(register(own.start().0, own.len()))), OK);
    let args =
        spapr_iommu::uapi::vfio::DmaMap { argsz: 32, flags: RW, vaddr: memory.start().0, iova: 0, size: 0x10000 };
    assert_eq!(b.on_fd(other, Call::MapDma(args)), OK);
    b.close_all();
    assert_eq!(b.violations(), [Violation::ReleasedWhileMapped { range: memory, mapped: 16 }]);
    assert!(b.model.regions().iter().any(|region| region.range == memory && region.orphan));
}

fn page_shift_of(b: &Fixture, parts: &[(u64, MemoryKind)]) -> u32 {
    let mut start = 1 << 40;
    for (len, kind) in parts {
        b.model.declare(user(start, *len), *kind).unwrap();
        start += len;
    }
    let whole = user(1 << 40, start - (1 << 40));
    assert_eq!(b.register(whole), OK);
    b.model.regions()[0].page_shift
}

#[test]
fn a_regions_page_is_its_huge_page_as_far_as_alignment_goes() {
    use MemoryKind::{Huge, Ordinary, TransparentHuge};
    let huge = Huge(PageShift::P2M);
    let b = |preset| fixture(preset);
    assert_eq!(page_shift_of(&b("pseries-4k"), &[(0x10000, Ordinary)]), 12);
    assert_eq!(page_shift_of(&b("pseries"), &[(0x10000, Ordinary)]), 16);
    assert_eq!(page_shift_of(&b("pseries-4k"), &[(2 << 20, TransparentHuge)]), 12);
    assert_eq!(page_shift_of(&b("pseries-4k"), &[(4 << 20, huge)]), 21);
    assert_eq!(page_shift_of(&b("powernv8"), &[(16 << 20, Huge(PageShift::P16M))]), 24);
    // Small pages after huge ones do not count, small pages before them do.
    assert_eq!(page_shift_of(&b("pseries-4k"), &[(2 << 20, huge), (2 << 20, Ordinary)]), 21);
    assert_eq!(page_shift_of(&b("pseries-4k"), &[(2 << 20, Ordinary), (2 << 20, huge)]), 12);
}

#[test]
fn a_huge_page_registered_in_part_serves_only_what_its_length_divides() {
    let b = fixture("pseries-4k");
    let memory = b.model.allocate(2 << 20, PageShift::P2M).unwrap();
    assert_eq!(b.register(user(memory.start().0, 0x1f_f000)), OK);
    assert_eq!(b.model.regions()[0].page_shift, 12);
}

#[test]
fn a_region_keeps_the_pages_that_were_there() {
    let b = fixture("pseries-4k");
    let memory = b.registered(0x10000);
    b.model.write(memory.start(), b"old").unwrap();
    b.model.free(memory).unwrap();
    assert_eq!(b.memory(0x10000), memory, "the address is taken again");
    let mut text = [0xff; 3];
    b.model.read(memory.start(), &mut text).unwrap();
    assert_eq!(text, [0; 3]);
    assert_eq!(b.unregister(memory), OK);
    b.model.write(UserAddr(memory.start().0 + 1), b"new").unwrap();
    b.model.read(memory.start(), &mut text).unwrap();
    assert_eq!(&text, b"\0ne");
}

#[test]
fn a_range_that_wraps_is_invalid_to_register_and_unknown_to_unregister() {
    let b = fixture("powernv9");
    let wraps = register(0xffff_ffff_ffff_0000, 0x2_0000);
    b.registered(0x10000);
    assert_eq!(b.call(Call::RegisterMemory(wraps)), Err(Errno::EINVAL));
    assert_eq!(b.call(Call::UnregisterMemory(wraps)), Err(Errno::ENOENT));
}
