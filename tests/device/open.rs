//! Opening devices, and what stays open.

use crate::{ADDRESS, Fixture, model, space};
use spapr_iommu::Group;
use spapr_iommu::device::{AccessError, Device, DeviceError, Endian};
use spapr_iommu::host::Errno;
use spapr_iommu::space::AttachError;
use spapr_iommu::uapi::vfio::{PCI_BAR0_REGION_INDEX, PCI_CONFIG_REGION_INDEX};

#[test]
fn an_open_device_answers_and_is_off_the_bus() {
    for preset in ["powernv8", "powernv9-4k", "pseries"] {
        let fixture = Fixture::new(preset);
        let device = &fixture.device;
        assert_eq!(
            (device.address(), device.group(), device.id()),
            (ADDRESS.parse().unwrap(), Group(0), (0x1234, 0x11e8))
        );
        assert_eq!(fixture.bar.read::<u32>(0), Ok(0x0100_00ed));
        assert_eq!((fixture.bar.size(), fixture.bar.endian()), (1 << 20, Endian::Big));
        assert_eq!(device.config().read::<u16>(4), Ok(2), "{preset}: memory decode only");
        assert!(!device.is_dma_on());
        assert!(!fixture.moves(), "{preset}");
    }
}

#[test]
fn a_device_has_one_driver_at_a_time() {
    let fixture = Fixture::new("powernv9");
    fixture.device.start_dma().unwrap();
    let refused = Device::open(&fixture.space, Group(0), ADDRESS.parse().unwrap()).unwrap_err();
    assert!(matches!(refused, DeviceError::OpenAlready { .. }), "{refused}");
    assert!(fixture.moves(), "and the first notices nothing");
    let Fixture { bar, device, space, .. } = fixture;
    drop(device);
    Device::open(&space, Group(0), ADDRESS.parse().unwrap()).unwrap();
    assert_eq!(bar.read::<u32>(0), Ok(0x0100_00ed));
}

#[test]
fn what_is_not_there_is_not_opened() {
    let (_model, space) = space(model("pseries"));
    let open = |group, address| Device::open(&space, group, address).unwrap_err();
    assert_eq!(
        open(Group(1), "0001:00:00.0".parse().unwrap()),
        DeviceError::Open(AttachError::NotAttached { group: Group(1) })
    );
    let missing = open(Group(0), "0000:00:09.0".parse().unwrap());
    assert!(matches!(missing, DeviceError::Open(AttachError::Open { errno: Errno::ENODEV, .. })), "{missing}");
    // A device whose opening failed is not open.
    assert_eq!(open(Group(0), "0000:00:09.0".parse().unwrap()), missing);
    let device = Device::open(&space, Group(0), ADDRESS.parse().unwrap()).unwrap();
    for index in [1, 6, u32::MAX] {
        let refused = device.bar(index, Endian::Little).unwrap_err();
        assert_eq!(refused, DeviceError::NoBar { device: ADDRESS.into(), index, present: vec![0] });
    }
}

#[test]
fn a_device_that_is_gone_is_not_opened() {
    let (model, space) = space(model("pseries"));
    model.unplug(Group(0));
    let refused = Device::open(&space, Group(0), ADDRESS.parse().unwrap()).unwrap_err();
    assert_eq!(refused, DeviceError::Access(AccessError::Gone { device: ADDRESS.into() }));
}

#[test]
fn the_group_stays_while_a_bar_or_an_interrupt_is_held() {
    let Fixture { bar, device, lease, space, model, .. } = Fixture::new("powernv9");
    let interrupt = device.enable_interrupts(spapr_iommu::device::InterruptKind::Msi, 1).unwrap();
    drop(device);
    for held in [2, 1] {
        let refused = space.detach(Group(0)).unwrap_err();
        assert!(matches!(refused, AttachError::DevicesOpen { group: Group(0), count: 1.. }), "{held}: {refused}");
        if held == 2 {
            assert_eq!(bar.read::<u32>(0), Ok(0x0100_00ed));
        }
    }
    drop(bar);
    assert!(space.detach(Group(0)).is_err());
    drop(interrupt);
    space.detach(Group(0)).unwrap();
    drop((lease, space));
    model.exit();
    assert!(model.leaks().is_empty());
}

#[test]
fn the_low_level_handle_still_works_beside_it() {
    let fixture = Fixture::new("powernv9");
    let low = fixture.space.device(Group(0), ADDRESS).unwrap();
    let config = low.region(PCI_CONFIG_REGION_INDEX).unwrap();
    let mut id = [0; 4];
    config.read(0, &mut id).unwrap();
    assert_eq!(id, [0x34, 0x12, 0xe8, 0x11]);
}

/// Every handle of a device except the driver's can only read its configuration space.
#[test]
fn no_one_changes_the_command_register_behind_the_drivers_back() {
    let fixture = Fixture::new("powernv9");
    fixture.device.start_dma().unwrap();
    let low = fixture.space.device(Group(0), ADDRESS).unwrap();
    let config = low.region(PCI_CONFIG_REGION_INDEX).unwrap();
    for bytes in [&[0, 0][..], &[2], &[6, 0]] {
        assert_eq!(config.write(4, bytes), Err(Errno::EBUSY));
    }
    assert_eq!(low.reset().map_err(|error| error.errno()), Err(Some(Errno::EBUSY)));
    assert_eq!(fixture.bar.read::<u32>(0), Ok(0x0100_00ed), "memory decode is on");
    assert!(fixture.moves(), "and so is the bus master bit");
    // Without a driver, the handle controls the device, and a BAR that does not answer gives an
    // error.
    let Fixture { bar, device, .. } = fixture;
    drop(device);
    config.write(4, &[0, 0]).unwrap();
    let region = low.region(PCI_BAR0_REGION_INDEX).unwrap();
    assert_eq!(region.read(0, &mut [0; 4]), Err(Errno::EIO));
    assert!(matches!(bar.read::<u32>(0), Err(AccessError::Failed { errno: Errno::EIO, .. })));
    low.reset().unwrap();
}

/// `Debug` of a device leaves out the host below it.
#[test]
fn debug_output_is_a_line() {
    let fixture = Fixture::new("powernv9");
    let interrupts = fixture.device.enable_interrupts(spapr_iommu::device::InterruptKind::Msi, 1).unwrap();
    let (device, low) = (&fixture.device, fixture.space.device(Group(0), ADDRESS).unwrap());
    assert_eq!(format!("{device:?}"), "Device(0000:00:00.0 1234:11e8 of group 0, DMA off)");
    let texts: [&dyn core::fmt::Debug; 6] =
        [&fixture.bar, device.config(), &interrupts[0], &device.eeh(), &low, &fixture.model];
    for text in texts.map(|value| format!("{value:?}")) {
        assert!(text.len() < 1000, "{} bytes: {text}", text.len());
    }
}
