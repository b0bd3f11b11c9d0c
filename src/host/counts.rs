//! Counts of kernel calls, by the call's name.
//!
//! They belong to the process, as the kernel's state does. A program reads them at any time,
//! without a lock.

use super::Call;
use crate::stats::Counter;

/// Counts of one call.
pub(super) struct Counts {
    name: &'static str,
    calls: Counter,
    failed: Counter,
}

impl Counts {
    const fn new(name: &'static str) -> Self {
        Self { name, calls: Counter::new(), failed: Counter::new() }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn count(&self, failed: bool) {
        self.calls.add(1);
        if failed {
            self.failed.add(1);
        }
    }
}

/// How often this process has made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallCount {
    /// The call's name in the kernel's headers.
    pub name: &'static str,
    /// Number of calls.
    pub calls: u64,
    /// Number of those that returned an error number. A few calls also fail with a positive result,
    /// which is not counted here.
    pub failed: u64,
}

/// Returns how often this process has made each call, on all hosts, models included, in a fixed
/// order. Calls that were never made are left out.
///
/// ```
/// use spapr_iommu::host::call_counts;
/// use spapr_iommu::{AddressSpace, Group, Registry, model::Model};
/// # use std::sync::Arc;
///
/// let space = AddressSpace::new(&Registry::new(Arc::new(Model::new("pseries-64k".parse()?))));
/// space.attach(Group(0))?;
/// let set_iommu = call_counts().find(|count| count.name == "VFIO_SET_IOMMU").unwrap();
/// assert_eq!((set_iommu.calls, set_iommu.failed), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn call_counts() -> impl Iterator<Item = CallCount> {
    let count =
        |counts: &Counts| CallCount { name: counts.name, calls: counts.calls.get(), failed: counts.failed.get() };
    ALL.iter().chain([&SET_IRQS]).map(count).filter(|count| count.calls != 0)
}

/// `VFIO_DEVICE_SET_IRQS`, which is not a [`Call`].
pub(super) static SET_IRQS: Counts = Counts::new("VFIO_DEVICE_SET_IRQS");

/// Gives each call its name and its counts.
macro_rules! calls {
    ($($call:ident $name:literal,)+) => {
        enum Number { $($call,)+ }

        static ALL: [Counts; [$($name),+].len()] = [$(Counts::new($name),)+];

        /// Returns the counts of a call.
        pub(super) fn of(call: &Call) -> &'static Counts {
            let number = match call {
                $(Call::$call { .. } => Number::$call,)+
            };
            &ALL[number as usize]
        }
    };
}

calls! {
    GetApiVersion "VFIO_GET_API_VERSION",
    CheckExtension "VFIO_CHECK_EXTENSION",
    SetIommu "VFIO_SET_IOMMU",
    TceGetInfo "VFIO_IOMMU_SPAPR_TCE_GET_INFO",
    Enable "VFIO_IOMMU_ENABLE",
    Disable "VFIO_IOMMU_DISABLE",
    RegisterMemory "VFIO_IOMMU_SPAPR_REGISTER_MEMORY",
    UnregisterMemory "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY",
    MapDma "VFIO_IOMMU_MAP_DMA",
    UnmapDma "VFIO_IOMMU_UNMAP_DMA",
    TceCreate "VFIO_IOMMU_SPAPR_TCE_CREATE",
    TceRemove "VFIO_IOMMU_SPAPR_TCE_REMOVE",
    EehPeOp "VFIO_EEH_PE_OP",
    GroupGetStatus "VFIO_GROUP_GET_STATUS",
    GroupSetContainer "VFIO_GROUP_SET_CONTAINER",
    GroupUnsetContainer "VFIO_GROUP_UNSET_CONTAINER",
    DeviceGetInfo "VFIO_DEVICE_GET_INFO",
    DeviceGetRegionInfo "VFIO_DEVICE_GET_REGION_INFO",
    DeviceGetIrqInfo "VFIO_DEVICE_GET_IRQ_INFO",
    DeviceReset "VFIO_DEVICE_RESET",
}

impl Call {
    /// Returns the call's name in the kernel's headers.
    pub fn name(&self) -> &'static str {
        of(self).name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_under_its_own_name() {
        let counts = of(&Call::Disable);
        assert_eq!(counts.name(), "VFIO_IOMMU_DISABLE");
        // Nothing else in the unit tests makes this call.
        counts.count(false);
        counts.count(true);
        let found: Vec<_> = call_counts().filter(|count| count.name == "VFIO_IOMMU_DISABLE").collect();
        assert_eq!(found, [CallCount { name: "VFIO_IOMMU_DISABLE", calls: 2, failed: 1 }]);
        assert!(call_counts().all(|count| count.calls >= count.failed && count.calls != 0));
    }
}
