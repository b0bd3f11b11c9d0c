//! Interrupts by eventfd.

use crate::Fixture;
use nix::sys::eventfd::{EfdFlags, EventFd};
use spapr_iommu::Group;
use spapr_iommu::device::{DeviceError, Interrupt, InterruptKind};
use spapr_iommu::host::calls::Failure;
use spapr_iommu::host::{Errno, Host, Node, RegionArea, calls};
use spapr_iommu::uapi::vfio::{IRQ_SET_ACTION_MASK, IRQ_SET_DATA_NONE, IrqSet};
use std::os::fd::AsFd;
use std::time::Duration;

const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;

fn fired(interrupt: &Interrupt) -> bool {
    interrupt.wait(Some(Duration::ZERO)).unwrap()
}

fn one(fixture: &Fixture, kind: InterruptKind) -> Interrupt {
    let mut all = fixture.device.enable_interrupts(kind, 1).unwrap();
    assert_eq!((all.len(), all[0].vector(), all[0].kind()), (1, 0, kind));
    all.remove(0)
}

#[test]
fn a_device_shows_which_interrupts_it_has() {
    let fixture = Fixture::new("powernv9");
    let count = |kind| fixture.device.interrupts(kind).map(|info| info.count).ok();
    use InterruptKind::{Error, Intx, Msi, Msix, Request};
    assert_eq!([Intx, Msi, Msix, Error, Request].map(count), [Some(1), Some(1), None, None, Some(1)]);
    let refused = fixture.device.enable_interrupts(Msix, 1).unwrap_err();
    assert!(matches!(refused, DeviceError::NoInterrupt { kind: Msix, .. }), "{refused}");
    for asked in [0, 2, u32::MAX] {
        let refused = fixture.device.enable_interrupts(Msi, asked).unwrap_err();
        assert!(matches!(refused, DeviceError::Vectors { there: 1, .. }), "{refused}");
    }
}

#[test]
fn intx_masks_itself_until_it_is_rearmed() {
    let fixture = Fixture::new("pseries");
    let intx = one(&fixture, InterruptKind::Intx);
    assert!(!fired(&intx));
    fixture.bar.write(RAISE, 1u32).unwrap();
    assert!(fired(&intx) && !fired(&intx));
    fixture.bar.write(RAISE, 2u32).unwrap();
    assert!(!fired(&intx), "masked");
    intx.rearm().unwrap();
    assert!(fired(&intx), "the device still asserts it");
    fixture.bar.write(ACKNOWLEDGE, 3u32).unwrap();
    intx.rearm().unwrap();
    assert!(!fired(&intx));
    fixture.bar.write(RAISE, 4u32).unwrap();
    assert!(fired(&intx));
}

#[test]
fn messages_need_the_bus_and_no_rearming() {
    let fixture = Fixture::new("powernv9");
    let msi = one(&fixture, InterruptKind::Msi);
    fixture.bar.write(RAISE, 1u32).unwrap();
    assert!(!fired(&msi), "off the bus");
    fixture.device.start_dma().unwrap();
    for _ in 0..2 {
        fixture.bar.write(RAISE, 1u32).unwrap();
        assert!(fired(&msi) && !fired(&msi));
        msi.rearm().unwrap();
    }
    assert!(!fired(&msi));
    // At the end of a transfer too.
    fixture.bar.write(0x98, 5u64).unwrap();
    assert!(msi.wait(None).unwrap());
    assert_eq!(fixture.bar.read::<u32>(0x24), Ok(0x101));
}

#[test]
fn one_kind_at_a_time_and_all_at_once() {
    let fixture = Fixture::new("powernv9");
    let msi = one(&fixture, InterruptKind::Msi);
    let refused = fixture.device.enable_interrupts(InterruptKind::Msi, 1).unwrap_err();
    assert!(matches!(refused, DeviceError::EnabledAlready { kind: InterruptKind::Msi, .. }), "{refused}");
    let refused = fixture.device.enable_interrupts(InterruptKind::Intx, 1).unwrap_err();
    assert!(matches!(refused, DeviceError::OtherKind { enabled: InterruptKind::Msi, .. }), "{refused}");
    // The host's request interrupt is none of the three.
    let _request = one(&fixture, InterruptKind::Request);
    drop(msi);
    let intx = one(&fixture, InterruptKind::Intx);
    fixture.bar.write(RAISE, 1u32).unwrap();
    assert!(fired(&intx));
}

#[test]
fn interrupts_end_with_the_device() {
    let fixture = Fixture::new("powernv9");
    let intx = one(&fixture, InterruptKind::Intx);
    let Fixture { bar, device, .. } = fixture;
    drop(device);
    bar.write(RAISE, 1u32).unwrap();
    assert!(!fired(&intx));
    let refused = intx.rearm().unwrap_err();
    assert!(matches!(refused, DeviceError::Disabled { .. }), "{refused}");
}

#[test]
fn an_old_interrupt_does_not_disable_a_new_one() {
    let fixture = Fixture::new("powernv9");
    let old = one(&fixture, InterruptKind::Intx);
    fixture.device.eeh().recover().unwrap();
    let new = one(&fixture, InterruptKind::Intx);
    drop(old);
    fixture.bar.write(RAISE, 1u32).unwrap();
    assert!(fired(&new));
}

#[test]
fn the_host_asks_for_a_device_that_is_taken_away() {
    let fixture = Fixture::new("pseries");
    let request = one(&fixture, InterruptKind::Request);
    assert!(!request.wait(Some(Duration::from_millis(1))).unwrap());
    fixture.model.unplug(Group(0));
    assert!(fired(&request));
}

#[test]
fn the_model_refuses_as_vfio_pci_does() {
    let fixture = Fixture::new("powernv9");
    let (model, set) = (&fixture.model, IrqSet::default());
    let group = model.open(Node::Group(Group(1))).unwrap();
    assert_eq!(model.set_irqs(group, set, &[]), Err(Errno::ENOTTY));
    let container = model.open(Node::Container).unwrap();
    calls::group_set_container(&**model, group, container).unwrap();
    calls::set_iommu(&**model, container, 7).unwrap();
    let device = model.open(Node::Device { group, name: "0001:00:00.0" }).unwrap();
    let refused = |result: Result<(), calls::CallError>| result.unwrap_err().failure;
    // Nothing is enabled yet; what does not exist cannot be enabled.
    assert_eq!(refused(calls::unmask_irq(&**model, device, 0)), Failure::Errno(Errno::EINVAL));
    assert_eq!(refused(calls::disable_irqs(&**model, device, 0)), Failure::Errno(Errno::EINVAL));
    for index in [2, 3, 5] {
        assert_eq!(refused(calls::disable_irqs(&**model, device, index)), Failure::Errno(Errno::EINVAL), "{index}");
    }
    let mask = IrqSet { flags: IRQ_SET_DATA_NONE | IRQ_SET_ACTION_MASK, index: 1, count: 1, ..set };
    assert_eq!(model.set_irqs(device, mask, &[]), Err(Errno::ENOTTY), "MSI is not masked");
    let both = IrqSet { flags: 3 | IRQ_SET_ACTION_MASK, count: 1, ..set };
    assert_eq!(model.set_irqs(device, both, &[]), Err(Errno::EINVAL));
    let short = IrqSet { flags: 36, count: 1, ..set };
    assert_eq!(model.set_irqs(device, short, &[]), Err(Errno::EINVAL), "no data");
    assert_eq!(model.set_irqs(device, short, &[None]), Ok(0));
    assert_eq!(refused(calls::enable_irqs(&**model, device, 1, &[])), Failure::Errno(Errno::EINVAL), "INTx is enabled");
    assert_eq!(calls::disable_irqs(&**model, device, 0), Ok(()));
}

/// The caller's own eventfds, as a VMM gives them to KVM.
#[test]
fn interrupts_go_to_eventfds_of_the_caller() {
    let fixture = Fixture::new("powernv9");
    let eventfd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let fds = [eventfd.as_fd()];
    let fired = || eventfd.read().is_ok();
    let refused = fixture.device.forward_interrupts(InterruptKind::Msi, &[fds[0], fds[0]]).unwrap_err();
    assert!(matches!(refused, DeviceError::Vectors { requested: 2, there: 1, .. }), "{refused}");
    let refused = fixture.device.forward_interrupts(InterruptKind::Msi, &[]).unwrap_err();
    assert!(matches!(refused, DeviceError::Vectors { requested: 0, .. }), "{refused}");

    let intx = fixture.device.forward_interrupts(InterruptKind::Intx, &fds).unwrap();
    assert_eq!((intx.kind(), intx.count()), (InterruptKind::Intx, 1));
    fixture.bar.write(RAISE, 1u32).unwrap();
    assert!(fired() && !fired());
    intx.rearm().unwrap();
    assert!(fired(), "the device still asserts it");
    let refused = fixture.device.enable_interrupts(InterruptKind::Msi, 1).unwrap_err();
    assert!(matches!(refused, DeviceError::OtherKind { .. }), "{refused}");
    fixture.bar.write(ACKNOWLEDGE, 1u32).unwrap();
    drop(intx);
    fixture.bar.write(RAISE, 1u32).unwrap();
    assert!(!fired(), "disabled");

    let msi = fixture.device.forward_interrupts(InterruptKind::Msi, &fds).unwrap();
    fixture.device.start_dma().unwrap();
    fixture.bar.write(RAISE, 2u32).unwrap();
    assert!(fired());
    let Fixture { bar: _bar, device, .. } = fixture;
    drop(device);
    assert!(matches!(msi.rearm(), Err(DeviceError::Disabled { .. })));
}

/// A model's registers cannot be mapped, and its files are not real.
#[test]
fn a_model_has_nothing_to_map() {
    let fixture = Fixture::new("powernv9");
    assert_eq!(fixture.device.bar_areas(0), Ok(vec![]));
    assert!(fixture.device.bar_areas(6).is_err() && fixture.device.file().is_none());
    let area = RegionArea { offset: 0, len: 0x1000 };
    let refused = fixture.device.map_bar_area(0, area).unwrap_err();
    assert!(matches!(refused, DeviceError::Region { errno: Errno::EINVAL, .. }), "{refused}");
}
