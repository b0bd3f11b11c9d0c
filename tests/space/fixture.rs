//! A model with a registry and a space over it, and a check that the three agree.

use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use spapr_iommu::host::{Host, Memory, Platform};
use spapr_iommu::map::IntervalMap;
use spapr_iommu::model::{Model, Preset, TableView};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::window::{Origin, Window};
use std::sync::Arc;

pub(crate) const RW: Permission = Permission::ReadWrite;
/// Start of powernv's second window, and of the dynamic one of QEMU's firmware.
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

pub(crate) struct Fixture {
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

impl Fixture {
    /// Creates one with group 0 attached.
    pub(crate) fn new(preset: &str) -> Self {
        let fixture = Self::with(Model::new(preset.parse::<Preset>().unwrap()));
        fixture.space.attach(Group(0)).unwrap();
        fixture
    }

    /// Creates one with nothing attached.
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

    /// Checks that every container has the windows that the space reports, that its tables hold
    /// exactly the space's mappings, entry by entry, and that no trap was met.
    #[track_caller]
    pub(crate) fn agrees(&self) {
        self.agrees_beside(&[]);
    }

    /// Checks the same while other spaces have one container each, all opened earlier.
    #[track_caller]
    pub(crate) fn agrees_beside(&self, others: &[&AddressSpace]) {
        assert_eq!(self.model.violations(), []);
        let powernv = Host::platform(self.model.as_ref()) == Some(Platform::Powernv);
        let seen = |permission| if powernv && permission == Permission::Write { RW } else { permission };
        for (at, container) in self.model.containers().into_iter().enumerate() {
            let space = others.get(at).copied().unwrap_or(&self.space);
            let expected = joined(space.mappings().iter().map(|m| (m.iova, m.user, seen(m.permission))));
            let tables = self.model.tables(container);
            let entries =
                tables.iter().flat_map(|table| &table.entries).map(|entry| (entry.iova, entry.user, entry.permission));
            assert_eq!(joined(entries), expected, "tables of {container}");
            let windows: Vec<_> = space.status().windows.into_iter().map(|(window, _)| window).collect();
            let (default, dynamic): (Vec<_>, Vec<_>) =
                windows.into_iter().partition(|window: &Window| window.origin == Origin::Default);
            let is_default = |table: &&TableView| default.iter().any(|window| window.range == table.range);
            let mut there: Vec<_> =
                tables.iter().filter(|table| !is_default(table)).map(|t| (t.range, t.page)).collect();
            let mut listed: Vec<_> = dynamic.iter().map(|window| (window.range, window.page)).collect();
            // The default window may still be pending where a container joined late.
            there.sort_unstable();
            listed.sort_unstable();
            assert_eq!(there, listed, "windows of {container}");
        }
        let mapped: u64 = self.registry.regions().iter().map(|region| region.mapped).sum();
        assert_eq!(mapped, others.iter().map(|space| space.mapped().1).sum::<u64>() + self.space.mapped().1);
    }

    /// Drops everything and checks that nothing is left.
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

/// Returns them in order, with neighbours joined that continue each other, whatever their regions.
fn joined(mappings: impl Iterator<Item = (IovaRange, UserAddr, Permission)>) -> Vec<(IovaRange, u64, Permission)> {
    let mut map = IntervalMap::new();
    for (iova, user, permission) in mappings {
        map.insert(spapr_iommu::map::Mapping { iova, user, permission, region: () }).unwrap();
    }
    map.iter().map(|m| (m.iova, m.user.0, m.permission)).collect()
}
