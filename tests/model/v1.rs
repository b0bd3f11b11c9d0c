//! v1 containers.

use super::fixture::*;
use spapr_iommu::host::memory::Protection;
use spapr_iommu::host::{Call, Errno, Memory};
use spapr_iommu::model::MemoryKind;
use spapr_iommu::uapi::spapr;

fn v1(preset: &str) -> Fixture {
    Fixture::on(model(preset), &[0], spapr::TCE_IOMMU)
}

#[test]
fn v1_and_v2_do_not_know_each_others_calls() {
    let (one, two) = (v1("powernv9"), fixture("powernv9"));
    assert_eq!([two.call(Call::Enable), two.call(Call::Disable)], [Err(Errno::ENOTTY); 2]);
    let range = one.memory(0x10000);
    assert_eq!([one.register(range), one.unregister(range), one.remove(0)], [Err(Errno::ENOTTY); 3]);
    assert_eq!(one.create(16, 1 << 30, 1), Err(Errno::ENOTTY));
}

#[test]
fn enable_charges_the_whole_window() {
    let b = v1("pseries");
    assert_eq!(b.call(Call::Disable), OK);
    assert_eq!(b.call(Call::Enable), OK);
    assert_eq!(b.model.locked(), 1 << 30);
    assert_eq!(b.call(Call::Enable), Err(Errno::EBUSY));
    assert_eq!(b.call(Call::Disable), OK);
    assert_eq!(b.model.locked(), 0);
    let poor = Fixture::on(model("powernv9").with_memlock(Some((2 << 30) - 1)), &[0], spapr::TCE_IOMMU);
    assert_eq!(poor.call(Call::Enable), Err(Errno::ENOMEM));
}

#[test]
fn a_v1_container_takes_one_group() {
    let b = v1("powernv9");
    let other = spapr_iommu::host::Host::open(&b.model, spapr_iommu::host::Node::Group(1)).unwrap();
    assert_eq!(b.on_fd(other, Call::GroupSetContainer(b.container)), Err(Errno::EBUSY));
}

#[test]
fn a_v1_map_pins_whatever_is_there_now() {
    let b = v1("powernv9");
    let memory = b.memory(0x40000);
    assert_eq!(b.map(memory.start(), 0, 0x40000), Err(Errno::EPERM));
    b.call(Call::Enable).unwrap();
    assert_eq!(b.map(memory.start(), 0, 0x40000), OK);
    b.model.protect(user(memory.start().0 + 0x20000, 0x10000), Protection::Read).unwrap();
    assert_eq!(b.map(memory.start(), 0, 0x40000), Err(Errno::EFAULT));
    let left = [(0x20000, 0x20000, memory.start().0 + 0x20000)];
    assert_eq!(b.entries(0), left, "the pages before the bad one were cleared, the others stay");
    assert_eq!(b.call(Call::Disable), OK);
    assert_eq!(b.unmap(0, 0x40000), Err(Errno::EPERM));
    assert_eq!(b.entries(0), left, "disabled, but still mapped");
    b.close_all();
    assert_eq!((b.model.locked(), b.violations()), (0, vec![]));
}

#[test]
fn a_v1_map_of_nothing_is_efault() {
    let b = v1("pseries");
    b.call(Call::Enable).unwrap();
    let memory = b.memory(0x10000);
    b.model.declare(memory, MemoryKind::Hole).unwrap();
    assert_eq!(b.map(memory.start(), 0, 0x10000), Err(Errno::EFAULT));
}
