//! Tables that KVM keeps and fills by itself, and how a PHB follows what it does.
//!
//! The kernel sets and maps what it can; other calls go to the VMM and to the same handlers as
//! without KVM. Before these change anything, and before memory or a window is removed, the space
//! is synced with what the kernel did
//! ([`AddressSpace::sync_from_kvm`](crate::space::AddressSpace::sync_from_kvm)).
//!
//! No vCPU of the guest may run while groups are attached or detached or memory is removed, since
//! the kernel would change tables while they are read. RTAS calls may arrive while other vCPUs run.

use super::GuestIommu;
use super::entries::Entries;
use super::error::HcallError;
use super::phb::{Phb, PhbError};
use super::table::TceTable;
use crate::addr::UserRange;
use crate::kvm::{TableSpec, locked_bytes};
use crate::pci::Group;
use crate::space::MapError;
use std::sync::Arc;

impl Phb {
    /// Moves a table with its entries to the kernel, after the host's window for it was created. If
    /// that fails, the table stays in the library and the guest's calls for it go to the VMM.
    pub(super) fn accelerate(&self, table: TceTable) -> Arc<TceTable> {
        let table = table.limited(self.config().table_memory).counted(&self.counters);
        let Some(kvm) = &self.kvm else { return Arc::new(table) };
        let (liobn, window, page) = (table.liobn(), table.window(), table.page());
        let (needed, limit) = (table.len().saturating_mul(8), table.memory_limit(&self.ram.snapshot()));
        if needed > limit {
            tracing::warn!(%liobn, needed, limit, "not accelerated: the kernel's table would take too much memory");
            return Arc::new(table);
        }
        // Does not lock what is reserved for default windows.
        let charging = match self.space().registry().charge(
            "the kernel's copy of a TCE table",
            locked_bytes(self.space().registry().host().page_shift(), table.len()),
        ) {
            Ok(charging) => charging,
            Err(error) => {
                tracing::warn!(%liobn, %error, "not accelerated");
                return Arc::new(table);
            }
        };
        let added = kvm.add_table(TableSpec { liobn, window, page });
        drop(charging);
        match added {
            Ok(in_kernel) => {
                table.each(&mut |index, tce| in_kernel.store(index, tce));
                Arc::new(TceTable::over(liobn, window, page, Entries::Kernel(in_kernel)).counted(&self.counters))
            }
            Err(error) => {
                tracing::warn!(%liobn, %error, "not accelerated");
                Arc::new(table)
            }
        }
    }

    /// Takes a table from the kernel, which no longer changes anything in its window.
    pub(super) fn release_from_kvm(&self, table: &TceTable) {
        if let Some(kvm) = self.kvm.as_ref().filter(|_| table.is_in_kernel())
            && let Err(error) = kvm.remove_table(table.liobn())
        {
            tracing::warn!(liobn = %table.liobn(), %error, "the kernel could not close a table");
        }
    }

    /// Lets KVM map for an attached group.
    pub(super) fn add_to_kvm(&self, group: Group) -> Result<(), PhbError> {
        let Some(kvm) = &self.kvm else { return Ok(()) };
        self.pin_ram_for_kvm()?;
        Ok(kvm.add_group(self.space().group_file(group)?)?)
    }

    /// Keeps KVM from mapping for a group that is to be detached.
    pub(super) fn remove_from_kvm(&self, group: Group) -> Result<(), PhbError> {
        let Some(kvm) = &self.kvm else { return Ok(()) };
        Ok(kvm.remove_group(group)?)
    }

    /// Pins all RAM of the guest, so that it stays registered while KVM may map it.
    pub(super) fn pin_ram_for_kvm(&self) -> Result<(), MapError> {
        if self.kvm.is_none() {
            return Ok(());
        }
        let ram: Vec<UserRange> = self.ram.slots().iter().filter_map(|slot| slot.user_range()).collect();
        self.space().pin_for_kvm(&ram)
    }

    /// Syncs the space with what the kernel did in these tables.
    pub(super) fn sync_from_kvm(&self, tables: &[Arc<TceTable>]) -> Result<(), HcallError> {
        tables.iter().try_for_each(|table| table.sync_from_kvm(self.space(), &self.ram))
    }
}

impl GuestIommu {
    /// Syncs the spaces with what the kernel did, and unpins `memory`, which it must no longer map.
    pub(super) fn unpin_for_kvm(&self, memory: UserRange) -> Result<(), HcallError> {
        for phb in self.phbs().iter().filter(|phb| phb.kvm.is_some()) {
            let groups = phb.groups.lock();
            if !groups.is_empty() {
                let tables = phb.tables();
                let _writers: Vec<_> = tables.iter().map(|table| table.lock()).collect();
                phb.sync_from_kvm(&tables)?;
                phb.space().unpin_for_kvm(memory);
            }
        }
        Ok(())
    }

    /// Pins all RAM for KVM, including slots just added.
    pub(super) fn pin_ram_for_kvm(&self) -> Result<(), MapError> {
        for phb in self.phbs() {
            let groups = phb.groups.lock();
            if !groups.is_empty() {
                phb.pin_ram_for_kvm()?;
            }
        }
        Ok(())
    }
}
