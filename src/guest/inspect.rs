//! What an inspection reads of a guest.
//!
//! It reads PHBs with their list locked, and keeps none of them: the thread that drops the guest
//! waits for that moment, and then takes it down itself.

use super::phb::Phb;
use super::ram::Snapshot;
use super::read_mostly::ReadMostly;
use super::stats::Counters;
use super::table::TceTable;
use super::{GuestIommu, HcallStats, PhbConfig, Slot};
use crate::addr::{IovaRange, Liobn, PageShift};
use crate::pci::Group;
use crate::space;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// Maximum runs of entries that are counted in a table.
const MAX_COUNTED: u64 = 1 << 18;
/// Entries between two checks of the number counted.
const STRIDE: u64 = 1 << 20;

/// A guest as seen by an inspection.
#[derive(Clone)]
pub(crate) struct Watched {
    phbs: Weak<Mutex<Vec<Arc<Phb>>>>,
    slots: Weak<ReadMostly<Snapshot>>,
    without_table: Weak<Counters>,
}

/// A PHB.
pub(crate) struct PhbStatus {
    pub config: PhbConfig,
    /// Attached groups; `None` while windows or groups are being changed.
    pub groups: Option<Vec<Group>>,
    pub tables: Vec<TableStatus>,
    pub stats: HcallStats,
    pub space: space::Watched,
}

/// A window of a guest.
pub(crate) struct TableStatus {
    pub liobn: Liobn,
    pub window: IovaRange,
    pub page: PageShift,
    /// Entries that give permissions; `None` if the kernel has them, where reading costs memory.
    pub entries: Option<Entries>,
}

/// Number of entries that give permissions.
#[derive(Clone, Copy)]
pub(crate) struct Entries {
    pub count: u64,
    /// Whether all were counted.
    pub all: bool,
}

impl GuestIommu {
    /// Returns a handle for inspections.
    pub(crate) fn watched(&self) -> Watched {
        Watched {
            phbs: Arc::downgrade(&self.phbs.list),
            slots: Arc::downgrade(&self.ram.now),
            without_table: Arc::downgrade(&self.without_table),
        }
    }
}

impl Watched {
    /// Returns whether the guest still exists.
    pub(crate) fn is_alive(&self) -> bool {
        self.phbs.strong_count() > 0
    }

    /// Returns the slots of RAM, each with whether it is being removed.
    pub(crate) fn slots(&self) -> Vec<(Slot, bool)> {
        self.slots.upgrade().map_or_else(Vec::new, |slots| slots.load().slots_and_marks().collect())
    }

    /// Returns up to `most` PHBs, and how many there are.
    pub(crate) fn phbs(&self, most: usize) -> (Vec<PhbStatus>, usize) {
        let Some(phbs) = self.phbs.upgrade() else { return (Vec::new(), 0) };
        let phbs = phbs.lock();
        (phbs.iter().take(most).map(|phb| status(phb)).collect(), phbs.len())
    }

    /// Returns the counts of hypercalls that named no window.
    pub(crate) fn without_table(&self) -> Option<HcallStats> {
        Some(self.without_table.upgrade()?.get())
    }
}

fn status(phb: &Phb) -> PhbStatus {
    PhbStatus {
        config: *phb.config(),
        groups: phb.groups.try_lock().map(|groups| groups.clone()),
        tables: phb.tables().iter().map(|table| table_status(table)).collect(),
        stats: phb.stats(),
        space: phb.space().watched(),
    }
}

fn table_status(table: &TceTable) -> TableStatus {
    TableStatus {
        liobn: table.liobn(),
        window: table.window(),
        page: table.page(),
        entries: (!table.is_in_kernel()).then(|| entries(table)),
    }
}

fn entries(table: &TceTable) -> Entries {
    let (mut at, mut count, mut visited) = (0, 0, 0);
    while at < table.len() && visited < MAX_COUNTED {
        let part = STRIDE.min(table.len() - at);
        table.each_run_in(at, part, &mut |_, entries, rights| {
            visited += 1;
            count += if rights { entries } else { 0 };
        });
        at += part;
    }
    Entries { count, all: at == table.len() }
}
