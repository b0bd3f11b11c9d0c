//! A device that is bound as long as something needs it.

use super::{BindError, Binder, Binding};
use crate::host::Process;

/// A device that vfio-pci has; it is put back when this is dropped. One that vfio-pci had before
/// stays with it.
///
/// Drop it after the address space and the devices that use the group: as long as the group is open
/// the device is not put back. It is then recorded still, and `spapr-iommu unbind` puts it back.
#[derive(Debug)]
#[must_use = "dropping it puts the device back"]
pub struct Bound<'a> {
    binder: &'a Binder,
    binding: Binding,
    group: u32,
    /// The process that bound it: a child of `fork` puts nothing back.
    process: Process,
}

impl<'a> Bound<'a> {
    pub(super) fn new(binder: &'a Binder, binding: Binding, group: u32) -> Self {
        Self { binder, binding, group, process: Process::current() }
    }

    /// The group to attach.
    pub fn group(&self) -> u32 {
        self.group
    }

    /// What binding came to.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Puts the device back now. After an error it is still recorded, and [`Binder::unbind`] tries
    /// again.
    pub fn restore(mut self) -> Result<(), BindError> {
        self.put_back()
    }

    /// Leaves the device with vfio-pci; [`Binder::unbind`] puts it back, in this process or
    /// another.
    pub fn keep(mut self) -> Binding {
        let binding = self.binding.clone();
        self.binding.changed = false;
        binding
    }

    fn put_back(&mut self) -> Result<(), BindError> {
        if !core::mem::take(&mut self.binding.changed) {
            return Ok(());
        }
        self.binder.unbind(&self.binding.address).map(drop)
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        if let Err(error) = self.put_back() {
            tracing::warn!(%error, "{} stays with vfio-pci: `spapr-iommu unbind` puts it back", self.binding.address);
        }
    }
}
