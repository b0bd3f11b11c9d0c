//! Registers and configuration space.

use crate::fixture::{ADDRESS, AT, Fixture};
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::device::{AccessError, Endian};

#[test]
fn an_access_is_aligned_and_within() {
    let fixture = Fixture::new("powernv9");
    let (bar, size) = (&fixture.bar, fixture.bar.size());
    let device = || ADDRESS.into();
    for offset in [1, 2, 3, size - 2, size + 1, u64::MAX] {
        let misaligned = AccessError::Misaligned { device: device(), region: "BAR 0", offset, width: 4 };
        assert_eq!(bar.read::<u32>(offset), Err(misaligned.clone()));
        assert_eq!(bar.write(offset, 0u32), Err(misaligned));
    }
    for offset in [size, u64::MAX - 7] {
        let outside = AccessError::Outside { device: device(), region: "BAR 0", offset, width: 8, size };
        assert_eq!(bar.read::<u64>(offset), Err(outside.clone()));
        assert_eq!(bar.write(offset, 0u64), Err(outside));
    }
    assert_eq!(bar.read::<u64>(size - 8), Ok(u64::MAX), "up to the last byte");
    assert_eq!(fixture.device.config().read::<u8>(255), Ok(0));
    let outside = fixture.device.config().read::<u8>(256).unwrap_err();
    assert!(outside.to_string().contains("configuration space: 1 bytes at 0x100 leave its 0x100"), "{outside}");
}

#[test]
fn the_order_of_bytes_is_the_drivers_to_say() {
    let fixture = Fixture::new("powernv9");
    let little = fixture.device.bar(0, Endian::Little).unwrap();
    assert_eq!(little.read::<u32>(0), Ok(0xed00_0001));
    fixture.bar.write(0x80, 0x0102_0304_0506_0708u64).unwrap();
    assert_eq!(little.read::<u64>(0x80), Ok(0x0807_0605_0403_0201));
    little.write(0x04, 0x0000_00ffu32).unwrap();
    assert_eq!(fixture.bar.read::<u32>(4), Ok(0x00ff_ffff));
}

#[test]
fn all_ones_are_a_value_of_a_device_that_answers() {
    for preset in ["powernv9", "pseries"] {
        let fixture = Fixture::new(preset);
        assert_eq!(fixture.bar.read::<u32>(0x100), Ok(u32::MAX), "{preset}: no register is there");
        assert_eq!(fixture.bar.read::<u8>(0), Ok(u8::MAX), "edu knows no bytes");
    }
}

#[test]
fn registers_with_a_method_of_their_own_are_not_written() {
    let fixture = Fixture::new("powernv9");
    let config = fixture.device.config();
    assert_eq!((config.size(), config.capability(5), config.capability(0x11)), (256, Some(0x40), None));
    let refused = |result: Result<(), AccessError>, method: &str| match result.unwrap_err() {
        AccessError::Guarded { method: there, .. } => assert!(there.contains(method), "{there}"),
        other => panic!("{other}"),
    };
    refused(config.write(4, 0u16), "start_dma");
    refused(config.write(4, 0u32), "start_dma");
    refused(config.write(5, 0u8), "start_dma");
    refused(config.write(0, 0u64), "start_dma");
    refused(config.write(0x10, 0u32), "Device::bar");
    refused(config.write(0x24, 0u32), "Device::bar");
    refused(config.write(0x30, 0u32), "rom");
    refused(config.write(0x42, 1u16), "enable_interrupts");
    refused(config.write(0x40, 0u64), "enable_interrupts");
    // Others are the driver's own.
    for (offset, value) in [(6, 0xffffu16), (0x0c, 0), (0x44, 0)] {
        config.write(offset, value).unwrap();
    }
    assert_eq!(fixture.bar.read::<u32>(0), Ok(0x0100_00ed));
}

#[test]
fn a_device_that_is_gone_is_said_to_be() {
    for preset in ["powernv9", "pseries"] {
        let fixture = Fixture::new(preset);
        fixture.device.start_dma().unwrap();
        fixture.model.unplug(0);
        let gone = AccessError::Gone { device: ADDRESS.into() };
        assert_eq!(fixture.bar.read::<u32>(0), Err(gone.clone()));
        assert_eq!(fixture.bar.read::<u64>(0x98), Err(gone.clone()), "{preset}");
        fixture.bar.write(0x98, 1u64).unwrap();
        assert_eq!(fixture.device.id(), (0x1234, 0x11e8));
        fixture.device.stop_dma().unwrap();
        let refused = fixture.device.start_dma().unwrap_err();
        assert_eq!(refused, gone.into());
        assert!(!fixture.device.is_dma_on());
        let Fixture { bar, device, lease, space, model, memory, .. } = fixture;
        drop((bar, device));
        space.unmap(IovaRange::new(Iova(AT), memory.len()).unwrap()).unwrap();
        lease.release().unwrap();
        drop(space);
        model.exit();
        assert!(model.leaks().is_empty() && model.violations().is_empty());
    }
}
