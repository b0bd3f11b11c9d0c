//! Memory of files: on the host's pages wherever the file lies, and protected from shrinking where
//! it can be sealed.

use crate::{FIRST, Fixture, PRESETS, RW};
use nix::sys::memfd::{MFdFlags, memfd_create};
use spapr_iommu::addr::PageShift;
use spapr_iommu::dma::{DmaError, DmaMask, OutOfBounds};
use spapr_iommu::host::{Errno, FileError, Host};
use std::fs::File;
use std::os::unix::fs::FileExt;

fn memfd(flags: MFdFlags, len: u64) -> File {
    let file = File::from(memfd_create("dma", MFdFlags::MFD_CLOEXEC | flags).unwrap());
    file.set_len(len).unwrap();
    file
}

#[test]
fn a_files_memory_is_mapped_and_shared_with_it() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x4_0000).unwrap();
        file.write_all_at(b"in the file", 0x1_0000).unwrap();
        // On a machine of 4K pages, one mapping in 16 would lie on a 64K page by chance.
        let pieces: Vec<_> = (0..20).map(|_| fixture.dma.file(&file, 0x1_0000, 0x2_0000).unwrap()).collect();
        for memory in pieces {
            let map = memory.map(0, 0x2_0000, RW).unwrap();
            assert_eq!(fixture.device_reads(map.iova_range().start(), 11), b"in the file", "{preset}");
            map.write_bytes(0x1_fffc, b"back").unwrap();
            let mut back = [0; 4];
            file.read_exact_at(&mut back, 0x2_fffc).unwrap();
            assert_eq!(&back, b"back");
        }
        drop(device);
        fixture.ends_clean();
    }
}

#[test]
fn a_part_that_a_file_does_not_have_is_named() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let page = fixture.model.page_shift();
        let file = memfd(MFdFlags::empty(), 0x4_0000);
        let refused = |offset, len| match fixture.dma.file(&file, offset, len).unwrap_err() {
            DmaError::File(error) => error,
            error => panic!("{error}"),
        };
        assert_eq!(refused(5, 0x1_0000), FileError::Offset { offset: 5, len: 0x1_0000, page });
        assert_eq!(refused(0, 0x1_0005), FileError::Length { offset: 0, len: 0x1_0005, page });
        assert_eq!(refused(0, 0), FileError::Empty { offset: 0, page });
        let size = 0x4_0000;
        assert_eq!(refused(0x3_0000, 0x2_0000), FileError::Short { offset: 0x3_0000, len: 0x2_0000, size });
        let past = 0u64.wrapping_sub(0x1_0000);
        assert_eq!(refused(past, 0x1_0000), FileError::Short { offset: past, len: 0x1_0000, size });
        // A 64K page has no middle, wherever the machine that runs the model could map it.
        if page == PageShift::P64K {
            assert_eq!(refused(0x1000, 0x1_0000), FileError::Offset { offset: 0x1000, len: 0x1_0000, page });
        }
        drop(device);
        fixture.ends_clean();
    }
}

#[test]
fn a_file_that_is_not_open_for_writing_is_refused() {
    let fixture = Fixture::new("powernv9-64k");
    let file = memfd(MFdFlags::empty(), 0x1_0000);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let refused = fixture.dma.file(File::open(path).unwrap(), 0, 0x1_0000).unwrap_err();
    assert_eq!(refused, DmaError::File(FileError::Refused { offset: 0, len: 0x1_0000, errno: Errno::EACCES }));
    fixture.ends_clean();
}

#[test]
fn what_a_file_has_lost_is_out_of_bounds() {
    let fixture = Fixture::new("powernv9-64k");
    let file = memfd(MFdFlags::empty(), 0x3_0000);
    let memory = fixture.dma.file(&file, 0x1_0000, 0x2_0000).unwrap();
    memory.write_bytes(0x1_0000, b"there").unwrap();
    file.set_len(0x2_0000).unwrap();
    let mut data = [0; 5];
    let lost = OutOfBounds { offset: 0x1_0000, len: 5, size: 0x1_0000 };
    assert_eq!(memory.read_bytes(0x1_0000, &mut data), Err(lost));
    assert_eq!(memory.write_bytes(0x1_0000, b"again"), Err(lost));
    memory.write_bytes(0xfffb, b"still").unwrap();
    file.set_len(0).unwrap();
    assert_eq!(memory.read_bytes(0, &mut data), Err(OutOfBounds { offset: 0, len: 5, size: 0 }));
    // The grown part reads as zeros.
    file.set_len(0x3_0000).unwrap();
    memory.read_bytes(0x1_0000, &mut data).unwrap();
    assert_eq!(data, [0; 5]);
    drop(memory);
    fixture.ends_clean();
}

#[test]
fn a_memfd_that_takes_seals_does_not_shrink_under_its_memory() {
    let fixture = Fixture::new("powernv9-64k");
    let file = memfd(MFdFlags::MFD_ALLOW_SEALING, 0x2_0000);
    let memory = fixture.dma.file(&file, 0, 0x2_0000).unwrap();
    assert!(!memory.may_shrink());
    assert!(file.set_len(0).is_err(), "an access would end the process");
    memory.write_bytes(0x1_0000, b"still there").unwrap();
    // A refusal leaves the file unchanged.
    let whole = memfd(MFdFlags::MFD_ALLOW_SEALING, 0x1_0000);
    assert!(fixture.dma.file(&whole, 0, 0x2_0000).is_err());
    whole.set_len(0).unwrap();
    // Without seals, the caller is told that the file may shrink.
    let bare = memfd(MFdFlags::empty(), 0x1_0000);
    assert!(fixture.dma.file(&bare, 0, 0x1_0000).unwrap().may_shrink());
    assert!(!fixture.dma.memory(0x1_0000).unwrap().may_shrink());
    drop(memory);
    fixture.ends_clean();
}
