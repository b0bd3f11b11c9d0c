//! Counts of kernel calls, by the call's name.
//!
//! They belong to the process, as the kernel's state does. A program reads them at any time,
//! without a lock.
//!
//! Threads that make calls at the same time must not wait for each other's cache lines, so each
//! counts for itself, without an atomic change. Its counts stay when it ends.

use super::Call;
use crate::stats::OwnCounter;
use thread_local::ThreadLocal;

/// Counts of one call.
#[derive(Default)]
struct Counts {
    calls: OwnCounter,
    failed: OwnCounter,
}

/// Counts of all calls of one thread.
type Sheet = [Counts; NAMES.len()];

static SHEETS: ThreadLocal<Sheet> = ThreadLocal::new();

/// The number of a call in `NAMES`.
#[derive(Clone, Copy)]
pub(super) struct Number(usize);

impl Number {
    pub(super) fn name(self) -> &'static str {
        NAMES[self.0]
    }

    /// Counts a call that was made.
    pub(super) fn count(self, failed: bool) {
        let counts = &SHEETS.get_or(|| core::array::from_fn(|_| Counts::default()))[self.0];
        counts.calls.add(1);
        if failed {
            counts.failed.add(1);
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
    let count = |(number, name): (usize, &&'static str)| {
        let sum = |count: fn(&Counts) -> &OwnCounter| SHEETS.iter().map(|sheet| count(&sheet[number]).get()).sum();
        // The failed calls first: a call is counted before its failure.
        let failed = sum(|counts| &counts.failed);
        let calls = sum(|counts| &counts.calls);
        CallCount { name, calls, failed }
    };
    NAMES.iter().enumerate().map(count).filter(|count| count.calls != 0)
}

/// Gives each call its name and its number.
macro_rules! calls {
    ($($call:ident $name:literal,)+) => {
        #[derive(Clone, Copy)]
        enum Index { $($call,)+ SetIrqs }

        /// Names of the calls, by number.
        const NAMES: [&str; [$($name),+].len() + 1] = [$($name,)+ "VFIO_DEVICE_SET_IRQS"];

        /// `VFIO_DEVICE_SET_IRQS`, which is not a [`Call`].
        pub(super) const SET_IRQS: Number = Number(Index::SetIrqs as usize);

        /// Returns the number of a call.
        pub(super) fn of(call: &Call) -> Number {
            Number(match call {
                $(Call::$call { .. } => Index::$call,)+
            } as usize)
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
        of(self).name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn found(call: &Call) -> Vec<CallCount> {
        call_counts().filter(|count| count.name == call.name()).collect()
    }

    #[test]
    fn a_call_is_counted_under_its_own_name() {
        let number = of(&Call::Disable);
        assert_eq!(number.name(), "VFIO_IOMMU_DISABLE");
        // Nothing else in the unit tests makes this call.
        number.count(false);
        number.count(true);
        assert_eq!(found(&Call::Disable), [CallCount { name: "VFIO_IOMMU_DISABLE", calls: 2, failed: 1 }]);
        assert!(call_counts().all(|count| count.calls >= count.failed && count.calls != 0));
    }

    #[test]
    fn what_threads_counted_stays() {
        const ROUNDS: u64 = 50;
        const THREADS: u64 = 40;
        thread::scope(|scope| {
            for _ in 0..THREADS {
                // Nothing else in the unit tests makes this call.
                scope.spawn(|| (0..ROUNDS).for_each(|round| of(&Call::Enable).count(round % 2 == 0)));
            }
        });
        let calls = THREADS * ROUNDS;
        assert_eq!(found(&Call::Enable), [CallCount { name: "VFIO_IOMMU_ENABLE", calls, failed: calls / 2 }]);
    }
}
