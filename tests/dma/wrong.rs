//! Wrong use: the error is named, and nothing is left behind.

use crate::fixture::{FIRST, Ground, PRESETS, RW, SECOND, bits};
use spapr_iommu::dma::{Dma, DmaConfig, DmaError, DmaMask, OpenError, ReleaseRefusal};
use spapr_iommu::host::{Host, MemlockError, Obstacle};
use spapr_iommu::registry::RegisterError;
use spapr_iommu::space::{AttachError, WindowError};
use spapr_iommu::window::{Refusal, WindowRequest};

#[test]
fn a_device_that_is_not_there_is_named_beside_those_that_are() {
    let ground = Ground::new("powernv9-64k");
    let refused = ground.dma.open("0000:00:07.0", DmaMask::ALL).unwrap_err();
    let OpenError::NoDevice { address, devices } = refused else { panic!("{refused}") };
    assert_eq!((address.as_str(), devices.len()), ("0000:00:07.0", 2));
    ground.ends_clean();
}

#[test]
fn a_group_with_a_host_driver_is_refused_by_its_name() {
    let ground = Ground::with("powernv9-64k", DmaConfig::default(), |model| model.with_host_driver(0, "nvme"));
    let refused = ground.dma.open(FIRST, DmaMask::ALL).unwrap_err();
    let OpenError::Attach(AttachError::Obstacle(Obstacle::NotViable { driver, .. })) = &refused else {
        panic!("{refused}")
    };
    assert_eq!(driver, "nvme");
    ground.ends_clean();
}

#[test]
fn memory_without_a_device_is_refused() {
    let ground = Ground::new("powernv9-64k");
    assert_eq!(ground.dma.buffer::<u8>(4096, RW).err(), Some(DmaError::NoDevice));
    let memory = ground.dma.memory(4096).unwrap();
    assert_eq!(memory.map(0, 4096, RW).err(), Some(DmaError::NoDevice));
    drop(memory);
    ground.ends_clean();
}

#[test]
fn a_mask_that_reaches_no_window_is_refused() {
    for (preset, mask) in [("powernv9-64k", 12), ("pseries-4k", 8)] {
        let ground = Ground::new(preset);
        let refused = ground.dma.open(FIRST, bits(mask)).unwrap_err();
        let OpenError::Dma(DmaError::MaskTooSmall { mask: told, lowest, .. }) = &refused else { panic!("{refused}") };
        assert_eq!((*told, lowest.0), (bits(mask), 4096));
        ground.ends_clean();
    }
    let config = DmaConfig { default_window: false, ..DmaConfig::default() };
    let ground = Ground::with("pseries-64k", config, |model| model.with_free_huge_pages(0));
    let refused = ground.dma.open(FIRST, bits(32)).unwrap_err();
    assert!(matches!(refused, OpenError::Dma(DmaError::Window(_))), "{refused}");
    ground.ends_clean();
}

#[test]
fn a_process_that_may_lock_no_more_is_told_how_much_is_missing() {
    let small = DmaConfig { capacity: 32 << 20, default_window: false, ..DmaConfig::default() };
    let ground = Ground::with("pseries-64k", small, |model| model.with_memlock(Some(1 << 20)).with_free_huge_pages(0));
    let device = ground.dma.open(FIRST, DmaMask::ALL).unwrap();
    let refused = ground.dma.buffer::<u8>(4 << 20, RW).unwrap_err();
    let missing = match &refused {
        DmaError::Register(RegisterError::Memlock(MemlockError::OverLimit { missing, .. })) => *missing,
        _ => panic!("{refused}"),
    };
    assert!(missing > 3 << 20);
    ground.dma.buffer::<u8>(64 << 10, RW).unwrap();
    drop(device);
    ground.ends_clean();
}

#[test]
fn a_buffer_is_not_released_while_a_device_runs_and_dropped_all_the_same() {
    let ground = Ground::new("powernv9-64k");
    let device = ground.dma.open(FIRST, DmaMask::ALL).unwrap();
    let buffer = ground.dma.buffer::<u8>(100_000, RW).unwrap();
    let other = ground.dma.buffer::<u8>(100_000, RW).unwrap();
    device.start_dma().unwrap();
    let refused = buffer.release().unwrap_err();
    let running = ReleaseRefusal::DeviceRuns { iova: refused.held.iova_range(), device: FIRST.into() };
    assert_eq!(refused.why, running);
    let at = other.iova();
    drop(other);
    assert_eq!(ground.device_reads(at, 4), [0; 4], "it is out of reach");
    device.stop_dma().unwrap();
    refused.held.release().unwrap();
    drop(device);
    ground.ends_clean();
}

/// A group has one opener: left attached, nobody else could use it.
#[test]
fn a_device_that_is_not_opened_leaves_its_group_to_others() {
    for preset in PRESETS {
        let ground = Ground::new(preset);
        let other = Dma::with_registry(ground.dma.space().registry(), DmaConfig::default());
        ground.dma.open(FIRST, bits(8)).unwrap_err();
        assert_eq!(ground.dma.space().status().groups, [], "{preset}");
        let device = other.open(FIRST, DmaMask::ALL).unwrap();
        let beside = ground.dma.open(SECOND, DmaMask::ALL).unwrap();
        // Of a space that has a group, it is taken back likewise.
        drop((device, other));
        let buffer = ground.dma.buffer::<u8>(100_000, RW).unwrap();
        ground.dma.open(FIRST, bits(8)).unwrap_err();
        assert_eq!(ground.dma.space().status().groups.len(), 1, "{preset}");
        assert!(ground.dma.space().translate(buffer.iova()).is_some());
        let other = Dma::with_registry(ground.dma.space().registry(), DmaConfig::default());
        drop(other.open(FIRST, DmaMask::ALL).unwrap());
        // A device of an open group does not take the group along.
        ground.dma.open(SECOND, DmaMask::ALL).unwrap_err();
        assert_eq!(ground.dma.space().status().groups.len(), 1, "{preset}");
        drop((buffer, beside, other));
        ground.ends_clean();
    }
}

#[test]
fn a_space_starts_anew_when_its_last_group_left() {
    for preset in PRESETS {
        let ground = Ground::new(preset);
        let device = ground.dma.open(FIRST, DmaMask::ALL).unwrap();
        let (large, small) = (ground.dma.buffer::<u8>(100_000, RW).unwrap(), ground.dma.buffer::<u8>(100, RW).unwrap());
        let group = device.group();
        drop(device);
        ground.dma.space().detach(group).unwrap();
        let device = ground.dma.open(FIRST, DmaMask::ALL).unwrap();
        let new = [ground.dma.buffer::<u8>(100_000, RW).unwrap(), ground.dma.buffer::<u8>(100, RW).unwrap()];
        for buffer in &new {
            buffer.write(99, 7).unwrap();
        }
        // Their bus addresses are not theirs any more.
        drop((large, small));
        for buffer in &new {
            assert_eq!(ground.device_reads(buffer.iova_of(99).unwrap(), 1), [7], "{preset}");
        }
        drop((new, device));
        ground.ends_clean();
    }
}

#[test]
fn a_capacity_that_cannot_be_had_is_an_error_at_open() {
    for preset in PRESETS {
        for capacity in [1 << 62, u64::MAX] {
            let config = DmaConfig { capacity, ..DmaConfig::default() };
            let ground = Ground::with(preset, config, |model| model.with_free_huge_pages(0));
            let refused = ground.dma.open(FIRST, DmaMask::ALL).unwrap_err();
            let too_large = matches!(&refused, OpenError::Dma(DmaError::Window(WindowError::Refused(why)))
                if matches!(why, Refusal::TooLarge { .. } | Refusal::Memlock(_)));
            assert!(too_large, "{preset}: {refused}");
            ground.ends_clean();
        }
    }
}

#[test]
fn a_full_default_window_says_why_there_is_no_other() {
    // A window of another's making takes the place of the dynamic one.
    let ground = Ground::new("powernv9-64k");
    let group = ground.model.groups()[0].number;
    ground.dma.space().attach(group).unwrap();
    ground.dma.space().create_window(&WindowRequest::bytes(1 << 20)).unwrap();
    let device = ground.dma.open(FIRST, DmaMask::ALL).unwrap();
    let refused = ground.dma.buffer::<u8>(3 << 30, RW).unwrap_err();
    assert!(matches!(refused, DmaError::NoRoomInDefault { .. }), "{refused}");
    assert!(refused.to_string().contains("there are two windows already"), "{refused}");
    drop(device);
    ground.ends_clean();
}

#[test]
fn firmware_without_windows_is_named() {
    let ground = Ground::new("pseries-noddw-64k");
    let refused = ground.dma.open(FIRST, DmaMask::ALL).unwrap_err();
    let told = OpenError::Dma(DmaError::Window(WindowError::Refused(Refusal::NoDdw)));
    assert_eq!(refused, told);
    assert!(refused.to_string().contains("ddw"), "{refused}");
    ground.ends_clean();
}

#[test]
fn several_with_one_registry_do_not_meet() {
    let ground = Ground::new("powernv9-64k");
    let other = Dma::with_registry(ground.dma.space().registry(), DmaConfig::default());
    let first = ground.dma.open(FIRST, DmaMask::ALL).unwrap();
    let second = other.open(crate::fixture::SECOND, DmaMask::ALL).unwrap();
    let (a, b) = (ground.dma.buffer::<u8>(100_000, RW).unwrap(), other.buffer::<u8>(100_000, RW).unwrap());
    assert_eq!(a.iova(), b.iova(), "each has an address space of its own");
    assert!(matches!(other.open(FIRST, DmaMask::ALL), Err(OpenError::Attach(_))), "a group has one");
    drop((first, second, a, b, other));
    ground.ends_clean();
}
