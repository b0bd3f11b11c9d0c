//! Opening, and what stays open.

use crate::fixture::{ADDRESS, Bench, model, space};
use spapr_iommu::device::{AccessError, Device, DeviceError, Endian};
use spapr_iommu::host::Errno;
use spapr_iommu::space::AttachError;
use spapr_iommu::uapi::vfio::PCI_CONFIG_REGION_INDEX;

#[test]
fn an_open_device_answers_and_is_off_the_bus() {
    for preset in ["powernv8", "powernv9-4k", "pseries"] {
        let bench = Bench::new(preset);
        let device = &bench.device;
        assert_eq!((device.address(), device.group(), device.id()), (ADDRESS, 0, (0x1234, 0x11e8)));
        assert_eq!(bench.bar.read::<u32>(0), Ok(0x0100_00ed));
        assert_eq!((bench.bar.size(), bench.bar.endian()), (1 << 20, Endian::Big));
        assert_eq!(device.config().read::<u16>(4), Ok(2), "{preset}: memory decode only");
        assert!(!device.is_dma_on());
        assert!(!bench.moves(), "{preset}");
    }
}

#[test]
fn a_device_has_one_driver_at_a_time() {
    let bench = Bench::new("powernv9");
    bench.device.start_dma().unwrap();
    let refused = Device::open(&bench.space, 0, ADDRESS).unwrap_err();
    assert!(matches!(refused, DeviceError::OpenAlready { .. }), "{refused}");
    assert!(bench.moves(), "and the first notices nothing");
    let Bench { bar, device, space, .. } = bench;
    drop(device);
    Device::open(&space, 0, ADDRESS).unwrap();
    assert_eq!(bar.read::<u32>(0), Ok(0x0100_00ed));
}

#[test]
fn what_is_not_there_is_not_opened() {
    let (_model, space) = space(model("pseries"));
    let open = |group, address| Device::open(&space, group, address).unwrap_err();
    assert_eq!(open(1, "0001:00:00.0"), DeviceError::Open(AttachError::NotAttached { group: 1 }));
    let missing = open(0, "0000:00:09.0");
    assert!(matches!(missing, DeviceError::Open(AttachError::Open { errno: Errno::ENODEV, .. })), "{missing}");
    // An address that failed is no device that is open.
    assert_eq!(open(0, "0000:00:09.0"), missing);
    let device = Device::open(&space, 0, ADDRESS).unwrap();
    for index in [1, 6, u32::MAX] {
        let refused = device.bar(index, Endian::Little).unwrap_err();
        assert_eq!(refused, DeviceError::NoBar { device: ADDRESS.into(), index, present: vec![0] });
    }
}

#[test]
fn a_device_that_is_gone_is_not_opened() {
    let (model, space) = space(model("pseries"));
    model.unplug(0);
    let refused = Device::open(&space, 0, ADDRESS).unwrap_err();
    assert_eq!(refused, DeviceError::Access(AccessError::Gone { device: ADDRESS.into() }));
}

#[test]
fn the_group_stays_while_a_bar_or_an_interrupt_is_held() {
    let Bench { bar, device, lease, space, model, .. } = Bench::new("powernv9");
    let interrupt = device.enable_interrupts(spapr_iommu::device::InterruptKind::Msi, 1).unwrap();
    drop(device);
    for held in [2, 1] {
        let refused = space.detach(0).unwrap_err();
        assert!(matches!(refused, AttachError::DevicesOpen { group: 0, count: 1.. }), "{held}: {refused}");
        if held == 2 {
            assert_eq!(bar.read::<u32>(0), Ok(0x0100_00ed));
        }
    }
    drop(bar);
    assert!(space.detach(0).is_err());
    drop(interrupt);
    space.detach(0).unwrap();
    drop((lease, space));
    model.exit();
    assert!(model.leaks().is_empty());
}

#[test]
fn the_low_level_handle_still_works_beside_it() {
    let bench = Bench::new("powernv9");
    let low = bench.space.device(0, ADDRESS).unwrap();
    let config = low.region(PCI_CONFIG_REGION_INDEX).unwrap();
    let mut id = [0; 4];
    config.read(0, &mut id).unwrap();
    assert_eq!(id, [0x34, 0x12, 0xe8, 0x11]);
}
