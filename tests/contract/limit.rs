//! A limit of locked memory, on the kernel or on the model.

use crate::fixture::Ground;
use spapr_iommu::host::Host;
use spapr_iommu_tests::limit::RealLimit;

/// Holds until it is dropped.
pub(crate) struct Limit<'g> {
    ground: &'g Ground,
    _real: Option<RealLimit>,
}

impl<'g> Limit<'g> {
    /// Lets `room` bytes more be locked than are now.
    pub(crate) fn new(ground: &'g Ground, room: u64) -> Self {
        let most = ground.kernel.memlock().unwrap().locked + room;
        ground.on_model(|model| model.set_memlock(Some(most), false));
        let real = (!ground.is_model()).then(|| RealLimit::new(most).unwrap());
        Self { ground, _real: real }
    }
}

impl Drop for Limit<'_> {
    fn drop(&mut self) {
        self.ground.on_model(|model| model.set_memlock(None, true));
    }
}
