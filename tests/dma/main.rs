//! Memory for devices on the model: what drivers get, which calls the kernel gets, and that nothing
//! is left. Each test has a model whose calls are counted, and memory for its devices.

mod buffers;
mod errors;
mod files;
mod streams;
mod threads;
mod windows;
mod wrong;
mod zero_copy;

use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::dma::{Dma, DmaConfig, DmaMask};
use spapr_iommu::model::{Model, Recording};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use std::sync::Arc;

pub(crate) const RW: Permission = Permission::ReadWrite;
/// Start of the dynamic window.
pub(crate) const BIG: u64 = 1 << 59;
pub(crate) const FIRST: &str = "0000:00:00.0";
pub(crate) const SECOND: &str = "0001:00:00.0";
/// Machines with both page sizes and both platforms.
pub(crate) const PRESETS: [&str; 5] =
    ["powernv9-4k", "powernv9-64k", "pseries-4k", "pseries-64k", "pseries-pgsz=0x11000-64k"];

pub(crate) struct Fixture {
    pub(crate) model: Arc<Model>,
    pub(crate) calls: Arc<Recording<Arc<Model>>>,
    pub(crate) dma: Dma,
}

impl Fixture {
    /// Without hugetlb pages.
    pub(crate) fn new(preset: &str) -> Self {
        Self::with(preset, DmaConfig::default(), |model| model.with_free_huge_pages(0))
    }

    pub(crate) fn with(preset: &str, config: DmaConfig, set_up: impl FnOnce(Model) -> Model) -> Self {
        let model = Arc::new(set_up(Model::new(preset.parse().unwrap()).panic_on_violation()));
        let calls = Arc::new(Recording::new(Arc::clone(&model)));
        let registry = Registry::new(calls.clone());
        Self { model, calls, dma: Dma::with_registry(&registry, config) }
    }

    /// Returns what a device in the first container reads.
    pub(crate) fn device_reads(&self, at: Iova, len: usize) -> Vec<u8> {
        let mut data = vec![0xee; len];
        self.model.device_read(self.model.containers()[0], at, &mut data);
        data
    }

    /// Returns the calls since the last time.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.calls.take().iter().map(|record| record.call.name()).collect()
    }

    /// Drops everything and checks that nothing is left.
    #[track_caller]
    pub(crate) fn ends_clean(self) {
        let Self { model, calls, dma } = self;
        assert_eq!(dma.space().mapped(), (0, 0));
        drop((dma, calls));
        assert_eq!(model.locked(), 0, "locked memory");
        assert_eq!(model.regions(), []);
        assert_eq!(model.leaks(), []);
        model.exit();
        assert_eq!(model.violations(), []);
    }
}

pub(crate) fn bits(bits: u32) -> DmaMask {
    DmaMask::bits(bits).unwrap()
}

/// Returns whether no two of them overlap.
pub(crate) fn apart(ranges: &[IovaRange]) -> bool {
    let overlap = |(i, a): (usize, &IovaRange)| ranges[i + 1..].iter().any(|b| a.intersection(b).is_some());
    !ranges.iter().enumerate().any(overlap)
}
