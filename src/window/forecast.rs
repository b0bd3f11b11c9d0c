//! Plans for an address space that does not exist yet, from the facts of a host.

use super::{DefaultWindow, Plan, PlanError, PlanInput, WindowFacts, WindowRequest, plan, plan_removal};
use crate::host::Memlock;

/// An address space before it exists: plans its windows without a host, for any number of
/// containers. Each plan is the one an [`AddressSpace`] with as many groups makes.
///
/// ```
/// use spapr_iommu::PageShift;
/// use spapr_iommu::host::Platform;
/// use spapr_iommu::window::{Forecast, WindowFacts, WindowRequest};
///
/// let facts = WindowFacts {
///     platform: Platform::Pseries,
///     host_page: PageShift::P64K,
///     default: None,
///     pages: 0x11000,
///     windows: Some(2),
/// };
/// let plan = Forecast::new(facts, 2).plan(&WindowRequest::bytes(16 << 30))?;
/// // 8 bytes for each page of 64 KiB, in two containers.
/// assert_eq!(plan.locked_bytes, 2 * 8 * (16 << 30) / (64 << 10));
/// # Ok::<(), spapr_iommu::window::PlanError>(())
/// ```
///
/// [`AddressSpace`]: crate::space::AddressSpace
#[derive(Clone, Debug)]
pub struct Forecast(PlanInput);

impl Forecast {
    /// Starts with the default window pending in each container, without limits of memory.
    pub fn new(facts: WindowFacts, containers: u32) -> Self {
        Self(PlanInput {
            facts,
            default: DefaultWindow::Pending,
            default_pending: containers,
            default_reserved: false,
            live: Vec::new(),
            containers,
            memlock: Memlock { limit: None, locked: 0, unlimited: true },
            promised: 0,
            available: None,
        })
    }

    /// Sets the available memory of the machine, in bytes: pseries allocates a table whole.
    pub fn with_available_memory(mut self, bytes: Option<u64>) -> Self {
        self.0.available = bytes;
        self
    }

    /// Keeps the default window, as [`AddressSpace::reserve`](crate::space::AddressSpace::reserve)
    /// does.
    pub fn with_default_window_reserved(mut self) -> Self {
        self.0.default_reserved = true;
        self
    }

    /// Plans a window, as [`AddressSpace::plan`](crate::space::AddressSpace::plan) does.
    pub fn plan(&self, request: &WindowRequest) -> Result<Plan, PlanError> {
        plan(&self.0, request)
    }

    /// Plans the removal of the default window, and returns the state after it; `None` if there is
    /// none.
    pub fn drop_default_window(&self) -> Result<Option<(Plan, Self)>, PlanError> {
        let default = self.0.facts.default.filter(|_| self.0.default != DefaultWindow::Gone);
        let Some(start) = default.map(|range| range.start()) else { return Ok(None) };
        Ok(Some((plan_removal(&self.0, start)?, Self(self.0.without(start)))))
    }

    /// Returns the state after a plan was carried out and its window used.
    pub fn after(&self, plan: &Plan) -> Self {
        Self(self.0.after(plan))
    }

    /// Returns the bytes of locked memory charged so far, over all containers.
    pub fn locked_bytes(&self) -> u64 {
        self.0.memlock.locked
    }
}
