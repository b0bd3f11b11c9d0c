//! Wrong use: the error is named, and nothing is left. If the kernel does not unmap, memory that a
//! device may still reach is given to no one else.

use crate::{FIRST, Fixture, PRESETS, RW, SECOND, apart, bits};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr};
use spapr_iommu::dma::{Dma, DmaConfig, DmaError, DmaMask, OpenError, ReleaseRefusal, StreamMap};
use spapr_iommu::host::{Errno, Host, MemlockError, Memory, Obstacle};
use spapr_iommu::model::{Faulty, Model};
use spapr_iommu::registry::{RegisterError, Registry};
use spapr_iommu::space::{AttachError, WindowError};
use spapr_iommu::window::{PlanError, WindowRequest};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

#[test]
fn a_device_that_is_not_there_is_named_beside_those_that_are() {
    let fixture = Fixture::new("powernv9-64k");
    let refused = fixture.dma.open("0000:00:07.0".parse().unwrap(), DmaMask::ALL).unwrap_err();
    let OpenError::NoDevice { address, devices } = refused else { panic!("{refused}") };
    assert_eq!((address.to_string().as_str(), devices.len()), ("0000:00:07.0", 2));
    fixture.ends_clean();
}

#[test]
fn a_group_with_a_host_driver_is_refused_by_its_name() {
    let fixture = Fixture::with("powernv9-64k", DmaConfig::default(), |model| model.with_host_driver(Group(0), "nvme"));
    let refused = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap_err();
    let OpenError::Attach(AttachError::Obstacle(Obstacle::NotViable { driver, .. })) = &refused else {
        panic!("{refused}")
    };
    assert_eq!(driver, "nvme");
    fixture.ends_clean();
}

#[test]
fn memory_without_a_device_is_refused() {
    let fixture = Fixture::new("powernv9-64k");
    assert_eq!(fixture.dma.buffer::<u8>(4096, RW).err(), Some(DmaError::NoDevice));
    let memory = fixture.dma.memory(4096).unwrap();
    assert_eq!(memory.map(0, 4096, RW).err(), Some(DmaError::NoDevice));
    drop(memory);
    fixture.ends_clean();
}

#[test]
fn a_mask_that_reaches_no_window_is_refused() {
    for (preset, mask) in [("powernv9-64k", 12), ("pseries-4k", 8)] {
        let fixture = Fixture::new(preset);
        let refused = fixture.dma.open(FIRST.parse().unwrap(), bits(mask)).unwrap_err();
        let OpenError::Dma(DmaError::MaskTooSmall { mask: told, lowest, .. }) = &refused else { panic!("{refused}") };
        assert_eq!((*told, lowest.0), (bits(mask), 4096));
        fixture.ends_clean();
    }
    // On powernv a window of 8G goes on above the MMIO, from 4G on.
    for (preset, capacity) in [("pseries-64k", 256 << 20), ("powernv9-64k", 8 << 30)] {
        let config = DmaConfig::default().with_capacity(capacity).without_default_window();
        let fixture = Fixture::with(preset, config, |model| model.with_free_huge_pages(0));
        let refused = fixture.dma.open(FIRST.parse().unwrap(), bits(32)).unwrap_err();
        assert!(matches!(refused, OpenError::Dma(DmaError::Window(_))), "{preset}: {refused}");
        fixture.ends_clean();
    }
}

#[test]
fn a_process_that_may_lock_no_more_is_told_how_much_is_missing() {
    let small = DmaConfig::default().with_capacity(32 << 20).without_default_window();
    let fixture =
        Fixture::with("pseries-64k", small, |model| model.with_memlock(Some(1 << 20)).with_free_huge_pages(0));
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let refused = fixture.dma.buffer::<u8>(4 << 20, RW).unwrap_err();
    let missing = match &refused {
        DmaError::Register(RegisterError::Memlock(MemlockError::OverLimit { missing, .. })) => *missing,
        _ => panic!("{refused}"),
    };
    assert!(missing > 3 << 20);
    fixture.dma.buffer::<u8>(64 << 10, RW).unwrap();
    drop(device);
    fixture.ends_clean();
}

#[test]
fn a_buffer_is_not_released_while_a_device_runs_and_dropped_all_the_same() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let buffer = fixture.dma.buffer::<u8>(100_000, RW).unwrap();
    let other = fixture.dma.buffer::<u8>(100_000, RW).unwrap();
    device.start_dma().unwrap();
    let refused = buffer.release().unwrap_err();
    let running = ReleaseRefusal::DeviceRuns { iova: refused.buffer.iova_range(), device: FIRST.into() };
    assert_eq!(refused.why, running);
    let at = other.iova();
    drop(other);
    assert_eq!(fixture.device_reads(at, 4), [0; 4], "it is out of reach");
    device.stop_dma().unwrap();
    refused.buffer.release().unwrap();
    drop(device);
    fixture.ends_clean();
}

/// A group has one opener: if it stayed attached, no one else could use it.
#[test]
fn a_device_that_is_not_opened_leaves_its_group_to_others() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let other = Dma::with_registry(fixture.dma.space().registry(), DmaConfig::default());
        fixture.dma.open(FIRST.parse().unwrap(), bits(8)).unwrap_err();
        assert_eq!(fixture.dma.space().status().groups, [], "{preset}");
        let device = other.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let beside = fixture.dma.open(SECOND.parse().unwrap(), DmaMask::ALL).unwrap();
        // If the space already has a group, it is detached as well.
        drop((device, other));
        let buffer = fixture.dma.buffer::<u8>(100_000, RW).unwrap();
        fixture.dma.open(FIRST.parse().unwrap(), bits(8)).unwrap_err();
        assert_eq!(fixture.dma.space().status().groups.len(), 1, "{preset}");
        assert!(fixture.dma.space().translate(buffer.iova()).is_some());
        let other = Dma::with_registry(fixture.dma.space().registry(), DmaConfig::default());
        drop(other.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap());
        // A device of an open group leaves the group attached.
        fixture.dma.open(SECOND.parse().unwrap(), DmaMask::ALL).unwrap_err();
        assert_eq!(fixture.dma.space().status().groups.len(), 1, "{preset}");
        drop((buffer, beside, other));
        fixture.ends_clean();
    }
}

#[test]
fn a_space_starts_anew_when_its_last_group_left() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let (large, small) =
            (fixture.dma.buffer::<u8>(100_000, RW).unwrap(), fixture.dma.buffer::<u8>(100, RW).unwrap());
        let group = device.group();
        drop(device);
        fixture.dma.space().detach(group).unwrap();
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let new = [fixture.dma.buffer::<u8>(100_000, RW).unwrap(), fixture.dma.buffer::<u8>(100, RW).unwrap()];
        for buffer in &new {
            buffer.write(99, 7).unwrap();
        }
        // Their bus addresses are in use.
        drop((large, small));
        for buffer in &new {
            assert_eq!(fixture.device_reads(buffer.iova_of(99).unwrap(), 1), [7], "{preset}");
        }
        drop((new, device));
        fixture.ends_clean();
    }
}

#[test]
fn a_capacity_that_cannot_be_had_is_an_error_at_open() {
    for preset in PRESETS {
        for capacity in [1 << 62, u64::MAX] {
            let config = DmaConfig::default().with_capacity(capacity);
            let fixture = Fixture::with(preset, config, |model| model.with_free_huge_pages(0));
            let refused = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap_err();
            let too_large = matches!(&refused, OpenError::Dma(DmaError::Window(WindowError::Refused(why)))
                if matches!(why, PlanError::TooLarge { .. } | PlanError::Memlock(_)));
            assert!(too_large, "{preset}: {refused}");
            fixture.ends_clean();
        }
    }
}

#[test]
fn a_full_default_window_says_why_there_is_no_other() {
    // A window that the caller created takes the place of the dynamic one.
    let fixture = Fixture::new("powernv9-64k");
    let group = fixture.model.groups()[0].number;
    fixture.dma.space().attach(group).unwrap();
    fixture.dma.space().create_window(&WindowRequest::bytes(1 << 20)).unwrap();
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let refused = fixture.dma.buffer::<u8>(3 << 30, RW).unwrap_err();
    assert!(matches!(refused, DmaError::NoRoomInDefault { .. }), "{refused}");
    assert!(refused.to_string().contains("there are two windows already"), "{refused}");
    drop(device);
    fixture.ends_clean();
}

#[test]
fn firmware_without_windows_is_named() {
    let fixture = Fixture::new("pseries-noddw-64k");
    let refused = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap_err();
    let told = OpenError::Dma(DmaError::Window(WindowError::Refused(PlanError::NoDdw)));
    assert_eq!(refused, told);
    assert!(refused.to_string().contains("ddw"), "{refused}");
    fixture.ends_clean();
}

#[test]
fn several_with_one_registry_do_not_meet() {
    let fixture = Fixture::new("powernv9-64k");
    let other = Dma::with_registry(fixture.dma.space().registry(), DmaConfig::default());
    let first = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let second = other.open(crate::SECOND.parse().unwrap(), DmaMask::ALL).unwrap();
    let (a, b) = (fixture.dma.buffer::<u8>(100_000, RW).unwrap(), other.buffer::<u8>(100_000, RW).unwrap());
    assert_eq!(a.iova(), b.iova(), "each has an address space of its own");
    assert!(matches!(other.open(FIRST.parse().unwrap(), DmaMask::ALL), Err(OpenError::Attach(_))), "a group has one");
    drop((first, second, a, b, other));
    fixture.ends_clean();
}

/// Marks this program as the one that is to end.
const CHILD: &str = "SPAPR_IOMMU_TEST_SLICE_STAYS_MAPPED";
const SIGABRT: i32 = 6;

fn faulty() -> (Arc<Model>, Arc<Faulty<Arc<Model>>>, Dma) {
    let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()).with_free_huge_pages(0));
    let faulty = Arc::new(Faulty::new(model.clone()));
    let dma = Dma::with_registry(&Registry::new(faulty.clone()), DmaConfig::default());
    (model, faulty, dma)
}

#[test]
fn a_buffer_that_stays_mapped_keeps_its_memory_and_its_addresses() {
    let (model, faulty, dma) = faulty();
    let _device = dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let lost = dma.buffer::<u8>(0x2_0000, RW).unwrap();
    // Somewhere in the second half: if the kernel fails twice, a part may be unmapped.
    lost.write_slice(0x1_0000, b"what the device reads").unwrap();
    let (range, at) = (lost.iova_range(), lost.iova_of(0x1_0000).unwrap());
    let user = dma.space().translate(at).unwrap().user;
    faulty.arm(0, 1000, Err(Errno::EINVAL));
    drop(lost);
    assert!(faulty.disarm() > 0);
    let mut there = [0; 21];
    model.device_read(model.containers()[0], at, &mut there);
    assert_eq!(&there, b"what the device reads", "it still may");
    // The next map unmaps it, too late for anyone to rely on that.
    let others: Vec<_> = (0..4).map(|_| dma.buffer::<u8>(0x2_0000, RW).unwrap()).collect();
    others.iter().for_each(|buffer| buffer.write_slice(0, &[7; 0x2_0000]).unwrap());
    assert!(apart(&others.iter().map(|buffer| buffer.iova_range()).chain([range]).collect::<Vec<_>>()));
    model.read(user, &mut there).unwrap();
    assert_eq!(&there, b"what the device reads", "nobody else got it");
}

#[test]
fn a_buffer_that_is_not_mapped_takes_no_addresses() {
    let (_, faulty, dma) = faulty();
    let device = dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let first = dma.buffer::<u8>(0x2_0000, RW).unwrap().iova();
    for failing in 0.. {
        faulty.arm(failing, 1, Err(Errno::ENOMEM));
        let buffer = dma.buffer::<u8>(0x2_0000, RW);
        match (faulty.disarm(), buffer) {
            (0, buffer) => {
                assert!(buffer.is_ok() && failing >= 2, "REGISTER and MAP failed before");
                break;
            }
            (_, buffer) => assert!(buffer.is_err()),
        }
        assert_eq!(dma.buffer::<u8>(0x2_0000, RW).unwrap().iova(), first, "call {failing}");
    }
    drop(device);
}

#[test]
fn memory_that_is_unmapped_is_given_back() {
    let (model, _, dma) = faulty();
    let device = dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let buffer = dma.buffer::<u8>(0x2_0000, RW).unwrap();
    let user = dma.space().translate(buffer.iova()).unwrap().user;
    assert_eq!(model.read(user, &mut [0]), Ok(()));
    drop(buffer);
    assert_eq!(model.read(user, &mut [0]), Err(Errno::EFAULT));
    drop((device, dma));
    assert_eq!((model.locked(), model.regions(), model.violations()), (0, vec![], vec![]));
}

#[test]
fn a_slice_that_stays_mapped_ends_the_process() {
    ends("wrong::a_slice_that_stays_mapped_ends_the_process", |faulty, _, _| {
        faulty.arm(0, 1000, Err(Errno::EINVAL));
    });
}

#[test]
fn a_slice_that_was_mapped_in_another_place_as_well_ends_the_process() {
    ends("wrong::a_slice_that_was_mapped_in_another_place_as_well_ends_the_process", |_, dma, map| {
        let user = UserAddr(map.as_ptr().addr() as u64);
        dma.space().map(IovaRange::new(Iova(0x10_0000), 0x1_0000).unwrap(), user, RW).unwrap();
    });
}

/// Runs `test` in a process of its own, which lends a slice, does `meanwhile`, and must end.
fn ends(test: &str, meanwhile: impl FnOnce(&Faulty<Arc<Model>>, &Dma, &StreamMap)) {
    if std::env::var_os(CHILD).is_some() {
        let (_, faulty, dma) = faulty();
        let _device = dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let mut memory = vec![0; 0x3_0000];
        let skip = memory.as_ptr().align_offset(0x1_0000);
        let lent = dma.with_slice(&mut memory[skip..][..0x1_0000], RW, |map| meanwhile(&faulty, &dma, map));
        println!("the slice is back: {lent:?}");
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture"]);
    let status = child.env(CHILD, "1").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.signal(), Some(SIGABRT), "{status}");
}
