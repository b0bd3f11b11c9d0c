//! The kernel does not unmap: what a device may still reach is nobody else's.

use crate::fixture::{FIRST, RW, apart};
use spapr_iommu::addr::{Iova, IovaRange, UserAddr};
use spapr_iommu::dma::{Dma, DmaConfig, DmaMask, StreamMap};
use spapr_iommu::host::{Errno, Memory};
use spapr_iommu::model::{Faulty, Model};
use spapr_iommu::registry::Registry;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Tells this program that it is the one to be ended.
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
    let _device = dma.open(FIRST, DmaMask::ALL).unwrap();
    let lost = dma.buffer::<u8>(0x2_0000, RW).unwrap();
    // In its second half: where the kernel fails twice, a part may be unmapped.
    lost.write_slice(0x1_0000, b"what the device reads").unwrap();
    let (range, at) = (lost.iova_range(), lost.iova_of(0x1_0000).unwrap());
    let user = dma.space().translate(at).unwrap().user;
    faulty.arm(0, 1000, Err(Errno::EINVAL));
    drop(lost);
    assert!(faulty.disarm() > 0);
    let mut there = [0; 21];
    model.device_read(model.containers()[0], at, &mut there);
    assert_eq!(&there, b"what the device reads", "it still may");
    // The next maps take it out of reach, too late for anybody to count on it.
    let others: Vec<_> = (0..4).map(|_| dma.buffer::<u8>(0x2_0000, RW).unwrap()).collect();
    others.iter().for_each(|buffer| buffer.write_slice(0, &[7; 0x2_0000]).unwrap());
    assert!(apart(&others.iter().map(|buffer| buffer.iova_range()).chain([range]).collect::<Vec<_>>()));
    model.read(user, &mut there).unwrap();
    assert_eq!(&there, b"what the device reads", "nobody else got it");
}

#[test]
fn a_buffer_that_is_not_mapped_takes_no_addresses() {
    let (_, faulty, dma) = faulty();
    let device = dma.open(FIRST, DmaMask::ALL).unwrap();
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
    let device = dma.open(FIRST, DmaMask::ALL).unwrap();
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
    ends("kept::a_slice_that_stays_mapped_ends_the_process", |faulty, _, _| {
        faulty.arm(0, 1000, Err(Errno::EINVAL));
    });
}

#[test]
fn a_slice_that_was_mapped_in_another_place_as_well_ends_the_process() {
    ends("kept::a_slice_that_was_mapped_in_another_place_as_well_ends_the_process", |_, dma, map| {
        let user = UserAddr(map.as_ptr().addr() as u64);
        dma.space().map(IovaRange::new(Iova(0x10_0000), 0x1_0000).unwrap(), user, RW).unwrap();
    });
}

/// Runs `test` in a process of its own, which lends a slice, does `meanwhile`, and is to be ended.
fn ends(test: &str, meanwhile: impl FnOnce(&Faulty<Arc<Model>>, &Dma, &StreamMap)) {
    if std::env::var_os(CHILD).is_some() {
        let (_, faulty, dma) = faulty();
        let _device = dma.open(FIRST, DmaMask::ALL).unwrap();
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
