//! Registers, configuration space, bus mastering and reset.

use crate::{ADDRESS, AT, Fixture, copy};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr};
use spapr_iommu::device::{AccessError, DeviceError, Endian};
use spapr_iommu::host::Memory;
use spapr_iommu::uapi::vfio::PCI_CONFIG_REGION_INDEX;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
    // The other bits belong to the driver.
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
        fixture.model.unplug(Group(0));
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

#[test]
fn dma_runs_between_start_and_stop() {
    for preset in ["powernv9", "pseries"] {
        let fixture = Fixture::new(preset);
        let state = fixture.device.dma_state();
        for _ in 0..2 {
            fixture.device.start_dma().unwrap();
            fixture.device.start_dma().unwrap();
            assert!(fixture.device.is_dma_on() && state.is_on() && fixture.moves(), "{preset}");
            fixture.device.stop_dma().unwrap();
            fixture.device.stop_dma().unwrap();
            assert!(!fixture.device.is_dma_on() && !state.is_on() && !fixture.moves(), "{preset}");
        }
    }
}

#[test]
fn a_device_that_is_dropped_is_off_the_bus_though_its_bars_are_held() {
    let Fixture { bar, device, model, memory, lease, .. } = Fixture::new("powernv9");
    let state = device.dma_state();
    device.start_dma().unwrap();
    model.write(memory.start(), b"secret").unwrap();
    drop(device);
    assert!(!state.is_on());
    copy(&bar, 0, 0x100, 6);
    let mut there = [0; 0x106];
    model.read(memory.start(), &mut there).unwrap();
    assert_eq!(there[0x100..], [0; 6]);
    drop(lease);
}

#[test]
fn a_panic_takes_the_device_off_the_bus() {
    let fixture = Fixture::new("powernv9");
    let Fixture { bar, device, model, memory, space, .. } = &fixture;
    device.start_dma().unwrap();
    assert!(fixture.moves());
    let (low, model, start) =
        (space.device(Group(0), &device.address().to_string()).unwrap(), model.clone(), memory.start());
    let bar = device.bar(0, bar.endian()).unwrap();
    let result = catch_unwind(AssertUnwindSafe(move || {
        let _bench = fixture;
        panic!("the driver has a bug");
    }));
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"the driver has a bug"), "another panic");
    // Another handle keeps the device open, which by itself leaves the bus master bit unchanged.
    let mut command = [0; 2];
    let config = low.region(PCI_CONFIG_REGION_INDEX).unwrap();
    config.read(4, &mut command).unwrap();
    assert_eq!(command, [2, 0]);
    model.write(start, &[7; 8]).unwrap();
    copy(&bar, 0, 0x200, 8);
    let mut there = [0; 8];
    model.read(UserAddr(start.0 + 0x200), &mut there).unwrap();
    assert_eq!(there, [0; 8]);
    drop((bar, config, low));
    model.exit();
    assert!(model.violations().is_empty(), "{:?}", model.violations());
}

#[test]
fn a_reset_forgets_registers_and_leaves_the_device_off_the_bus() {
    let fixture = Fixture::new("powernv9");
    fixture.device.start_dma().unwrap();
    fixture.bar.write(0x80, 7u64).unwrap();
    fixture.device.reset().unwrap();
    assert_eq!(fixture.bar.read::<u64>(0x80), Ok(0));
    assert!(!fixture.device.is_dma_on() && !fixture.moves());
    fixture.device.start_dma().unwrap();
    assert!(fixture.moves());
}

#[test]
fn where_the_kernel_cannot_reset_it_says_so() {
    let fixture = Fixture::new("pseries");
    fixture.device.start_dma().unwrap();
    let refused = fixture.device.reset().unwrap_err();
    assert!(matches!(refused, DeviceError::NoReset { .. }), "{refused}");
    assert!(fixture.device.is_dma_on() && fixture.moves(), "and nothing has changed");
}
