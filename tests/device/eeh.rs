//! Freezes and recovery.

use crate::{ADDRESS, Fixture, model, space};
use spapr_iommu::Group;
use spapr_iommu::addr::Iova;
use spapr_iommu::device::eeh::{EehError, Injection, PeError, PeState};
use spapr_iommu::device::{AccessError, Device, DeviceError, Endian, InterruptKind};
use spapr_iommu::host::Errno;
use spapr_iommu::model::{DmaDirection, Violation};
use spapr_iommu::permission::Permission;
use spapr_iommu::uapi::eeh::state;
use std::time::Duration;

fn frozen(state: PeState) -> AccessError {
    AccessError::Frozen { device: ADDRESS.into(), state }
}

#[test]
fn a_frozen_device_is_seen_recovered_and_works_again() {
    let fixture = Fixture::new("powernv9");
    let eeh = fixture.device.eeh();
    let msi = fixture.device.enable_interrupts(InterruptKind::Msi, 1).unwrap().remove(0);
    fixture.device.start_dma().unwrap();
    assert!(fixture.moves());
    fixture.model.set_eeh_state(Group(0), state::STOPPED);
    assert_eq!(fixture.bar.read::<u32>(0), Err(frozen(PeState::Stopped)));
    assert_eq!(eeh.state(), Ok(PeState::Stopped));
    assert_eq!(fixture.device.config().read::<u16>(0), Ok(0x1234), "for which the kernel answers");

    eeh.recover().unwrap();
    assert_eq!(eeh.state(), Ok(PeState::Normal));
    assert_eq!(fixture.bar.read::<u32>(0), Ok(0x0100_00ed));
    assert!(!fixture.device.is_dma_on() && !fixture.moves(), "off the bus until it is set up");
    assert!(matches!(msi.rearm(), Err(DeviceError::Disabled { .. })));
    let msi = fixture.device.enable_interrupts(InterruptKind::Msi, 1).unwrap().remove(0);
    fixture.device.start_dma().unwrap();
    // Still mapped.
    assert!(fixture.moves());
    fixture.bar.write(0x60, 1u32).unwrap();
    assert!(msi.wait(Some(Duration::ZERO)).unwrap());
}

#[test]
fn dma_that_is_stopped_while_frozen_does_not_come_back() {
    let fixture = Fixture::new("powernv9");
    fixture.device.start_dma().unwrap();
    fixture.model.set_eeh_state(Group(0), state::STOPPED);
    let refused = fixture.device.start_dma().unwrap_err();
    assert_eq!(refused, frozen(PeState::Stopped).into());
    fixture.device.stop_dma().unwrap();
    assert!(!fixture.device.is_dma_on());
    fixture.device.eeh().unfreeze_io().unwrap();
    assert_eq!(fixture.device.eeh().state(), Ok(PeState::StoppedDma));
    assert_eq!(fixture.bar.read::<u32>(0), Ok(0x0100_00ed), "for a look at the device");
    fixture.device.eeh().unfreeze_dma().unwrap();
    assert!(!fixture.moves());
    fixture.device.start_dma().unwrap();
    assert!(fixture.moves());
}

#[test]
fn a_pe_that_stays_unavailable_is_given_up() {
    let fixture = Fixture::new("powernv8");
    fixture.device.start_dma().unwrap();
    fixture.model.set_eeh_state(Group(0), state::UNAVAIL);
    let refused = fixture.device.eeh().recover_within(Duration::from_millis(3)).unwrap_err();
    assert!(matches!(refused, EehError::Unavailable { group: Group(0), waited } if waited >= Duration::from_millis(3)));
    assert!(!fixture.device.is_dma_on());
    fixture.model.set_eeh_state(Group(0), 3);
    assert_eq!(fixture.device.eeh().state(), Err(PeError::UnknownState { group: Group(0), state: 3 }.into()));
}

#[test]
fn a_device_that_is_gone_is_not_recovered() {
    let fixture = Fixture::new("powernv9");
    fixture.model.set_eeh_state(Group(0), state::STOPPED);
    fixture.model.unplug(Group(0));
    let refused = fixture.device.eeh().recover().unwrap_err();
    assert_eq!(refused, EehError::Access(AccessError::Gone { device: ADDRESS.into() }));
}

#[test]
fn emulated_devices_of_pseries_have_no_pe() {
    let fixture = Fixture::new("pseries");
    let msi = fixture.device.enable_interrupts(InterruptKind::Msi, 1).unwrap();
    fixture.device.start_dma().unwrap();
    let eeh = fixture.device.eeh();
    let none = EehError::from(PeError::NoPe { group: Group(0) });
    assert_eq!(eeh.state(), Err(none.clone()));
    assert_eq!(eeh.unfreeze_io(), Err(none.clone()));
    assert_eq!(eeh.unfreeze_dma(), Err(none.clone()));
    assert_eq!(eeh.inject(Injection::default()), Err(none.clone()));
    assert_eq!(eeh.recover(), Err(none));
    assert!(fixture.device.is_dma_on() && msi[0].rearm().is_ok(), "nothing was turned off");
}

#[test]
fn a_container_of_two_groups_is_left_alone() {
    let (model, space) = space(model("powernv9"));
    let device = Device::open(&space, Group(0), ADDRESS.parse().unwrap()).unwrap();
    space.attach_beside(Group(1), Group(0)).unwrap();
    let shared = EehError::from(PeError::Shared { group: Group(0), others: vec![Group(1)] });
    assert_eq!(device.eeh().state(), Err(shared.clone()));
    assert_eq!(device.eeh().recover(), Err(shared));
    // A read still reports that the device does not answer, and why.
    model.set_eeh_state(Group(0), state::STOPPED);
    let bar = device.bar(0, Endian::Big).unwrap();
    assert_eq!(bar.read::<u32>(0), Err(frozen(PeState::Stopped)));
    model.set_eeh_state(Group(0), state::NORMAL);
    model.set_eeh_state(Group(1), state::STOPPED);
    assert_eq!(bar.read::<u32>(0x100), Ok(u32::MAX), "the other group's PE is frozen");
    model.set_eeh_state(Group(1), state::NORMAL);
    space.detach(Group(1)).unwrap();
    assert_eq!(device.eeh().state(), Ok(PeState::Normal));
}

#[test]
fn the_platform_says_what_it_injects() {
    for (preset, loads) in [("powernv8", Ok(())), ("powernv9", Err(Errno::EIO))] {
        let fixture = Fixture::new(preset);
        let inject = |function| match fixture.device.eeh().inject(Injection { function, ..Default::default() }) {
            Err(EehError::NotInjected { group: Group(0), errno }) => Err(errno),
            other => other.map_err(|error| panic!("{error}")),
        };
        assert_eq!((inject(4), inject(0), inject(20)), (Ok(()), loads, Err(Errno::EINVAL)), "{preset}");
    }
}

/// As on hardware, unlike QEMU's PHBs.
#[test]
fn dma_that_no_tce_allows_freezes_the_pe_and_is_recorded() {
    let bad = |direction| Violation::DeviceDma { device: ADDRESS.into(), at: Iova(0x3_0000), direction };
    for (preset, freezes) in [("powernv9", true), ("pseries", false)] {
        for (from, to, direction) in [(0x1_f800, 0, DmaDirection::Read), (0, 0x1_f800, DmaDirection::Write)] {
            let fixture = Fixture::new(preset);
            fixture.device.start_dma().unwrap();
            fixture.put(0x1_f800, b"the last bytes");
            // Half of it lies after what is mapped.
            fixture.copy(from, to, 0x1000);
            assert_eq!(fixture.model.violations(), [bad(direction)], "{preset}");
            let read = fixture.bar.read::<u32>(0);
            if freezes {
                assert_eq!(read, Err(frozen(PeState::Stopped)));
                fixture.device.eeh().recover().unwrap();
                fixture.device.start_dma().unwrap();
            } else {
                assert_eq!(read, Ok(0x0100_00ed));
            }
            assert!(fixture.moves() && fixture.model.violations().len() == 1, "{preset}");
        }
    }
}

#[test]
fn a_write_where_only_reading_is_allowed_is_recorded_and_an_emulated_phb_goes_on() {
    let fixture = Fixture::with(model("powernv9").without_freezing(), Permission::Read);
    fixture.device.start_dma().unwrap();
    fixture.copy(0, 0x100, 8);
    let at = Iova(crate::AT + 0x100);
    let bad = Violation::DeviceDma { device: ADDRESS.into(), at, direction: DmaDirection::Write };
    assert_eq!(fixture.model.violations(), std::slice::from_ref(&bad));
    assert_eq!(bad.to_string(), format!("device {ADDRESS} tried to write at {at}, which no TCE allows"));
    assert_eq!((fixture.bar.read::<u32>(0), fixture.get(0x100, 8)), (Ok(0x0100_00ed), vec![0; 8]));
}

/// The kernel unfreezes a PE for its next owner.
#[test]
fn a_frozen_device_that_is_opened_again_works() {
    let fixture = Fixture::new("powernv9");
    fixture.model.set_eeh_state(Group(0), state::STOPPED);
    assert_eq!(fixture.bar.read::<u32>(0), Err(frozen(PeState::Stopped)));
    let Fixture { bar, device, space, .. } = fixture;
    drop((bar, device));
    let device = Device::open(&space, Group(0), ADDRESS.parse().unwrap()).unwrap();
    assert_eq!(device.bar(0, Endian::Big).unwrap().read::<u32>(0), Ok(0x0100_00ed));
}
