//! What a VMM sees of its guest: counts, logs, errors.

use spapr_iommu::Group;
use spapr_iommu::addr::{GuestAddr, PageShift};
use spapr_iommu::guest::{
    DeviceAccessError, GuestMemory, HcallError, Liobn, NoMemory, PhbConfig, PhbError, RemoveMemoryError, ResetError,
    RestoreError, RtasBlock, RtasBlockError,
};
use spapr_iommu::kvm::Acceleration;
use spapr_iommu::kvm::model::KvmModel;
use spapr_iommu::space::WindowError;
use spapr_iommu_tests::by_address::ByAddress;
use spapr_iommu_tests::guest_fixture::{BIG, BUID, DYNAMIC, Fixture, LIOBN, LIST, PRESETS, RAM, guest, iova, tces};
use std::error::Error;
use std::sync::Arc;

/// Bytes that fit a screen.
const SCREEN: usize = 24 * 80;

/// Every third page, so that no two TCEs join to a run.
fn fragmented(fixture: &Fixture) {
    fixture.phb.create_window(16, 38).unwrap();
    let spread: Vec<u64> = (0..512).map(|n| ((n * 3 % 512) << 16) | 3).collect();
    (0..16).for_each(|list| fixture.put(DYNAMIC, BIG + (list << 25), &spread));
    let spread: Vec<u64> = (0..512).map(|n| ((n * 3 % 512) << 12) | 3).collect();
    (0..16).for_each(|list| fixture.put(LIOBN, list << 21, &spread));
}

#[test]
fn what_goes_to_a_log_is_a_screen_whatever_is_in_the_tables() {
    for attached in [false, true] {
        let fixture = Fixture::new("powernv9-64k");
        (1..40).for_each(|n| {
            drop(fixture.iommu.add_phb(PhbConfig::new(n, Liobn(0x100 + 2 * n as u32)).unwrap()).unwrap())
        });
        if attached {
            fixture.phb.attach(Group(0)).unwrap();
        }
        fragmented(&fixture);
        let table = fixture.iommu.table(DYNAMIC).unwrap();
        for text in [
            format!("{:?}", fixture.phb),
            format!("{:#?}", fixture.phb),
            format!("{:?}", fixture.iommu),
            format!("{:#?}", fixture.iommu),
            format!("{:?}", fixture.iommu.ram()),
            format!("{table:?}"),
            format!("{:?}", fixture.iommu.stats()),
        ] {
            assert!(text.len() < SCREEN, "{} bytes: {}…", text.len(), &text[..200]);
        }
        let text = format!("{:?}", fixture.iommu);
        assert!(text.contains("0x800000020000000") && text.contains("LIOBN 0x80000001"), "{text}");
        drop(table);
        fixture.ends_clean();
    }
    let kvm = KvmModel::new();
    let acceleration = Acceleration::new(Arc::new(kvm.clone())).unwrap();
    let (window, page) = (iova(0, 1 << 30), PageShift::P4K);
    acceleration.add_table(spapr_iommu::kvm::TableSpec { liobn: Liobn(1), window, page }).unwrap();
    for text in [format!("{acceleration:?}"), format!("{kvm:?}"), format!("{:?}", kvm.table(Liobn(1)))] {
        assert!(text.len() < SCREEN, "{} bytes", text.len());
    }
}

#[test]
fn calls_tces_and_refusals_are_counted() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        fixture.phb.attach(Group(0)).unwrap();
        let registered = fixture.registry.stats();
        assert_eq!((registered.registers, registered.registered), (1, RAM));
        fixture.put(LIOBN, 0, &tces(0, 512, PageShift::P4K));
        fixture.iommu.h_put_tce(LIOBN, 0x40_0000, 0x5003).unwrap();
        fixture.iommu.h_stuff_tce(LIOBN, 0, 0, 700).unwrap();
        fixture.iommu.h_get_tce(LIOBN, 0).unwrap();
        fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3).unwrap_err();
        fixture.iommu.h_put_tce(LIOBN, 0, RAM | 3).unwrap_err();
        fixture.iommu.h_stuff_tce(LIOBN, 0, 3, 1).unwrap_err();
        fixture.iommu.h_get_tce(LIOBN, 5).unwrap_err();
        fixture.iommu.h_get_tce(Liobn(5), 0).unwrap_err();
        let stats = fixture.phb.stats();
        assert_eq!((stats.gets, stats.puts, stats.indirects, stats.stuffs, stats.tces), (1, 1, 1, 1, 512 + 1 + 700));
        let kinds: Vec<_> = stats.refusals.iter().collect();
        assert_eq!(kinds, [("misaligned", 1), ("not-ram", 2), ("stuffs-rights", 1)]);
        assert_eq!((stats.refusals.total(), stats.refusals.of("not-ram"), stats.refusals.of("none")), (4, 2, 0));
        let all = fixture.iommu.stats();
        assert_eq!((all.tces, all.refusals.of("no-table"), all.refusals.total()), (stats.tces, 1, 5));
        // Returns what was requested of the space for it.
        let space = fixture.phb.space().stats();
        assert_eq!((space.maps, space.mapped, space.unmaps, space.unmapped), (2, 513 << 12, 1, 512 << 12), "{preset}");
        let user = spapr_iommu::addr::UserAddr(0x1000);
        fixture.phb.space().map(iova(0, 0x1000), user, spapr_iommu::permission::Permission::Read).unwrap_err();
        assert_eq!(fixture.phb.space().stats().map_refusals.total(), 1);
        let hole = spapr_iommu::addr::UserRange::new(user, 1 << 16).unwrap();
        fixture.registry.lease(hole).unwrap_err();
        assert_eq!(fixture.registry.stats().refusals.total(), 1);
        fixture.ends_clean();
    }
}

#[test]
fn an_error_does_not_repeat_its_source() {
    let nowhere = NoMemory { at: GuestAddr(1 << 40), len: 8 };
    let liobn = LIOBN;
    let map = HcallError::NotRam { at: GuestAddr(1 << 40) };
    let phb = PhbError::NoPhb { buid: 7 };
    let why = WindowError::NoGroup;
    let (inside, counted) = (why.to_string(), map.to_string());
    let kernel = RemoveMemoryError::Kernel { slot: guest(0, RAM), why: Box::new(map.clone()) };
    let window = PhbError::Window { window: iova(0, 1 << 30), why };
    let errors: [Box<dyn Error>; 5] = [
        Box::new(HcallError::List(nowhere)),
        Box::new(RestoreError::NotRam { liobn, first: 0, count: 1, why: Box::new(map) }),
        Box::new(ResetError { buid: BUID, why: Box::new(phb.into()) }),
        Box::new(DeviceAccessError::Memory(nowhere)),
        Box::new(RtasBlockError::Memory(nowhere)),
    ];
    for error in errors {
        let source = error.source().expect("it has one").to_string();
        assert!(!error.to_string().contains(&source), "{error}");
    }
    // These have no source: the message contains it.
    assert!(window.source().is_none() && window.to_string().ends_with(&inside), "{window}");
    assert!(kernel.source().is_none() && kernel.to_string().contains(&counted), "{kernel}");
}

#[test]
fn an_rtas_block_is_copied_once_and_written_back_whole() {
    let fixture = Fixture::new("powernv9-64k");
    let memory = fixture.slots.as_ref();
    let put = |at: u64, cells: &[u32]| {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        memory.write(GuestAddr(at), &bytes).unwrap();
    };
    put(LIST, &[0x2001, 2, 3, 7, 8, 9, 9, 9, 9]);
    let block = RtasBlock::read(memory, GuestAddr(LIST)).unwrap();
    put(LIST, &[0, 0, 0, 1]);
    assert_eq!((block.token(), block.args(), block.rets()), (0x2001, &[7, 8][..], 3));
    // As many as fit, and zeros for the rest.
    block.write(memory, &[5, 6]).unwrap();
    let mut back = [0; 16];
    memory.read(GuestAddr(LIST + 20), &mut back).unwrap();
    assert_eq!(back.as_chunks().0.iter().map(|cell| u32::from_be_bytes(*cell)).collect::<Vec<_>>(), [5, 6, 0, 9]);
    block.write(memory, &[1, 2, 3, 4, 5]).unwrap();
    memory.read(GuestAddr(LIST + 20), &mut back).unwrap();
    assert_eq!(back[12..], 9_u32.to_be_bytes());
    for (args, rets) in [(0, 0), (17, 0), (16, 1), (u32::MAX, u32::MAX), (3, 0)] {
        put(LIST, &[1, args, rets]);
        assert_eq!(RtasBlock::read(memory, GuestAddr(LIST)).unwrap_err(), RtasBlockError::Cells { args, rets });
    }
    for at in [RAM - 4, RAM, u64::MAX - 11, u64::MAX] {
        assert!(matches!(RtasBlock::read(memory, GuestAddr(at)), Err(RtasBlockError::Memory(_))), "{at:#x}");
    }
    // The arguments end where RAM ends, so the results lie past it.
    put(RAM - 16, &[1, 1, 1, 7]);
    let block = RtasBlock::read(memory, GuestAddr(RAM - 16)).unwrap();
    assert!(matches!(block.write(memory, &[0]), Err(RtasBlockError::Memory(_))));
    fixture.ends_clean();
}

#[test]
fn an_emulated_device_reads_and_writes_through_the_guests_tces() {
    let fixture = Fixture::new("powernv9-64k");
    // Pages in reverse order, the third for reading only, the fourth for writing only.
    for (tce, number) in [0x5003, 0x4003, 0x3001, 0x6002].into_iter().zip(0..) {
        fixture.iommu.h_put_tce(LIOBN, number << 12, tce).unwrap();
    }
    let at = spapr_iommu::addr::Iova;
    fixture.phb.device_write(at(0xffe), &[1, 2, 3, 4]).unwrap();
    let mut data = [0; 4];
    fixture.slots.read(GuestAddr(0x5ffe), &mut data[..2]).unwrap();
    fixture.slots.read(GuestAddr(0x4000), &mut data[2..]).unwrap();
    assert_eq!(data, [1, 2, 3, 4]);
    let mut back = [0; 4];
    fixture.phb.device_read(at(0xffe), &mut back).unwrap();
    assert_eq!(back, data);
    let write = DeviceAccessError::NotMapped { at: at(0x2000), access: "write" };
    assert_eq!(fixture.phb.device_write(at(0x1fff), &data), Err(write));
    let read = DeviceAccessError::NotMapped { at: at(0x3000), access: "read" };
    assert_eq!(fixture.phb.device_read(at(0x2ffe), &mut data), Err(read));
    assert!(fixture.phb.device_read(at(0x4000), &mut data).is_err());
    assert!(matches!(fixture.phb.device_read(at(u64::MAX), &mut data), Err(DeviceAccessError::Wraps { .. })));
    fixture.phb.device_read(at(0x4000), &mut []).unwrap();
    // Neighbours on the bus that lead to the same page.
    [8, 9].into_iter().for_each(|page| fixture.iommu.h_put_tce(LIOBN, page << 12, 0x7003).unwrap());
    fixture.phb.device_write(at(0x8ffe), &[5, 6, 7, 8]).unwrap();
    fixture.slots.read(GuestAddr(0x7ffe), &mut data[..2]).unwrap();
    fixture.slots.read(GuestAddr(0x7000), &mut data[2..]).unwrap();
    assert_eq!(data, [5, 6, 7, 8]);
    fixture.ends_clean();
}

#[test]
fn a_window_of_one_byte_is_told_the_vmm_with_what_its_guest_lacks() {
    use parking_lot::Mutex;
    use spapr_iommu::guest::RtasCall;
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (log, fixture) = (Log::default(), Fixture::new("powernv9-64k"));
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let create = |window| {
        let pe = [0, (BUID >> 32) as u32, BUID as u32, 16, window];
        fixture.iommu.rtas(RtasCall::CreatePeDmaWindow, &pe, &mut [0; 4])
    };
    tracing::subscriber::with_default(subscriber, || {
        create(63).unwrap_err();
        assert_eq!(log.0.lock().len(), 0);
        create(0).unwrap_err();
    });
    let text = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(text.contains("WARN") && text.contains("ibm,lrdr-capacity"), "{text}");
    fixture.ends_clean();
}
