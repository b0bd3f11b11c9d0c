//! The interface between acceleration and KVM. [`Vm`](super::Vm) implements it on the running
//! kernel, [`KvmModel`](super::model::KvmModel) in process.

use crate::addr::{IovaRange, PageShift};
use crate::host::Errno;
use crate::space::GroupFile;
use core::fmt::Debug;
use std::sync::Arc;

/// A TCE table for the kernel to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The LIOBN the guest names it with.
    pub liobn: u32,
    /// Its bus addresses, whole pages.
    pub window: IovaRange,
    /// The page of an entry.
    pub page: PageShift,
}

impl TableSpec {
    /// Returns the number of entries.
    pub fn entries(&self) -> u64 {
        self.window.len() >> self.page.get()
    }
}

/// A table in the kernel, seen by the VMM: a TCE for each page, as the guest entered it. The kernel
/// may change it at any moment.
pub trait KernelTable: Send + Sync + Debug {
    /// Returns the number of entries.
    fn entries(&self) -> u64;

    /// Returns the TCE at `index`; 0 past the end, and after the table was closed.
    fn load(&self, index: u64) -> u64;

    /// Writes a TCE for the guest to read; devices do not see it. Does nothing past the end.
    fn store(&self, index: u64, tce: u64);
}

/// What acceleration needs of a VM. Implementations pass calls through and report raw results.
pub trait Kvm: Send + Sync + Debug {
    /// `KVM_CHECK_EXTENSION`.
    fn extension(&self, capability: u32) -> Result<i32, Errno>;

    /// `KVM_CAP_PPC_ENABLE_HCALL`: makes the kernel answer this hypercall where it can.
    fn enable_hcall(&self, number: u64) -> Result<(), Errno>;

    /// `KVM_CREATE_DEVICE` of the VFIO device; a VM has one.
    fn create_device(&self) -> Result<(), Errno>;

    /// `KVM_DEV_VFIO_GROUP_ADD`.
    fn add_group(&self, group: &GroupFile) -> Result<(), Errno>;

    /// `KVM_DEV_VFIO_GROUP_DEL`.
    fn delete_group(&self, group: &GroupFile) -> Result<(), Errno>;

    /// `KVM_CREATE_SPAPR_TCE_64`; returns a view of the table.
    fn create_table(&self, spec: &TableSpec) -> Result<Arc<dyn KernelTable>, Errno>;

    /// `KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE`.
    fn attach_table(&self, group: &GroupFile, liobn: u32) -> Result<(), Errno>;

    /// Closes a table. Views of it that are still in use read zeros from then on.
    fn close_table(&self, liobn: u32);
}
