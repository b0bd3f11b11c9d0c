//! A guest with RAM and one PHB on a model, and a check that its table, the space and the hardware
//! agree.

use crate::by_address::PlugByAddress;
use crate::space_model::twin::{Stretch, joined};
use spapr_iommu::addr::{GuestAddr, GuestRange, Iova, IovaRange, PageShift, UserAddr};
use spapr_iommu::guest::{GuestIommu, GuestMemory, Liobn, Phb, PhbConfig, Slot, Slots, TceTable};
use spapr_iommu::host::{Fd, Host, Memory, Platform};
use spapr_iommu::model::{Model, Recording};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use std::sync::Arc;

pub const LIOBN: Liobn = Liobn(0x8000_0000);
pub const DYNAMIC: Liobn = Liobn(0x8000_0001);
pub const BUID: u64 = 0x0800_0000_2000_0000;
/// Start of the dynamic window.
pub const BIG: u64 = 1 << 59;
pub const RAM: u64 = 64 << 20;
/// Guest address of lists.
pub const LIST: u64 = 0x10_0000;

pub const PRESETS: [&str; 5] = ["powernv8-64k", "powernv9-64k", "powernv9-4k-7.2", "pseries-64k", "pseries-4k"];

pub struct Fixture {
    /// The host the library runs on, which records its calls.
    pub host: Arc<Recording<Arc<Model>>>,
    pub model: Arc<Model>,
    pub registry: Registry,
    pub slots: Arc<Slots>,
    pub iommu: GuestIommu,
    pub phb: Arc<Phb>,
}

pub fn guest(start: u64, len: u64) -> GuestRange {
    GuestRange::new(GuestAddr(start), len).unwrap()
}

impl Fixture {
    /// Creates a guest with 64 MiB of RAM at 0 and nothing attached.
    pub fn new(preset: &str) -> Self {
        let fixture = Self::bare(preset);
        fixture.plug(0, RAM);
        fixture
    }

    /// Creates a guest without RAM.
    pub fn bare(preset: &str) -> Self {
        Self::over(Model::new(preset.parse().unwrap()), PhbConfig::new(BUID, LIOBN).unwrap())
    }

    /// Creates a guest on that machine, with that PHB, without RAM.
    pub fn over(model: Model, config: PhbConfig) -> Self {
        let model = Arc::new(model);
        let host = Arc::new(Recording::new(Arc::clone(&model)));
        let registry = Registry::new(host.clone());
        let slots = Arc::new(Slots::new());
        let iommu = GuestIommu::new(&registry, slots.clone());
        let phb = iommu.add_phb(config).unwrap();
        Self { host, model, registry, slots, iommu, phb }
    }

    /// Plugs memory and returns its user address.
    pub fn plug(&self, start: u64, len: u64) -> UserAddr {
        let user = self.model.allocate(len, Host::page_shift(self.model.as_ref())).unwrap().start();
        self.slots.plug(Slot { guest: guest(start, len), user }, self.model.clone()).unwrap();
        self.iommu.add_memory().unwrap();
        user
    }

    /// Writes a list of TCEs into guest memory.
    pub fn list(&self, tces: &[u64]) {
        let bytes: Vec<u8> = tces.iter().flat_map(|tce| tce.to_be_bytes()).collect();
        self.slots.write(GuestAddr(LIST), &bytes).unwrap();
    }

    /// Makes H_PUT_TCE_INDIRECT of `tces` at `ioba`.
    pub fn put(&self, liobn: Liobn, ioba: u64, tces: &[u64]) {
        for (chunk, number) in tces.chunks(512).zip(0..) {
            self.list(chunk);
            let page = self.iommu.table(liobn).unwrap().page();
            let ioba = ioba + ((number * 512) << page.get());
            self.iommu.h_put_tce_indirect(liobn, ioba, LIST, chunk.len() as u64).unwrap();
        }
    }

    /// Returns the number of MAP and UNMAP calls since the last time.
    pub fn calls(&self) -> (usize, usize) {
        let records = self.host.take();
        let count = |name| records.iter().filter(|record| record.call.name() == name).count();
        (count("VFIO_IOMMU_MAP_DMA"), count("VFIO_IOMMU_UNMAP_DMA"))
    }

    /// Returns where a table leads in user memory: each page, in one part per slot.
    fn leads(&self, table: &TceTable) -> Vec<Stretch> {
        let slots = self.slots.slots();
        let mut found = Vec::new();
        table.each(&mut |index, tce| {
            let Some(permission) = Permission::from_bits((tce & 3) as u32) else { return };
            let page = guest(tce & !3, table.page().bytes());
            let iova = table.window().start().0 + (index << table.page().get());
            let parts = slots.iter().filter_map(|slot| Some((slot, slot.guest.intersection(&page)?)));
            let before = found.len();
            found.extend(parts.map(|(slot, part)| {
                let (iova, user) = (part.start().0 - page.start().0 + iova, part.start().0 - slot.guest.start().0);
                (iova, part.len(), user + slot.user.0, permission)
            }));
            let there: u64 = found[before..].iter().map(|part| part.1).sum();
            assert_eq!(there, page.len(), "TCE {tce:#x} leads to RAM");
        });
        found
    }

    /// Checks that the tables of every container hold exactly what the guest's tables say, and that
    /// no trap was met.
    #[track_caller]
    pub fn agrees(&self) {
        assert_eq!(self.model.violations(), []);
        let powernv = Host::platform(self.model.as_ref()) == Some(Platform::Powernv);
        let seen = |(iova, len, user, permission)| match permission {
            Permission::Write if powernv => (iova, len, user, Permission::ReadWrite),
            _ => (iova, len, user, permission),
        };
        let mut open = self.model.containers();
        for phb in self.iommu.phbs() {
            let groups = phb.space().status().groups;
            let expected = joined(phb.tables().iter().flat_map(|table| self.leads(table)).map(seen));
            let its = |fd: &Fd| self.model.groups_in(*fd).iter().any(|group| groups.iter().any(|g| g.group == *group));
            let (of, others) = open.into_iter().partition(its);
            open = others;
            for container in of {
                let tables = self.model.tables(container);
                let entries = tables.iter().flat_map(|table| &table.entries);
                let entries = joined(entries.map(|e| (e.iova.start().0, e.iova.len(), e.user.0, e.permission)));
                assert_eq!(entries, expected, "tables of {container}");
            }
        }
        assert_eq!(open, [], "containers of no PHB");
    }

    /// Drops everything and checks that nothing is left.
    #[track_caller]
    pub fn ends_clean(self) {
        let Self { model, registry, iommu, phb, host, slots } = self;
        drop((phb, iommu, registry, host, slots));
        assert_eq!(model.locked(), 0, "locked memory");
        assert_eq!(model.regions(), []);
        assert_eq!(model.leaks(), []);
        model.exit();
        assert_eq!(model.violations(), []);
    }
}

pub fn iova(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

/// Returns TCEs with all rights for consecutive pages.
pub fn tces(first: u64, count: u64, page: PageShift) -> Vec<u64> {
    (0..count).map(|n| (first + (n << page.get())) | 3).collect()
}
