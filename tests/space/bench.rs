//! A model with a registry and a space over it, and the question whether all three agree.

use spapr_iommu::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use spapr_iommu::host::Memory;
use spapr_iommu::host::model::{Model, Preset};
use spapr_iommu::map::IntervalMap;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use std::sync::Arc;

pub(crate) const RW: Permission = Permission::ReadWrite;
/// Where powernv puts the second window, and QEMU's firmware the dynamic one.
pub(crate) const BIG: u64 = 1 << 59;

pub(crate) const PRESETS: [&str; 10] = [
    "powernv8-64k",
    "powernv9-4k",
    "powernv9-64k",
    "powernv10-64k",
    "powernv9-64k-7.2",
    "pseries-4k",
    "pseries-64k",
    "pseries-64k-7.2",
    "powernv8-4k",
    "powernv10-4k-7.2",
];

pub(crate) struct Bench {
    pub(crate) model: Arc<Model>,
    pub(crate) registry: Registry,
    pub(crate) space: AddressSpace,
}

pub(crate) fn iova(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

pub(crate) fn at(range: UserRange, offset: u64) -> UserAddr {
    UserAddr(range.start().0 + offset)
}

pub(crate) fn part(range: UserRange, offset: u64, len: u64) -> UserRange {
    UserRange::new(at(range, offset), len).unwrap()
}

impl Bench {
    /// With group 0 attached.
    pub(crate) fn new(preset: &str) -> Self {
        let bench = Self::with(Model::new(preset.parse::<Preset>().unwrap()));
        bench.space.attach(0).unwrap();
        bench
    }

    /// With nothing attached.
    pub(crate) fn with(model: Model) -> Self {
        let model = Arc::new(model);
        let registry = Registry::new(model.clone());
        let space = AddressSpace::new(&registry);
        Self { model, registry, space }
    }

    pub(crate) fn allocate(&self, size: u64) -> UserRange {
        let page = spapr_iommu::host::Host::page_shift(self.model.as_ref());
        self.model.allocate(size, page).unwrap()
    }

    pub(crate) fn allocate_huge(&self, size: u64, page: PageShift) -> UserRange {
        self.model.allocate(size, page).unwrap()
    }

    /// The tables of every container hold just what the space says, entry by entry, and no trap was met.
    #[track_caller]
    pub(crate) fn agrees(&self) {
        assert_eq!(self.model.violations(), []);
        let expected = joined(self.space.mappings().iter().map(|m| (m.iova, m.user)));
        for container in self.model.containers() {
            let tables = self.model.tables(container);
            let entries = tables.iter().flat_map(|table| &table.entries).map(|entry| (entry.iova, entry.user));
            assert_eq!(joined(entries), expected, "tables of {container}");
        }
        let mapped: u64 = self.registry.regions().iter().map(|region| region.mapped).sum();
        assert_eq!(mapped, self.space.mapped().1);
    }

    /// Drops everything; nothing is left behind.
    #[track_caller]
    pub(crate) fn ends_clean(self) {
        let Self { model, registry, space } = self;
        drop(space);
        drop(registry);
        assert_eq!(model.locked(), 0, "locked memory");
        assert_eq!(model.regions(), []);
        assert_eq!(model.leaks(), []);
        model.exit();
        assert_eq!(model.violations(), []);
    }
}

/// In order, neighbours that continue each other joined: regions and permissions aside.
fn joined(mappings: impl Iterator<Item = (IovaRange, UserAddr)>) -> Vec<(u64, u64, u64)> {
    let mut map = IntervalMap::new();
    for (iova, user) in mappings {
        map.insert(spapr_iommu::map::Mapping { iova, user, permission: RW, region: () }).unwrap();
    }
    map.iter().map(|m| (m.iova.start().0, m.iova.len(), m.user.0)).collect()
}
