//! The library on the same kernel. It reaches no trap, and leaves nothing behind.

use crate::fixture::Ground;
use spapr_iommu::addr::UserRange;
use spapr_iommu::host::Host;
use spapr_iommu::model::Violation;
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
use spapr_iommu_tests::by_address::ByAddress;
use std::sync::Arc;

/// Leases that came of it go before it does.
pub(crate) struct Library<'g> {
    // Dropped in this order.
    pub(crate) space: AddressSpace,
    pub(crate) registry: Registry,
    before: Before<'g>,
}

/// What there was before the library began; dropped, it looks whether that is all there is now.
struct Before<'g> {
    ground: &'g Ground,
    violations: Vec<Violation>,
    locked: i64,
}

impl<'g> Library<'g> {
    pub(crate) fn new(ground: &'g Ground) -> Self {
        Self::on(ground, ground.kernel.clone())
    }

    pub(crate) fn on(ground: &'g Ground, host: Arc<dyn Host>) -> Self {
        let before = Before { ground, violations: ground.violations(), locked: ground.locked() };
        let registry = Registry::new(host);
        ground.kernel.take();
        Self { space: AddressSpace::new(&registry), registry, before }
    }

    /// Memory that is registered as long as the lease lives.
    pub(crate) fn leased(&self, size: u64) -> (UserRange, Lease) {
        let range = self.before.ground.memory(size);
        let lease = self.registry.lease(range).unwrap();
        (range, lease)
    }

    /// Names of the calls that the kernel saw since the last time, or since the library began.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.before.ground.kernel.take().iter().map(|record| record.call.name()).collect()
    }
}

impl Drop for Before<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.ground.violations(), self.violations, "the library reached a trap");
            assert_eq!(self.ground.locked(), self.locked, "locked bytes that the library left behind");
        }
    }
}
