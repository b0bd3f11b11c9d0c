//! Attaches groups and tables to KVM, in the order the kernel requires.

use super::error::KvmError;
use super::seam::{KernelTable, Kvm, TableSpec};
use crate::host::{Errno, Process};
use crate::space::GroupFile;
use crate::uapi::kvm::{CAP_PPC_ENABLE_HCALL, CAP_SPAPR_MULTITCE, CAP_SPAPR_TCE_64, CAP_SPAPR_TCE_VFIO};
use crate::uapi::papr::hcall::{H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE};
use parking_lot::Mutex;
use std::sync::Arc;

/// Capabilities the kernel must have.
const NEEDED: [(u32, &str); 4] = [
    (CAP_SPAPR_TCE_64, "KVM_CAP_SPAPR_TCE_64"),
    (CAP_SPAPR_TCE_VFIO, "KVM_CAP_SPAPR_TCE_VFIO"),
    (CAP_SPAPR_MULTITCE, "KVM_CAP_SPAPR_MULTITCE"),
    (CAP_PPC_ENABLE_HCALL, "KVM_CAP_PPC_ENABLE_HCALL"),
];

/// Hypercalls the kernel answers for a trusted guest. It answers H_GET_TCE in any case.
const ALL: [u64; 3] = [H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT];
/// Hypercalls the kernel can answer safely, whatever a guest passes.
const HARMLESS: [u64; 1] = [H_PUT_TCE];

/// The acceleration of one DMA address space of a VM, i.e. of one PHB: its groups and its tables,
/// with each group attached to each table. Each PHB needs
/// [its own](Self::for_another_phb): a group attached here is reachable through every table here.
///
/// Dropping it takes the groups out of the VM and closes the tables.
pub struct Acceleration {
    kvm: Arc<dyn Kvm>,
    state: Mutex<State>,
    /// The process that made it, whose VM it is.
    process: Process,
}

#[derive(Default)]
struct State {
    groups: Vec<GroupFile>,
    tables: Vec<(TableSpec, Arc<dyn KernelTable>)>,
}

impl Acceleration {
    /// Accelerates a VM that has no groups and tables yet. The kernel answers H_PUT_TCE and
    /// H_GET_TCE; H_PUT_TCE_INDIRECT and H_STUFF_TCE go to the VMM, whose handlers check them
    /// fully. Safe for any guest.
    pub fn new(kvm: Arc<dyn Kvm>) -> Result<Self, KvmError> {
        Self::with(kvm, &HARMLESS)
    }

    /// Does the same, but the kernel answers H_PUT_TCE_INDIRECT and H_STUFF_TCE as well. Only for
    /// guests trusted as much as the host itself: see [what a guest can do to the
    /// kernel](super#guests-that-are-not-trusted).
    pub fn trusting(kvm: Arc<dyn Kvm>) -> Result<Self, KvmError> {
        Self::with(kvm, &ALL)
    }

    fn with(kvm: Arc<dyn Kvm>, hcalls: &[u64]) -> Result<Self, KvmError> {
        for (capability, name) in NEEDED {
            if kvm.extension(capability).map_err(|errno| call("KVM_CHECK_EXTENSION", errno))? <= 0 {
                return Err(KvmError::Missing { capability: name });
            }
        }
        kvm.create_device().map_err(|errno| match errno {
            Errno::EBUSY => KvmError::DeviceTaken,
            Errno::ENODEV => KvmError::Missing { capability: "the KVM VFIO device" },
            errno => call("KVM_CREATE_DEVICE", errno),
        })?;
        for &number in hcalls {
            kvm.enable_hcall(number).map_err(|errno| call("KVM_ENABLE_CAP", errno))?;
        }
        Ok(Self { kvm, state: Mutex::default(), process: Process::current() })
    }

    /// Creates the acceleration of another address space of the same VM, with no groups and tables
    /// yet.
    pub fn for_another_phb(&self) -> Self {
        Self { kvm: Arc::clone(&self.kvm), state: Mutex::default(), process: Process::current() }
    }

    /// Adds a group and attaches it to all tables. Its windows must exist, and its devices must not
    /// be open yet.
    pub fn add_group(&self, group: GroupFile) -> Result<(), KvmError> {
        let state = &mut *self.state.lock();
        let number = group.number;
        if state.groups.iter().any(|other| other.number == number) {
            return Err(KvmError::GroupTaken { group: number });
        }
        self.kvm.add_group(&group).map_err(|errno| match errno {
            Errno::EEXIST => KvmError::GroupTaken { group: number },
            Errno::EINVAL | Errno::EBADF => KvmError::NotVfio { group: number },
            errno => call("KVM_DEV_VFIO_GROUP_ADD", errno),
        })?;
        if let Err(error) = state.tables.iter().try_for_each(|(spec, _)| self.attach_table(&group, spec)) {
            // Detaches it from the tables it was attached to as well.
            self.delete(&group);
            return Err(error);
        }
        state.groups.push(group);
        Ok(())
    }

    /// Removes a group before it is detached: tables no longer reach its devices.
    pub fn remove_group(&self, number: u32) -> Result<(), KvmError> {
        let state = &mut *self.state.lock();
        let at = state.groups.iter().position(|group| group.number == number);
        let group = state.groups.swap_remove(at.ok_or(KvmError::NoGroup { group: number })?);
        self.delete(&group);
        Ok(())
    }

    /// Creates an empty table in the kernel and attaches all groups to it; each must already have a
    /// window for it. From now on the kernel answers the guest's calls for it.
    pub fn add_table(&self, spec: TableSpec) -> Result<Arc<dyn KernelTable>, KvmError> {
        let TableSpec { liobn, window, page } = spec;
        if !window.is_aligned(page) {
            return Err(KvmError::Misaligned { window, page });
        }
        let state = &mut *self.state.lock();
        if state.tables.iter().any(|(other, _)| other.liobn == liobn) {
            return Err(KvmError::LiobnTaken { liobn });
        }
        let table = self.kvm.create_table(&spec).map_err(|errno| match errno {
            Errno::EBUSY => KvmError::LiobnTaken { liobn },
            Errno::ENOMEM => KvmError::Memory { entries: spec.entries() },
            errno => call("KVM_CREATE_SPAPR_TCE_64", errno),
        })?;
        if let Err(error) = state.groups.iter().try_for_each(|group| self.attach_table(group, &spec)) {
            self.kvm.close_table(liobn);
            return Err(error);
        }
        state.tables.push((spec, Arc::clone(&table)));
        Ok(table)
    }

    /// Closes a table before its window is removed. Calls for it go to the VMM from now on.
    pub fn remove_table(&self, liobn: u32) -> Result<(), KvmError> {
        let state = &mut *self.state.lock();
        let at = state.tables.iter().position(|(spec, _)| spec.liobn == liobn).ok_or(KvmError::NoTable { liobn })?;
        state.tables.swap_remove(at);
        self.kvm.close_table(liobn);
        Ok(())
    }

    /// Returns the tables in the kernel.
    pub fn tables(&self) -> Vec<TableSpec> {
        self.state.lock().tables.iter().map(|(spec, _)| *spec).collect()
    }

    /// Returns the numbers of the groups added.
    pub fn groups(&self) -> Vec<u32> {
        self.state.lock().groups.iter().map(|group| group.number).collect()
    }

    fn attach_table(&self, group: &GroupFile, spec: &TableSpec) -> Result<(), KvmError> {
        let TableSpec { liobn, window, page } = *spec;
        self.kvm.attach_table(group, liobn).map_err(|errno| match errno {
            Errno::ENOENT => KvmError::NoGroup { group: group.number },
            Errno::EINVAL => KvmError::NoWindow { group: group.number, window, page },
            errno => call("KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE", errno),
        })
    }

    fn delete(&self, group: &GroupFile) {
        if let Err(errno) = self.kvm.delete_group(group) {
            tracing::warn!(group = group.number, %errno, "KVM keeps a group");
        }
    }
}

impl core::fmt::Debug for Acceleration {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.state.try_lock() {
            Some(state) => {
                write!(f, "Acceleration({} groups, {} tables)", state.groups.len(), state.tables.len())
            }
            None => f.write_str("Acceleration(changing)"),
        }
    }
}

impl Drop for Acceleration {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        let state = std::mem::take(self.state.get_mut());
        state.groups.iter().for_each(|group| self.delete(group));
        state.tables.iter().for_each(|(spec, _)| self.kvm.close_table(spec.liobn));
    }
}

fn call(call: &'static str, errno: Errno) -> KvmError {
    KvmError::Call { call, errno }
}
