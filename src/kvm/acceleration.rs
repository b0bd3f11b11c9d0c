//! The acceleration of a PHB: its groups and tables in KVM, attached in the order the kernel
//! requires.

use crate::addr::{IovaRange, Liobn, PageShift};
use crate::host::{Errno, Process};
use crate::pci::Group;
use crate::space::GroupFile;
use crate::uapi::kvm::{CAP_PPC_ENABLE_HCALL, CAP_SPAPR_MULTITCE, CAP_SPAPR_TCE_64, CAP_SPAPR_TCE_VFIO};
use crate::uapi::papr::hcall::{H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE};
use core::fmt::{self, Debug};
use parking_lot::Mutex;
use std::sync::Arc;

/// A TCE table that the kernel is to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The LIOBN with which the guest names it.
    pub liobn: Liobn,
    /// Bus addresses: whole pages.
    pub window: IovaRange,
    /// Page size of an entry.
    pub page: PageShift,
}

/// Returns the bytes that the kernel locks for a table of so many entries that it keeps: the
/// entries, and a pointer to each page of them; at most a page less, and it saturates
/// (`kvmppc_stt_pages`, arch/powerpc/kvm/book3s_64_vio.c).
pub fn locked_bytes(host_page: PageShift, entries: u64) -> u64 {
    let whole = |bytes: u64| host_page.ceil(bytes).unwrap_or(u64::MAX);
    let entries = whole(entries.saturating_mul(8));
    let pointers = (entries >> host_page.get()).saturating_mul(8);
    entries.saturating_add(whole(pointers.saturating_add(host_page.bytes() / 2)))
}

impl TableSpec {
    /// Returns the number of entries.
    pub fn entries(&self) -> u64 {
        self.window.len() >> self.page.get()
    }
}

/// The VMM's view of a table in the kernel: a TCE for each page, as the guest set it. The kernel
/// may change it at any moment.
pub trait KernelTable: Send + Sync + Debug {
    /// Returns the number of entries.
    fn entries(&self) -> u64;

    /// Returns the TCE at `index`; 0 past the end, and after the table was closed.
    fn load(&self, index: u64) -> u64;

    /// Writes a TCE for the guest to read; devices do not see it. Does nothing past the end.
    fn store(&self, index: u64, tce: u64);
}

/// The interface between acceleration and KVM. [`Vm`](super::Vm) implements it on the running
/// kernel, `KvmModel` (feature `model`) in process. Implementations pass calls through and return
/// raw results.
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
    fn attach_table(&self, group: &GroupFile, liobn: Liobn) -> Result<(), Errno>;

    /// Closes a table. Views of it that are still in use read zeros from then on.
    fn close_table(&self, liobn: Liobn);
}

/// Why a group or a table was not added to or removed from KVM. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum KvmError {
    /// The kernel lacks a capability.
    #[error(
        "KVM here lacks {capability}: run on KVM of a POWER machine with Linux 6.12 or later, or without acceleration"
    )]
    Missing { capability: &'static str },
    /// The VM already has a VFIO device. A VM can have only one, and attaching tables needs it.
    #[error("the VM already has a KVM VFIO device: give it to Vm::with_vfio_device, or let this library create it")]
    DeviceTaken,
    /// The group is already accelerated.
    #[error("the VM already has group {group}: add it once")]
    GroupTaken { group: Group },
    /// The group is not accelerated.
    #[error("the VM does not have group {group}: add it first")]
    NoGroup { group: Group },
    /// The file is not that of a group of the running kernel's VFIO.
    #[error("KVM refuses the file of group {group}: attach the group on the running kernel first")]
    NotVfio { group: Group },
    /// Another table of the VM has the LIOBN.
    #[error("the VM already has a table with {liobn}: remove it first")]
    LiobnTaken { liobn: Liobn },
    /// No table has the LIOBN.
    #[error("the VM has no table with {liobn}")]
    NoTable { liobn: Liobn },
    /// The window does not consist of whole pages.
    #[error("{window} is not aligned to {page} pages: a table consists of whole pages")]
    Misaligned { window: IovaRange, page: PageShift },
    /// The group has no window that matches the table.
    #[error(
        "group {group} has no window that starts at {}, is no smaller than {window} and has pages of {page} or less: create it \
         before its table is accelerated",
        window.start()
    )]
    NoWindow { group: Group, window: IovaRange, page: PageShift },
    /// The table would exceed the limit of locked memory, or memory is exhausted.
    #[error(
        "the kernel has no memory for a table of {entries:#x} entries: raise RLIMIT_MEMLOCK by 8 bytes for each, or use a \
         smaller window"
    )]
    Memory { entries: u64 },
    /// The kernel refused for a reason without a variant of its own.
    #[error("{call} failed: {errno}")]
    Call { call: &'static str, errno: Errno },
}

crate::error::classify!(KvmError {
    Argument: NotVfio, Misaligned;
    NotFound: NoGroup, NoTable, NoWindow;
    Busy: DeviceTaken, GroupTaken, LiobnTaken;
    Memlock: Memory;
    Unsupported: Missing;
    Kernel: Call;
});

/// Capabilities that the kernel must have.
const NEEDED: [(u32, &str); 4] = [
    (CAP_SPAPR_TCE_64, "KVM_CAP_SPAPR_TCE_64"),
    (CAP_SPAPR_TCE_VFIO, "KVM_CAP_SPAPR_TCE_VFIO"),
    (CAP_SPAPR_MULTITCE, "KVM_CAP_SPAPR_MULTITCE"),
    (CAP_PPC_ENABLE_HCALL, "KVM_CAP_PPC_ENABLE_HCALL"),
];

/// Hypercalls that the kernel answers for a trusted guest. It always answers H_GET_TCE.
const ALL: [u64; 3] = [H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT];
/// Hypercalls that the kernel answers safely whatever a guest passes.
const HARMLESS: [u64; 1] = [H_PUT_TCE];

/// The acceleration of one PHB of a VM: its groups and its tables, each group attached to each
/// table. Each PHB needs [its own](Self::for_another_phb): a group attached here is reachable
/// through every table here.
///
/// Dropping it removes the groups from the VM and closes the tables.
pub struct Acceleration {
    kvm: Arc<dyn Kvm>,
    state: Mutex<State>,
    /// The process that created it. After a fork, the VM is still the parent's.
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

    /// Creates the acceleration of another PHB of the same VM, without groups and tables.
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
            // Also detaches it from the tables to which it was attached.
            self.delete(&group);
            return Err(error);
        }
        state.groups.push(group);
        Ok(())
    }

    /// Removes a group, before it is detached. Tables no longer reach its devices.
    pub fn remove_group(&self, number: Group) -> Result<(), KvmError> {
        let state = &mut *self.state.lock();
        let at = state.groups.iter().position(|group| group.number == number);
        let group = state.groups.swap_remove(at.ok_or(KvmError::NoGroup { group: number })?);
        self.delete(&group);
        Ok(())
    }

    /// Creates an empty table in the kernel and attaches all groups to it; each must have a window
    /// for it. From then on the kernel answers the guest's calls for the table.
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

    /// Closes a table, before its window is removed. From then on calls for it go to the VMM.
    pub fn remove_table(&self, liobn: Liobn) -> Result<(), KvmError> {
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
    pub fn groups(&self) -> Vec<Group> {
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
            tracing::warn!(group = %group.number, %errno, "KVM could not remove a group");
        }
    }
}

impl Debug for Acceleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
