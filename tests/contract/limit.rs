//! A limit of locked memory, on the kernel or on the model.

use crate::fixture::Fixture;
use spapr_iommu::host::Host;
use spapr_iommu_tests::limit::RealLimit;

/// Holds until it is dropped.
pub(crate) struct Limit<'g> {
    fixture: &'g Fixture,
    _real: Option<RealLimit>,
}

impl<'g> Limit<'g> {
    /// Lets `room` bytes more be locked than are now.
    pub(crate) fn new(fixture: &'g Fixture, room: u64) -> Self {
        let most = fixture.kernel.memlock().unwrap().locked + room;
        fixture.on_model(|model| model.set_memlock(Some(most), false));
        let real = (!fixture.is_model()).then(|| RealLimit::new(most).unwrap());
        Self { fixture, _real: real }
    }
}

impl Drop for Limit<'_> {
    fn drop(&mut self) {
        self.fixture.on_model(|model| model.set_memlock(None, true));
    }
}
