//! KVM in process: a VM that keeps tables and groups by the kernel's rules (`virt/kvm/vfio.c`,
//! `arch/powerpc/kvm/book3s_64_vio.c`), for tests and for machines without KVM. It runs no guest.

use super::acceleration::{KernelTable, Kvm, TableSpec};
use crate::addr::{IovaRange, Liobn, PageShift};
use crate::host::Errno;
use crate::pci::Group;
use crate::space::GroupFile;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A window of a group, as VFIO has it: bus addresses and page.
pub type GroupWindow = (IovaRange, PageShift);

/// A VM in process. Clones are the same VM.
#[derive(Clone, Default)]
pub struct KvmModel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    log: Vec<String>,
    missing: Option<u32>,
    windows: BTreeMap<Group, Vec<GroupWindow>>,
    device: bool,
    groups: Vec<Group>,
    tables: BTreeMap<Liobn, Arc<ModelTable>>,
    attached: Vec<(Group, Liobn)>,
    memlock: Option<u64>,
}

struct ModelTable {
    spec: TableSpec,
    words: Vec<AtomicU64>,
    closed: AtomicBool,
}

impl KvmModel {
    /// Creates a VM without groups and tables, on a kernel with every capability needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the kernel lack a capability.
    pub fn lack(&self, capability: u32) {
        self.0.lock().missing = Some(capability);
    }

    /// Limits the entries of a table, as `RLIMIT_MEMLOCK` does.
    pub fn limit(&self, entries: u64) {
        self.0.lock().memlock = Some(entries);
    }

    /// Sets the windows an attached group has now. Groups without this call do not exist for the
    /// kernel.
    pub fn set_windows(&self, group: Group, windows: &[GroupWindow]) {
        self.0.lock().windows.insert(group, windows.to_vec());
    }

    /// Returns and clears the log of calls to the kernel, in order, with their errors.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().log)
    }

    /// Returns the groups added.
    pub fn groups(&self) -> Vec<Group> {
        self.0.lock().groups.clone()
    }

    /// Returns the table with that LIOBN, as the guest sees and changes it.
    pub fn table(&self, liobn: Liobn) -> Option<Arc<dyn KernelTable>> {
        let table = Arc::clone(self.0.lock().tables.get(&liobn)?);
        Some(table)
    }

    /// Returns pairs of a group and the LIOBN of a table it is attached to.
    pub fn attached_tables(&self) -> Vec<(Group, Liobn)> {
        self.0.lock().attached.clone()
    }
}

impl core::fmt::Debug for KvmModel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let state = self.0.lock();
        write!(f, "KvmModel({} groups, {} tables)", state.groups.len(), state.tables.len())
    }
}

impl core::fmt::Debug for ModelTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ModelTable({}, {} entries)", self.spec.liobn, self.words.len())
    }
}

impl ModelTable {
    fn word(&self, index: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(index).ok()?)
    }
}

impl KernelTable for ModelTable {
    fn entries(&self) -> u64 {
        self.words.len() as u64
    }
    fn load(&self, index: u64) -> u64 {
        let word = self.word(index).filter(|_| !self.closed.load(Ordering::Relaxed));
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }
    fn store(&self, index: u64, tce: u64) {
        if let Some(word) = self.word(index) {
            word.store(tce, Ordering::Relaxed);
        }
    }
}

impl State {
    fn said<T>(&mut self, what: String, result: Result<T, Errno>) -> Result<T, Errno> {
        self.log.push(match &result {
            Ok(_) => what,
            Err(errno) => format!("{what}: {errno:?}"),
        });
        result
    }

    fn add(&mut self, group: &GroupFile) -> Result<(), Errno> {
        if !self.device {
            return Err(Errno::ENODEV);
        }
        if self.groups.contains(&group.number) {
            return Err(Errno::EEXIST);
        }
        self.windows.get(&group.number).ok_or(Errno::EINVAL)?;
        self.groups.push(group.number);
        Ok(())
    }

    fn delete(&mut self, group: Group) -> Result<(), Errno> {
        let at = self.groups.iter().position(|other| *other == group).ok_or(Errno::ENOENT)?;
        self.groups.remove(at);
        self.attached.retain(|(attached, _)| *attached != group);
        Ok(())
    }

    fn create(&mut self, spec: &TableSpec) -> Result<Arc<ModelTable>, Errno> {
        let entries = spec.entries();
        if self.memlock.is_some_and(|limit| entries > limit) {
            return Err(Errno::ENOMEM);
        }
        if self.tables.contains_key(&spec.liobn) {
            return Err(Errno::EBUSY);
        }
        let words = (0..entries).map(|_| AtomicU64::new(0)).collect();
        let table = Arc::new(ModelTable { spec: *spec, words, closed: AtomicBool::new(false) });
        self.tables.insert(spec.liobn, Arc::clone(&table));
        Ok(table)
    }

    /// `kvm_spapr_tce_attach_iommu_group`: needs a window of the group with the same start, a page
    /// no larger and no fewer bytes.
    fn attach_table(&mut self, group: Group, liobn: Liobn) -> Result<(), Errno> {
        if !self.groups.contains(&group) {
            return Err(Errno::ENOENT);
        }
        let spec = self.tables.get(&liobn).ok_or(Errno::EBADF)?.spec;
        let fits = |(range, page): &GroupWindow| {
            *page <= spec.page && range.start() == spec.window.start() && range.len() >= spec.window.len()
        };
        if !self.windows.get(&group).is_some_and(|windows| windows.iter().any(fits)) {
            return Err(Errno::EINVAL);
        }
        self.attached.push((group, liobn));
        Ok(())
    }
}

impl Kvm for KvmModel {
    fn extension(&self, capability: u32) -> Result<i32, Errno> {
        Ok(i32::from(self.0.lock().missing != Some(capability)))
    }
    fn enable_hcall(&self, number: u64) -> Result<(), Errno> {
        self.0.lock().said(format!("enable {number:#x}"), Ok(()))
    }
    fn create_device(&self) -> Result<(), Errno> {
        let state = &mut *self.0.lock();
        let result = if state.device { Err(Errno::EBUSY) } else { Ok(()) };
        state.device = true;
        state.said("device".into(), result)
    }
    fn add_group(&self, group: &GroupFile) -> Result<(), Errno> {
        let state = &mut *self.0.lock();
        let result = state.add(group);
        state.said(format!("add {}", group.number), result)
    }
    fn delete_group(&self, group: &GroupFile) -> Result<(), Errno> {
        let state = &mut *self.0.lock();
        let result = state.delete(group.number);
        state.said(format!("delete {}", group.number), result)
    }
    fn create_table(&self, spec: &TableSpec) -> Result<Arc<dyn KernelTable>, Errno> {
        let state = &mut *self.0.lock();
        let result = state.create(spec);
        let table = state.said(format!("create {:#x}", spec.liobn.0), result)?;
        Ok(table)
    }
    fn attach_table(&self, group: &GroupFile, liobn: Liobn) -> Result<(), Errno> {
        let state = &mut *self.0.lock();
        let result = state.attach_table(group.number, liobn);
        state.said(format!("attach {} to {:#x}", group.number, liobn.0), result)
    }
    fn close_table(&self, liobn: Liobn) {
        let state = &mut *self.0.lock();
        let there = state.tables.remove(&liobn).ok_or(Errno::EBADF);
        let there = there.map(|table| table.closed.store(true, Ordering::Relaxed));
        state.attached.retain(|(_, table)| *table != liobn);
        let _ = state.said(format!("close {:#x}", liobn.0), there);
    }
}
