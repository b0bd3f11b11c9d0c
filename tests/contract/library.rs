//! The library on the same kernel. It reaches no trap, and leaves nothing behind.

use crate::fixture::Fixture;
use spapr_iommu::addr::UserRange;
use spapr_iommu::host::Host;
use spapr_iommu::model::Violation;
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
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
    fixture: &'g Fixture,
    violations: Vec<Violation>,
    locked: i64,
}

impl<'g> Library<'g> {
    pub(crate) fn new(fixture: &'g Fixture) -> Self {
        Self::on(fixture, fixture.kernel.clone())
    }

    pub(crate) fn on(fixture: &'g Fixture, host: Arc<dyn Host>) -> Self {
        let before = Before { fixture, violations: fixture.violations(), locked: fixture.locked() };
        let registry = Registry::new(host);
        fixture.kernel.take();
        Self { space: AddressSpace::new(&registry), registry, before }
    }

    /// Memory that is registered as long as the lease lives.
    pub(crate) fn leased(&self, size: u64) -> (UserRange, Lease) {
        let range = self.before.fixture.memory(size);
        let lease = self.registry.register(range).unwrap();
        (range, lease)
    }

    /// Names of the calls that the kernel saw since the last time, or since the library began.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.before.fixture.kernel.take().iter().map(|record| record.call.name()).collect()
    }
}

impl Drop for Before<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.fixture.violations(), self.violations, "the library reached a trap");
            assert_eq!(self.fixture.locked(), self.locked, "locked bytes that the library left behind");
        }
    }
}
