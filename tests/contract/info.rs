//! GET_INFO, and other differences between bare metal and partitions.

use crate::fixture::{Fixture, HIGH, K4, K64, iova};
use crate::raw::Raw;
use crate::rule;
use spapr_iommu::addr::Iova;
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::model::Machine;
use spapr_iommu::permission::Permission;
use spapr_iommu::space::{AddressSpace, MapError};
use spapr_iommu::uapi::spapr::{INFO_DDW, TceDdwInfo, TceInfo};
use spapr_iommu::window::PlanError;

/// Returns the contents of a structure of `argsz` bytes, which held ones before, after the call.
fn info(raw: &Raw<'_>, argsz: u32) -> Result<TceInfo, Errno> {
    let ones = TceDdwInfo { pgsizes: u64::MAX, max_dynamic_windows_supported: u32::MAX, levels: u32::MAX };
    let args = TceInfo { argsz, flags: u32::MAX, dma32_window_start: 1, dma32_window_size: 1, ddw: ones };
    match raw.answer(Call::TceGetInfo(args))? {
        (0, Call::TceGetInfo(info)) => Ok(info),
        other => panic!("{other:?}"),
    }
}

/// Returns what each machine has; the host's page size makes no difference.
fn machines(fixture: &Fixture) -> TceInfo {
    let (size, pgsizes, max_dynamic_windows_supported, levels) = match fixture.preset.machine {
        Machine::Pseries(firmware) if !firmware.ddw => (0x4000_0000, 0x1000, u32::MAX, 0),
        Machine::Pseries(firmware) => (0x4000_0000, 0x1000 | firmware.page_sizes, 2, 1),
        Machine::Powernv8 => (0x8000_0000, 0x1101_1000, 2, 5),
        Machine::Powernv9 | Machine::Powernv10 => (0x8000_0000, 0x4021_1000, 2, 5),
    };
    let ddw = TceDdwInfo { pgsizes, max_dynamic_windows_supported, levels };
    TceInfo { argsz: 32, flags: INFO_DDW, dma32_window_start: 0, dma32_window_size: size, ddw }
}

fn facts(space: &AddressSpace) -> spapr_iommu::window::WindowFacts {
    space.status().facts.unwrap()
}

/// Default window, page sizes, number of windows, levels.
pub(crate) fn info_describes_the_machines_windows(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(info(&raw, 32), Ok(machines(fixture)));
    drop(raw);
    let library = fixture.library();
    let facts = facts(&library.space);
    assert_eq!(facts.default.map(|range| range.len()), Some(machines(fixture).dma32_window_size.into()));
    let sizes: u64 = facts.page_sizes().map(|page| page.bytes()).sum();
    assert_eq!(sizes, machines(fixture).ddw.pgsizes);
}

pub(crate) fn info_wants_16_bytes(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!([0, 15].map(|argsz| info(&raw, argsz)), [Err(Errno::EINVAL); 2]);
    drop(raw);
    // The library requests all 32.
    let library = fixture.library_without_groups();
    library.space.attach(fixture.groups[0].0).unwrap();
    let asked = fixture.kernel.take().into_iter().find_map(|record| match record.call {
        Call::TceGetInfo(info) => Some(info.argsz),
        _ => None,
    });
    assert_eq!(asked, Some(32));
}

/// The flag promises more than the kernel has.
pub(crate) fn info_of_less_than_32_bytes_has_the_flag_without_the_data(fixture: &Fixture) {
    let raw = fixture.v2();
    for argsz in [16, 24, 31] {
        let short = info(&raw, argsz).unwrap();
        assert_eq!(
            (short.argsz, short.flags, short.dma32_window_size),
            (argsz, INFO_DDW, machines(fixture).dma32_window_size)
        );
        assert_eq!((short.ddw.pgsizes, short.ddw.levels), (u64::MAX, u32::MAX), "untouched");
    }
    drop(raw);
    assert!(facts(&fixture.library().space).page_sizes().count() > 0);
}

/// Even without page sizes.
pub(crate) fn info_of_v1_has_no_dynamic_windows(fixture: &Fixture) {
    let raw = fixture.v1();
    let expected = TceInfo { flags: 0, ddw: TceDdwInfo::default(), ..machines(fixture) };
    assert_eq!(info(&raw, 32), Ok(expected));
    drop(raw);
    // The library uses v2.
    let library = fixture.library_without_groups();
    library.space.attach(fixture.groups[0].0).unwrap();
    let kinds: Vec<_> = fixture
        .kernel
        .take()
        .into_iter()
        .filter_map(|record| if let Call::SetIommu(kind) = record.call { Some(kind) } else { None })
        .collect();
    assert_eq!(kinds, [7]);
}

/// With the number of type1's GET_INFO: a program that probes for that takes the default window for
/// a set of page sizes.
pub(crate) fn info_answers_a_probe_for_type1(fixture: &Fixture) {
    let raw = fixture.v2();
    // `struct vfio_iommu_type1_info` starts with argsz, flags (1: page sizes follow) and the page
    // sizes.
    let short = info(&raw, 16).unwrap();
    let pgsizes = u64::from(short.dma32_window_start) | u64::from(short.dma32_window_size) << 32;
    assert_eq!(short.flags & 1, 1);
    assert_eq!(pgsizes, u64::from(machines(fixture).dma32_window_size) << 32);
    assert!(pgsizes & 0x1_1000 == 0, "neither 4 KiB nor 64 KiB");
    // The type distinguishes the two.
    assert_eq!(raw.call(Call::CheckExtension(1)), Ok(0));
    drop(raw);
    let library = fixture.library_without_groups();
    library.space.attach(fixture.groups[0].0).unwrap();
    let calls = library.calls();
    let place = |name| calls.iter().position(|call| *call == name);
    assert!(place("VFIO_SET_IOMMU") < place("VFIO_IOMMU_SPAPR_TCE_GET_INFO"), "{calls:?}");
}

/// Neither the number of windows nor the levels show that VFIO works.
pub(crate) fn info_without_dynamic_windows_promises_2_32_of_them(fixture: &Fixture) {
    let raw = fixture.v2();
    let ddw = info(&raw, 32).unwrap().ddw;
    assert_eq!((ddw.max_dynamic_windows_supported, ddw.levels), (u32::MAX, 0));
    assert!(rule::bare_firmware(&fixture.preset));
    drop(raw);
    let library = fixture.library();
    let refused = library.space.plan(&spapr_iommu::window::WindowRequest::bytes(1 << 20)).unwrap_err();
    assert!(refused.to_string().contains("no dynamic DMA windows"), "{refused}");
}

const RW: Permission = Permission::ReadWrite;

/// 2 GiB on powernv, 1 GiB on QEMU's pseries, with 4K pages.
pub(crate) fn the_default_window_starts_at_0_with_4k_pages(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let end = fixture.default_window();
    assert_eq!(raw.map(memory.start(), end - K4, K4), Ok(0));
    assert_eq!(raw.map(memory.start(), 0, K4), Ok(0));
    assert_eq!(raw.map(memory.start(), end, K4), Err(Errno::ENXIO));
    assert_eq!([raw.unmap(0, K4), raw.unmap(end - K4, K4)], [Ok(0); 2]);
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(end - K4, K4), memory.start(), RW).unwrap();
    let windows = library.space.status().windows;
    assert!(matches!(windows[..], [(window, K4)] if window.range == iova(0, end)), "{windows:?}");
    let refused = library.space.map(iova(end, K4), memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::NoWindow { why: PlanError::OutOfReach { .. }, .. }), "{refused}");
    library.space.unmap(iova(end - K4, K4)).unwrap();
}

/// powernv's own window at 1 << 59, through which a host's device reaches all memory, is closed
/// while VFIO has the group: the exception vectors at the start of memory read as zeros.
pub(crate) fn no_way_around_the_tables_is_left_on_powernv(fixture: &Fixture) {
    let raw = fixture.v2();
    let device = raw.device(0).unwrap();
    let memory = raw.registered(K64);
    fixture.fill(memory, 7);
    assert_eq!(raw.map(memory.start(), 0, K64), Ok(0));
    raw.dma(device, HIGH, 0, K4);
    let mut seen = [7; K4 as usize];
    fixture.source().read(memory.start(), &mut seen).unwrap();
    assert_eq!(seen, [0; K4 as usize]);
    assert_eq!(fixture.byte(memory, K4), 7);
    assert_eq!(raw.unmap(0, K64), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    assert_eq!((library.space.translate(Iova(HIGH)), library.space.status().windows), (None, vec![]));
}
