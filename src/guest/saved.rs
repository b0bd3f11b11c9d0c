//! Saves and restores windows and their entries: for migration, and for a VMM that restarts.

use super::GuestIommu;
use super::entries::Sparse;
use super::error::HcallError;
use super::phb::{Phb, PhbError};
use super::ram::Snapshot;
use super::runs::{self, Pages, Run};
use super::table::{self, TceTable};
use crate::addr::{Iova, IovaRange, Liobn, PageShift, RangeError};
use std::sync::Arc;

/// The version of [`SavedIommu`] that this library writes and reads.
pub const VERSION: u32 = 1;

/// A guest's windows and their entries. Implements `Serialize` and `Deserialize` with the feature
/// `serde`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SavedIommu {
    /// [`VERSION`].
    pub version: u32,
    /// Saved state of each PHB.
    pub phbs: Vec<SavedPhb>,
}

/// Saved state of a PHB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SavedPhb {
    /// Bus unit ID.
    pub buid: u64,
    /// Windows of the PHB.
    pub windows: Vec<SavedWindow>,
}

/// Saved state of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SavedWindow {
    /// LIOBN of the window.
    pub liobn: u32,
    /// First bus address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// Page as a power of two.
    pub page_shift: u32,
    /// Entries the guest set, in order.
    pub runs: Vec<SavedRun>,
}

/// Entries that continue each other: each leads to the page after the previous one, or all are one
/// value without rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SavedRun {
    /// Index of the first entry.
    pub first: u64,
    /// Number of entries.
    pub count: u64,
    /// TCE of the first entry.
    pub tce: u64,
}

/// Why a saved state was not restored. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum RestoreError {
    /// A library with another version of the format wrote it.
    #[error("the saved state has version {version}, but this library reads {VERSION}: use one that reads it")]
    Version { version: u32 },
    /// No PHB has the BUID.
    #[error("there is no PHB with BUID {buid:#x}: add it first, with the same configuration")]
    NoPhb { buid: u64 },
    /// Devices are attached.
    #[error("devices are attached to the PHB with BUID {buid:#x}: restore first, then attach")]
    Attached { buid: u64 },
    /// The PHB cannot have such a window.
    #[error("the PHB with BUID {buid:#x} cannot have a window {liobn} of {size:#x} bytes at {start}")]
    Window { buid: u64, liobn: Liobn, start: Iova, size: u64 },
    /// Entries are outside the window or out of order.
    #[error("{count} entries from {first} on in {liobn} are not in the window or not in order")]
    Entries { liobn: Liobn, first: u64, count: u64 },
    /// The state has a PHB twice.
    #[error("the saved state has the PHB with BUID {buid:#x} twice: it is damaged")]
    DuplicatePhb { buid: u64 },
    /// Entries lead out of the guest's RAM.
    #[error("{count} entries from {first} on in {liobn} lead out of the guest's RAM: add all RAM first")]
    NotRam {
        liobn: Liobn,
        first: u64,
        count: u64,
        #[source]
        why: Box<HcallError>,
    },
    /// A table would take too much memory.
    #[error("the table of {liobn} would take {needed} bytes of {limit} allowed: raise PhbConfig::table_memory")]
    Memory { liobn: Liobn, needed: u64, limit: u64 },
    /// A window is empty or wraps.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The LIOBN is taken.
    #[error(transparent)]
    Phb(#[from] PhbError),
}

crate::error::classify!(RestoreError {
    Argument: Window, Entries, DuplicatePhb, NotRam;
    NotFound: NoPhb;
    Busy: Attached;
    NoMemory: Memory;
    Unsupported: Version;
    inner: Range.0, Phb.0;
});

fn save(table: &TceTable) -> SavedWindow {
    let (window, page) = (table.window(), table.page());
    let mut runs: Vec<SavedRun> = Vec::new();
    let mut add = |first, count, tce| match runs.last_mut() {
        Some(run)
            if run.first + run.count == first
                && run.tce.wrapping_add(run.count.wrapping_mul(Run::from(*run).step(page))) == tce =>
        {
            run.count += count;
        }
        _ => runs.push(SavedRun { first, count, tce }),
    };
    table.each_run(&mut |first, count, tce| {
        if runs::permission(tce).is_none() {
            add(first, count, tce);
        } else {
            (first..first + count).for_each(|index| add(index, 1, tce));
        }
    });
    let (start, size) = (window.start().0, window.len());
    SavedWindow { liobn: table.liobn().0, start, size, page_shift: page.get(), runs }
}

/// A window that was checked, to be built.
struct Checked<'a> {
    liobn: Liobn,
    window: IovaRange,
    page: PageShift,
    runs: &'a [SavedRun],
}

impl From<SavedRun> for Run {
    fn from(SavedRun { first, count, tce }: SavedRun) -> Self {
        Self { first, count, tce }
    }
}

/// Checks a window and all its entries, by run.
fn check<'a>(phb: &Phb, saved: &'a SavedWindow, ram: &Snapshot) -> Result<Checked<'a>, RestoreError> {
    let (config, memory) = (phb.config(), phb.ram.memory());
    let SavedWindow { start, size, page_shift, .. } = *saved;
    let (liobn, start) = (Liobn(saved.liobn), Iova(start));
    let wrong = RestoreError::Window { buid: config.buid, liobn, start, size };
    let window = IovaRange::new(start, size)?;
    let page = PageShift::new(page_shift).filter(|page| phb.may_have(liobn, window, *page)).ok_or(wrong)?;
    // RAM whose removal was refused is still mapped.
    let mut pages = Pages::new(ram).including_unplugging().present_in(memory);
    let (mut at, len) = (0, size >> page.get());
    for &saved in &saved.runs {
        let SavedRun { first, count, .. } = saved;
        let end = first.checked_add(count).filter(|end| first >= at && count != 0 && *end <= len);
        at = end.ok_or(RestoreError::Entries { liobn, first, count })?;
        pages.check(&saved.into(), page).map_err(|why| RestoreError::NotRam {
            liobn,
            first,
            count,
            why: Box::new(why),
        })?;
    }
    let runs = saved.runs.iter().map(|run| (run.first, run.count, runs::permission(run.tce).is_none()));
    let (needed, limit) = (Sparse::bytes_for(runs), table::memory_limit(config.table_memory, ram));
    if needed > limit {
        return Err(RestoreError::Memory { liobn, needed, limit });
    }
    Ok(Checked { liobn, window, page, runs: &saved.runs })
}

/// Checks the windows of a PHB, and that none overlap or share a LIOBN.
fn check_all<'a>(phb: &Phb, saved: &'a SavedPhb, ram: &Snapshot) -> Result<Vec<Checked<'a>>, RestoreError> {
    let mut windows: Vec<Checked<'_>> = Vec::new();
    for saved in &saved.windows {
        let found = check(phb, saved, ram)?;
        let clashes =
            |other: &Checked<'_>| other.liobn == found.liobn || other.window.intersection(&found.window).is_some();
        if windows.iter().any(clashes) {
            let (liobn, start, size) = (found.liobn, found.window.start(), found.window.len());
            return Err(RestoreError::Window { buid: phb.config().buid, liobn, start, size });
        }
        windows.push(found);
    }
    Ok(windows)
}

impl Checked<'_> {
    fn build(&self, phb: &Phb) -> TceTable {
        let table = TceTable::new(self.liobn, self.window, self.page, &phb.table_bytes);
        self.runs.iter().for_each(|run| table.store_run(&(*run).into()));
        table
    }
}

impl GuestIommu {
    /// Saves the guest's windows and their entries. The guest must not run meanwhile, or the state
    /// is not that of a single moment.
    pub fn save(&self) -> SavedIommu {
        let phb = |phb: Arc<Phb>| SavedPhb {
            buid: phb.config().buid,
            windows: phb.tables().iter().map(|table| save(table)).collect(),
        };
        SavedIommu { version: VERSION, phbs: self.phbs().into_iter().map(phb).collect() }
    }

    /// Replaces the windows and entries of PHBs by those that were saved. Call it before devices
    /// are attached, and after all RAM that the guest had was added: [`Phb::attach`] then gives the
    /// devices the same windows, or refuses before it changes anything.
    ///
    /// Checks all of the state before it builds any of it. Each window takes at most
    /// [`PhbConfig::table_memory`](super::PhbConfig::table_memory).
    pub fn restore(&self, saved: &SavedIommu) -> Result<(), RestoreError> {
        if saved.version != VERSION {
            return Err(RestoreError::Version { version: saved.version });
        }
        // Keeps RAM that was checked from being removed.
        let _alone = self.changes.lock();
        let mut phbs = Vec::new();
        for SavedPhb { buid, .. } in &saved.phbs {
            let phb = self.phb(*buid).ok_or(RestoreError::NoPhb { buid: *buid })?;
            if phbs.iter().any(|other| Arc::ptr_eq(other, &phb)) {
                return Err(RestoreError::DuplicatePhb { buid: *buid });
            }
            phbs.push(phb);
        }
        // Keeps devices from being attached, and windows from changing.
        let groups: Vec<_> = phbs.iter().map(|phb| phb.groups.lock()).collect();
        if let Some((phb, _)) = phbs.iter().zip(&groups).find(|(_, groups)| !groups.is_empty()) {
            return Err(RestoreError::Attached { buid: phb.config().buid });
        }
        let ram = self.ram.snapshot();
        let checked = phbs.iter().zip(&saved.phbs).map(|(phb, saved)| check_all(phb, saved, &ram));
        let checked = checked.collect::<Result<Vec<_>, _>>()?;
        for (phb, windows) in phbs.iter().zip(checked) {
            for table in phb.tables().iter() {
                phb.retire(table);
            }
            for window in windows {
                let liobn = window.liobn;
                if !phb.add_table(phb.accelerate(window.build(phb))) {
                    return Err(PhbError::LiobnTaken { liobn }.into());
                }
            }
        }
        Ok(())
    }
}
