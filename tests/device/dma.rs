//! Bus mastering and reset.

use crate::fixture::{Fixture, copy};
use spapr_iommu::addr::UserAddr;
use spapr_iommu::device::DeviceError;
use spapr_iommu::host::Memory;
use spapr_iommu::uapi::vfio::PCI_CONFIG_REGION_INDEX;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
    let (low, model, start) = (space.device(0, device.address()).unwrap(), model.clone(), memory.start());
    let bar = device.bar(0, bar.endian()).unwrap();
    let result = catch_unwind(AssertUnwindSafe(move || {
        let _bench = fixture;
        panic!("the driver has a bug");
    }));
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"the driver has a bug"), "another panic");
    // Another handle kept the device open, which alone leaves the bus master bit as it is.
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
