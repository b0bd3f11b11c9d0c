//! Under KVM: the kernel keeps the tables and maps by itself. Both are models here; what the kernel
//! does for a guest's call bypasses the library.

use spapr_iommu::Group;
use spapr_iommu::addr::{GuestAddr, Iova, IovaRange, PageShift, UserAddr};
use spapr_iommu::guest::{GuestIommu, Liobn, Phb, PhbConfig, RemoveMemoryError, Slot, Slots};
use spapr_iommu::host::{Host, Memory, calls};
use spapr_iommu::kvm::Acceleration;
use spapr_iommu::kvm::model::KvmModel;
use spapr_iommu::model::Model;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu_tests::by_address;
use spapr_iommu_tests::by_address::PlugByAddress;
use spapr_iommu_tests::guest_fixture::{BIG, BUID, DYNAMIC, LIOBN, PRESETS, RAM, guest};
use std::sync::Arc;

struct Vm {
    model: Arc<Model>,
    kvm: KvmModel,
    user: UserAddr,
    slots: Arc<Slots>,
    iommu: GuestIommu,
    phb: Arc<Phb>,
}

impl Vm {
    fn new(preset: &str) -> Self {
        let model = Arc::new(Model::new(preset.parse().unwrap()));
        let kvm = KvmModel::new();
        let range = |start, len| IovaRange::new(Iova(start), len).unwrap();
        for group in 0..2 {
            kvm.set_windows(
                Group(group),
                &[(range(0, 2 << 30), PageShift::P4K), (range(BIG, 1 << 32), PageShift::P4K)],
            );
        }
        let slots = Arc::new(Slots::new());
        let user = model.allocate(RAM, Host::page_shift(model.as_ref())).unwrap().start();
        slots.plug(Slot { guest: guest(0, RAM), user }, model.clone()).unwrap();
        let acceleration = Acceleration::new(Arc::new(kvm.clone())).unwrap();
        let iommu = GuestIommu::accelerated(&Registry::new(model.clone()), slots.clone(), acceleration);
        iommu.add_memory().unwrap();
        let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
        kvm.take_log();
        Self { model, kvm, user, slots, iommu, phb }
    }

    /// Does what the kernel does for H_PUT_TCE, of a page in RAM or of a TCE without permissions.
    fn kernel_puts(&self, liobn: Liobn, ioba: u64, tce: u64) {
        let table = self.iommu.table(liobn).unwrap();
        let page = table.page();
        let index = (ioba - table.window().start().0) >> page.get();
        self.kvm.table(liobn).unwrap().store(index, tce);
        let iova = IovaRange::new(Iova(ioba), page.bytes()).unwrap();
        for container in self.model.containers() {
            match Permission::from_bits((tce & 3) as u32) {
                Some(rights) => {
                    let user = UserAddr(self.user.0 + (tce & !3));
                    by_address::map_dma(self.model.as_ref(), container, user, iova, rights).unwrap();
                }
                None => calls::unmap_dma(self.model.as_ref(), container, iova).unwrap(),
            }
        }
    }

    /// Returns where a device gets, in every container.
    fn device(&self, iova: u64) -> Vec<Option<u64>> {
        let found = |container| {
            let tables = self.model.tables(container);
            let entry = tables.iter().flat_map(|table| &table.entries).find(|entry| entry.iova.contains(Iova(iova)))?;
            Some(entry.user.0 + (iova - entry.iova.start().0) - self.user.0)
        };
        self.model.containers().into_iter().map(found).collect()
    }

    #[track_caller]
    fn ends_clean(self) {
        let Self { model, kvm, iommu, phb, slots, .. } = self;
        drop((phb, iommu, slots));
        assert_eq!((kvm.groups(), kvm.attached_tables()), (vec![], vec![]));
        assert!(kvm.table(LIOBN).is_none());
        assert_eq!(model.locked(), 0);
        assert_eq!(model.regions(), []);
        model.exit();
        assert_eq!(model.violations(), []);
    }
}

#[test]
fn the_kernel_keeps_tables_and_a_group_is_attached_to_them_in_the_order_that_works() {
    for preset in PRESETS {
        let vm = Vm::new(preset);
        assert!(vm.iommu.table(LIOBN).unwrap().is_in_kernel());
        vm.iommu.h_put_tce(LIOBN, 0x1000, 0x5003).unwrap();
        vm.phb.attach(Group(0)).unwrap();
        // Before its devices are opened, while the default window exists.
        assert_eq!(vm.kvm.take_log(), ["add 0", "attach 0 to 0x80000000"]);
        assert_eq!(vm.device(0x1000), [Some(0x5000)]);
        vm.phb.create_window(16, 30).unwrap();
        assert_eq!(vm.kvm.take_log(), ["create 0x80000001", "attach 0 to 0x80000001"]);
        vm.phb.remove_window(DYNAMIC).unwrap();
        assert_eq!(vm.kvm.take_log(), ["close 0x80000001"]);
        vm.phb.detach(Group(0)).unwrap();
        assert_eq!(vm.kvm.take_log(), ["delete 0"]);
        assert_eq!(vm.iommu.h_get_tce(LIOBN, 0x1000), Ok(0x5003));
        vm.ends_clean();
    }
}

#[test]
fn a_group_that_joins_sees_what_the_kernel_mapped_before() {
    for preset in PRESETS {
        let vm = Vm::new(preset);
        vm.phb.attach(Group(0)).unwrap();
        vm.phb.create_window(16, 30).unwrap();
        vm.kernel_puts(LIOBN, 0x3000, 0x7003);
        vm.kernel_puts(DYNAMIC, BIG + 0x10000, 0x2_0003);
        vm.phb.attach(Group(1)).unwrap();
        assert_eq!(vm.kvm.attached_tables().len(), 4);
        assert_eq!(vm.device(0x3000), [Some(0x7000); 2]);
        assert_eq!(vm.device(BIG + 0x10000), [Some(0x2_0000); 2]);
        // The first device leaves, and the kernel goes on for the other.
        vm.phb.detach(Group(0)).unwrap();
        vm.kernel_puts(LIOBN, 0x3000, 0);
        assert_eq!(vm.device(0x3000), [None]);
        vm.ends_clean();
    }
}

#[test]
fn what_comes_to_the_vmm_all_the_same_is_done_over_what_the_kernel_did() {
    for preset in PRESETS {
        let vm = Vm::new(preset);
        vm.phb.attach(Group(0)).unwrap();
        for page in 0..8 {
            vm.kernel_puts(LIOBN, page << 12, 0x10_0003 + (page << 12));
        }
        vm.iommu.h_put_tce(LIOBN, 0x2000, 0x20_0003).unwrap();
        assert_eq!(vm.device(0x2000), [Some(0x20_0000)]);
        vm.iommu.h_stuff_tce(LIOBN, 0x4000, 0, 2).unwrap();
        assert_eq!((vm.device(0x4000), vm.device(0x6000)), (vec![None], vec![Some(0x10_6000)]));
        assert_eq!(vm.kvm.table(LIOBN).unwrap().load(4), 0);
        vm.ends_clean();
    }
}

#[test]
fn memory_that_the_kernel_mapped_stays_until_the_guest_lets_go() {
    for preset in PRESETS {
        let vm = Vm::new(preset);
        vm.phb.attach(Group(0)).unwrap();
        vm.phb.attach(Group(1)).unwrap();
        vm.kernel_puts(LIOBN, 0x8000, 0x3003);
        assert!(matches!(vm.iommu.remove_memory(guest(0, RAM)), Err(RemoveMemoryError::Mapped { .. })));
        vm.iommu.keep_memory(guest(0, RAM)).unwrap();
        vm.kernel_puts(LIOBN, 0x9000, 0x4003);
        vm.kernel_puts(LIOBN, 0x8000, 0);
        vm.kernel_puts(LIOBN, 0x9000, 0);
        // A map by the library that the kernel undid.
        vm.iommu.h_put_tce(LIOBN, 0xa000, 0x5003).unwrap();
        vm.kernel_puts(LIOBN, 0xa000, 0);
        vm.iommu.remove_memory(guest(0, RAM)).unwrap();
        vm.slots.remove(GuestAddr(0)).unwrap();
        assert_eq!(vm.model.regions(), []);
        vm.ends_clean();
    }
}

#[test]
fn a_window_or_a_reset_takes_along_what_the_kernel_mapped() {
    for preset in PRESETS {
        let vm = Vm::new(preset);
        vm.phb.attach(Group(0)).unwrap();
        vm.phb.create_window(16, 30).unwrap();
        vm.kernel_puts(DYNAMIC, BIG, 0x1_0003);
        vm.kernel_puts(LIOBN, 0x1000, 0x2003);
        vm.phb.reset_windows().unwrap();
        assert_eq!((vm.device(BIG), vm.device(0x1000)), (vec![None], vec![None]));
        assert_eq!(vm.iommu.h_get_tce(LIOBN, 0x1000), Ok(0));
        vm.kernel_puts(LIOBN, 0x1000, 0x2003);
        vm.phb.remove_window(LIOBN).unwrap();
        assert_eq!(vm.device(0x1000), [None]);
        vm.ends_clean();
    }
}

#[test]
fn a_table_the_kernel_cannot_keep_is_the_librarys() {
    let vm = Vm::new("powernv9-64k");
    vm.phb.attach(Group(0)).unwrap();
    vm.kvm.limit(16);
    vm.phb.create_window(16, 30).unwrap();
    assert!(!vm.iommu.table(DYNAMIC).unwrap().is_in_kernel());
    vm.iommu.h_put_tce(DYNAMIC, BIG, 0x1_0003).unwrap();
    assert_eq!(vm.device(BIG), [Some(0x1_0000)]);
    vm.ends_clean();
}

#[test]
fn tables_that_are_restored_are_the_kernels_with_all_they_had() {
    let source = Vm::new("powernv9-64k");
    source.phb.attach(Group(0)).unwrap();
    for page in 0..3 {
        source.kernel_puts(LIOBN, page << 12, (0x10_0000 + (page << 12)) | 3);
    }
    let saved = source.iommu.save();
    let target = Vm::new("powernv9-64k");
    target.iommu.h_put_tce(LIOBN, 0x9000, 0x5003).unwrap();
    target.iommu.restore(&saved).unwrap();
    let table = target.kvm.table(LIOBN).unwrap();
    assert_eq!([0, 1, 2, 9].map(|index| table.load(index)), [0x10_0003, 0x10_1003, 0x10_2003, 0]);
    assert_eq!(target.iommu.save(), saved);
    target.phb.attach(Group(0)).unwrap();
    assert_eq!([0x1000, 0x9000].map(|at| target.device(at)), [vec![Some(0x10_1000)], vec![None]]);
    source.ends_clean();
    target.ends_clean();
}

#[test]
fn what_the_kernel_mapped_is_counted_before_the_library_maps_over_it() {
    let vm = Vm::new("powernv9-64k");
    vm.phb.attach(Group(0)).unwrap();
    vm.kernel_puts(LIOBN, 0x1000, 0x10_0003);
    // An H_PUT_TCE that the kernel passed on.
    vm.iommu.h_put_tce(LIOBN, 0x1000, 0x20_0003).unwrap();
    assert_eq!(vm.device(0x1000), [Some(0x20_0000)]);
    assert_eq!(vm.phb.space().mapped().1, 0x1000);
    vm.kernel_puts(LIOBN, 0x2000, 0x30_0003);
    vm.iommu.h_put_tce(LIOBN, 0x2000, 0).unwrap();
    assert_eq!((vm.device(0x2000), vm.phb.space().mapped().1), (vec![None], 0x1000));
    vm.ends_clean();
}
