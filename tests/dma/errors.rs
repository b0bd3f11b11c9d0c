//! Printed errors. A chain of an error and its sources repeats nothing, and remedies are the
//! library's; `Debug` fits a line of a log.

use crate::{FIRST, Fixture, PRESETS, RW, SECOND};
use spapr_iommu::ErrorKind;
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use spapr_iommu::device::eeh::EehError;
use spapr_iommu::device::{AccessError, DeviceError, InterruptKind};
use spapr_iommu::dma::{DmaError, DmaMask, MemoryPart, OpenError, OutOfBounds, ReleaseRefusal};
use spapr_iommu::host::calls::{CallError, Failure};
use spapr_iommu::host::{Call, Errno, FileError, Memlock, MemlockError, Obstacle, Platform};
use spapr_iommu::registry::{PinError, RegisterError};
use spapr_iommu::space::{AttachError, MapError, NotRestored, UnmapError, WindowError};
use spapr_iommu::uapi::vfio::IrqSet;
use spapr_iommu::window::PlanError;
use std::collections::BTreeSet;
use std::error::Error;
use strum::VariantNames;

fn iova() -> IovaRange {
    IovaRange::new(Iova(1 << 59), 8 << 20).unwrap()
}

fn user() -> UserRange {
    UserRange::new(UserAddr(0x1_0000), 8 << 20).unwrap()
}

fn call() -> CallError {
    CallError::new(Call::Enable, Failure::Errno(Errno::EPERM))
}

fn lost() -> NotRestored {
    NotRestored { cause: call(), lost: vec![iova()], left: vec![iova()] }
}

/// All of it is over the limit.
fn memlock() -> MemlockError {
    MemlockError::OverLimit {
        what: "the TCE tables",
        needed: 8 << 20,
        missing: 8 << 20,
        memlock: Memlock { limit: Some(64 << 10), locked: 64 << 10, unlimited: false },
    }
}

fn window() -> WindowError {
    PlanError::Memlock(memlock()).into()
}

const PAGE: PageShift = PageShift::P64K;

fn file_errors() -> Vec<FileError> {
    let (offset, len) = (5, 10);
    vec![
        FileError::Empty { offset, page: PAGE },
        FileError::Offset { offset, len, page: PAGE },
        FileError::Length { offset, len, page: PAGE },
        FileError::Short { offset, len, size: 7 },
        FileError::Refused { offset, len, errno: Errno::EACCES },
    ]
}

fn dma_errors() -> Vec<DmaError> {
    let (bytes, mask, window_range, largest) = (8 << 20, DmaMask::ALL, iova(), 4 << 20);
    let outside = OutOfBounds { offset: 9, len: 8, size: 16 };
    vec![
        DmaError::Empty,
        DmaError::TooLarge { count: 9, size: 8 },
        DmaError::NoDevice,
        DmaError::MaskTooSmall { mask, lowest: Iova(4096), least: mask },
        DmaError::NoRoom { bytes, window: window_range, largest },
        DmaError::NoRoomInDefault { bytes, window: window_range, largest, why: window() },
        DmaError::NoRoomInReach { bytes, window: window_range, mask, largest },
        DmaError::Memory { bytes, page: PAGE, errno: Errno::ENOMEM },
        DmaError::Unaligned { user: user(), page: PAGE },
        DmaError::PageTooLarge { user: user(), max_iommu_page: PageShift::P4K, page: PAGE },
        DmaError::File(file_errors().remove(1)),
        DmaError::OutOfBounds(outside),
        DmaError::PoolEmpty { blocks: 8 },
        DmaError::Window(window()),
        DmaError::Register(memlock().into()),
        DmaError::Map(MapError::Refused(call())),
    ]
}

fn map_errors() -> Vec<MapError> {
    let asked = iova();
    vec![
        MapError::NoGroup { asked },
        MapError::NoWindow { asked, why: PlanError::Memlock(memlock()) },
        MapError::Misaligned { asked, page: PAGE },
        MapError::UserMisaligned { asked, user: UserAddr(5), page: PAGE },
        MapError::Overlap { asked, present: asked, user: UserAddr(5) },
        MapError::Twice { first: asked, second: asked },
        MapError::Memory(PinError::Register(memlock().into())),
        MapError::Window(window()),
        MapError::Refused(call()),
        MapError::NotRestored(lost()),
    ]
}

fn register_errors() -> Vec<RegisterError> {
    let (asked, part) = (user(), user());
    vec![
        RegisterError::Misaligned { asked, page: PAGE },
        RegisterError::Hole { asked, hole: part },
        RegisterError::NotPinnable { asked, part },
        RegisterError::PageRefused { asked, page: 3 },
        RegisterError::Stale { asked, part },
        RegisterError::Lent { asked },
        RegisterError::Foreign { asked },
        RegisterError::Memlock(memlock()),
        RegisterError::Backing(Errno::EIO),
        RegisterError::Call(call()),
    ]
}

fn pin_errors() -> Vec<PinError> {
    let asked = user();
    vec![
        PinError::NotRegistered { asked, missing: asked },
        PinError::PageTooLarge { asked, region: asked, max_iommu_page: PageShift::P4K, page: PAGE },
        PinError::Straddles { asked, at: UserAddr(5), page: PAGE },
        PinError::Register(memlock().into()),
    ]
}

fn unmap_errors() -> Vec<UnmapError> {
    let asked = iova();
    vec![
        UnmapError::NoWindow { asked },
        UnmapError::Misaligned { asked, page: PAGE },
        UnmapError::Refused(call()),
        UnmapError::NotRestored(lost()),
    ]
}

fn window_errors() -> Vec<WindowError> {
    vec![
        WindowError::NoGroup,
        WindowError::Refused(PlanError::Memlock(memlock())),
        WindowError::Call { error: call(), gone: vec![Iova(0)] },
        WindowError::Elsewhere { start: Iova(0), expected: Iova(1) },
    ]
}

fn attach_errors() -> Vec<AttachError> {
    let group = 3;
    vec![
        AttachError::Obstacle(Obstacle::Busy { group: Group(group) }),
        AttachError::Open { what: "/dev/vfio/3".into(), errno: Errno::EIO },
        AttachError::NoPlatform,
        AttachError::Version { version: 1 },
        AttachError::NoV2,
        AttachError::AttachedAlready { group: Group(group) },
        AttachError::NotAttached { group: Group(group) },
        AttachError::OneGroup { platform: Platform::Pseries, group: Group(group) },
        AttachError::DevicesOpen { group: Group(group), count: 1 },
        AttachError::Windows { group: Group(group), why: window() },
        AttachError::OtherFacts { group: Group(group) },
        AttachError::Register(memlock().into()),
        AttachError::Call(call()),
        AttachError::NotRestored(lost()),
        AttachError::InContainer { group: Group(1) },
    ]
}

fn device_errors() -> Vec<DeviceError> {
    let device: std::sync::Arc<str> = "0000:00:01.0".into();
    let kind = InterruptKind::Msi;
    let set = IrqSet { argsz: 20, flags: 1, index: 1, start: 0, count: 1 };
    vec![
        DeviceError::Open(AttachError::NoV2),
        DeviceError::Access(AccessError::Gone { device: device.clone() }),
        DeviceError::NoInterrupt { device, kind },
        DeviceError::Eventfd(Errno::EMFILE),
        DeviceError::Call(call()),
        DeviceError::Call(CallError::new(set, Failure::Errno(Errno::EIO))),
    ]
}

fn says_nothing_twice(error: &dyn Error) {
    let mut outer = error;
    while let Some(source) = outer.source() {
        assert!(!outer.to_string().contains(&source.to_string()), "{outer}, since {source}");
        outer = source;
    }
}

/// Visits all variants of an enum.
fn all<'a, E>(errors: &'a [E])
where
    E: Error + VariantNames + 'static,
    &'a E: Into<&'static str>,
{
    let there: BTreeSet<&str> = errors.iter().map(Into::into).collect();
    let known: BTreeSet<&str> = E::VARIANTS.iter().copied().collect();
    assert_eq!(there, known, "a variant is not looked at");
    errors.iter().for_each(|error| says_nothing_twice(error));
}

#[test]
fn a_chain_of_errors_says_nothing_twice() {
    all(&file_errors());
    all(&dma_errors());
    all(&map_errors());
    all(&unmap_errors());
    all(&window_errors());
    all(&attach_errors());
    all(&register_errors());
    all(&pin_errors());
    device_errors().iter().for_each(|error| says_nothing_twice(error));
    let running = ReleaseRefusal::DeviceRuns { iova: iova(), device: "0000:00:01.0".into() };
    let kept: Vec<_> = unmap_errors().into_iter().map(ReleaseRefusal::Unmap).collect();
    all(&[running, kept[0].clone()]);
    kept.iter().for_each(|error| says_nothing_twice(error));
    let opened = [
        OpenError::NoDevice { address: "0000:00:01.0".parse().unwrap(), devices: Vec::new() },
        OpenError::Attach(attach_errors().remove(9)),
        OpenError::Device(DeviceError::Call(call())),
        OpenError::Dma(DmaError::Window(window())),
    ];
    all(&opened);
    for error in attach_errors() {
        says_nothing_twice(&OpenError::Attach(error));
    }
    for error in map_errors() {
        says_nothing_twice(&DmaError::Map(error));
    }
}

/// Whatever layer reports it, a caller matches a single kind.
#[test]
fn locked_memory_over_the_limit_is_one_kind_at_every_depth() {
    let register = || RegisterError::Memlock(memlock());
    let attach = || AttachError::Register(register());
    let dma = [
        DmaError::Register(register()),
        DmaError::Window(WindowError::Refused(PlanError::Memlock(memlock()))),
        DmaError::Map(MapError::Memory(PinError::Register(register()))),
    ];
    let devices = [DeviceError::Open(attach())];
    let opens = [OpenError::Attach(attach()), OpenError::Device(devices[0].clone()), OpenError::Dma(dma[1].clone())];
    let dma = dma.iter().map(|error| (error.kind(), error.code()));
    let devices = devices.iter().map(|error| (error.kind(), error.code()));
    let opens = opens.iter().map(|error| (error.kind(), error.code()));
    let eeh = EehError::Device(DeviceError::Open(attach()));
    for found in dma.chain(devices).chain(opens).chain([(eeh.kind(), eeh.code())]) {
        assert_eq!(found, (ErrorKind::Memlock, "over-limit"));
    }
}

#[test]
fn errors_of_memory_name_the_librarys_remedies_and_units() {
    for text in dma_errors().iter().map(ToString::to_string).chain(file_errors().iter().map(ToString::to_string)) {
        assert!(!text.contains(" --") && !text.contains("`--"), "an option of a command: {text}");
    }
    let text = DmaError::Window(window()).to_string();
    assert!(text.contains("8 MiB to lock for the TCE tables") && text.contains("64 KiB"), "{text}");
}

/// Longest line, in bytes, that people still read.
const LINE: usize = 250;

#[test]
fn what_a_driver_holds_is_shown_in_a_line() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let devices = [FIRST, SECOND].map(|address| fixture.dma.open(address.parse().unwrap(), DmaMask::ALL).unwrap());
        let small: Vec<_> = (0..50).map(|_| fixture.dma.buffer::<u64>(9, RW).unwrap()).collect();
        let large = fixture.dma.buffer::<u64>(90_000, RW).unwrap();
        let pool = fixture.dma.pool::<[u8; 64]>(1000, RW).unwrap();
        let block = pool.take().unwrap();
        let memory = fixture.dma.memory(1 << 20).unwrap();
        let map = memory.map(0, 100, RW).unwrap();
        let parts: Vec<_> = (0..100).map(|i| MemoryPart { offset: i * 8192, len: 8 }).collect();
        let scatter = memory.map_parts(&parts, RW).unwrap();
        let bytes = fixture.dma.aligned_bytes(100_000).unwrap();
        let shown = [
            format!("{:?}", fixture.dma),
            format!("{:?}", small[7]),
            format!("{large:?}"),
            format!("{pool:?}"),
            format!("{block:?}"),
            format!("{memory:?}"),
            format!("{map:?}"),
            format!("{scatter:?}"),
            format!("{bytes:?}"),
            format!("{:?}", memory.map(0, 1 << 21, RW)),
            format!("{:?}", fixture.dma.space()),
            format!("{:?}", fixture.dma.space().registry()),
            format!("{:?}", fixture.calls),
        ];
        let names = [
            "Dma(",
            "Buffer",
            "Buffer",
            "Pool",
            "Block",
            "DmaMemory",
            "StreamMap",
            "ScatterMap",
            "Aligned",
            "Err",
            "AddressSpace",
            "Registry",
            "Recording",
        ];
        for (text, name) in shown.iter().zip(names) {
            assert!(text.starts_with(name), "{text}");
            assert!(text.len() <= LINE && !text.contains('\n'), "{} bytes: {text}", text.len());
        }
        assert!(shown[0].contains("2 devices"), "{}", shown[0]);
        // A pretty-printed struct leaves its buffers as they are.
        assert!(format!("{:#?}", fixture.dma).len() <= LINE);
        drop((devices, small, large, pool, block, map, scatter, memory));
        fixture.ends_clean();
    }
}
