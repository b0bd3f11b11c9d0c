//! Saves and restores tables and windows: for migration, and for a VMM that restarts.

use super::GuestIommu;
use super::ddw::DdwError;
use super::liobn::Liobn;
use super::phb::{Phb, PhbError};
use super::table::TceTable;
use super::tce;
use crate::addr::{Iova, IovaRange, PageShift, RangeError};
use std::sync::Arc;

/// The version of [`SavedIommu`] that this library writes and reads.
pub const VERSION: u32 = 1;

/// A guest's windows and their entries. With the feature `serde` it can be serialized in any
/// format.
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

/// Why a saved state is not restored. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum RestoreError {
    /// Another version wrote it.
    #[error("the saved state has version {version}, this library reads {VERSION}")]
    Version { version: u32 },
    /// There is no such PHB here.
    #[error("there is no PHB with BUID {buid:#x} here: add it first, as it was")]
    NoPhb { buid: u64 },
    /// Devices are attached.
    #[error("devices are attached to the PHB with BUID {buid:#x}: restore first, then attach")]
    Attached { buid: u64 },
    /// A window the PHB cannot have.
    #[error("{liobn} at {start} with {size:#x} bytes is no window of the PHB with BUID {buid:#x}")]
    Window { buid: u64, liobn: Liobn, start: Iova, size: u64 },
    /// Entries are outside the window or out of order.
    #[error("entry {first} of {liobn}, and {count} from there on: not in the window, or not in order")]
    Entries { liobn: Liobn, first: u64, count: u64 },
    /// A window with an empty or wrapping range.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A window is not offered here.
    #[error(transparent)]
    Ddw(#[from] DdwError),
    /// The LIOBN is taken.
    #[error(transparent)]
    Phb(#[from] PhbError),
}

fn step(tce: u64, page: PageShift) -> u64 {
    tce::permission(tce).map_or(0, |_| page.bytes())
}

fn save(table: &TceTable) -> SavedWindow {
    let (window, page) = (table.window(), table.page());
    let mut runs: Vec<SavedRun> = Vec::new();
    table.each(&mut |index, tce| match runs.last_mut() {
        Some(run)
            if run.first + run.count == index
                && run.tce.wrapping_add(run.count.wrapping_mul(step(run.tce, page))) == tce =>
        {
            run.count += 1;
        }
        _ => runs.push(SavedRun { first: index, count: 1, tce }),
    });
    let (start, size) = (window.start().0, window.len());
    SavedWindow { liobn: table.liobn().0, start, size, page_shift: page.get(), runs }
}

/// Builds the table of a saved window, with its entries.
fn build(phb: &Phb, saved: &SavedWindow) -> Result<TceTable, RestoreError> {
    let config = phb.config();
    let SavedWindow { start, size, page_shift, .. } = *saved;
    let (liobn, start) = (Liobn(saved.liobn), Iova(start));
    let wrong = RestoreError::Window { buid: config.buid, liobn, start, size };
    let window = IovaRange::new(start, size)?;
    let page = PageShift::new(page_shift);
    let fits = match page {
        Some(PageShift::P4K) if liobn == config.liobn => window == config.default,
        Some(page) => {
            let entries = size >> page.get();
            liobn == config.dynamic_liobn()
                && config.pages & page.bytes() != 0
                && window.is_aligned(page)
                && entries.is_power_of_two()
                && entries <= config.entries
        }
        None => false,
    };
    let Some(page) = page.filter(|_| fits) else { return Err(wrong) };
    let table = TceTable::new(liobn, window, page);
    let mut at = 0;
    for &SavedRun { first, count, tce } in &saved.runs {
        let end = first.checked_add(count).filter(|end| first >= at && count != 0 && *end <= table.len());
        at = end.ok_or(RestoreError::Entries { liobn, first, count })?;
        (first..at).fold(tce, |tce, index| {
            table.restore(index, &[tce]);
            tce.wrapping_add(step(tce, page))
        });
    }
    Ok(table)
}

impl GuestIommu {
    /// Saves the guest's windows and their entries. The guest must not run meanwhile, or the state
    /// is not of a single moment.
    pub fn save(&self) -> SavedIommu {
        let phb = |phb: Arc<Phb>| SavedPhb {
            buid: phb.config().buid,
            windows: phb.tables().iter().map(|table| save(table)).collect(),
        };
        SavedIommu { version: VERSION, phbs: self.phbs().into_iter().map(phb).collect() }
    }

    /// Replaces the PHBs' windows and entries with the saved ones. Must be called before devices
    /// are attached: [`Phb::attach`] then gives the devices the same windows, or refuses before
    /// anything is changed.
    pub fn restore(&self, saved: &SavedIommu) -> Result<(), RestoreError> {
        if saved.version != VERSION {
            return Err(RestoreError::Version { version: saved.version });
        }
        let mut built = Vec::new();
        for SavedPhb { buid, windows } in &saved.phbs {
            let phb = self.phb(*buid).ok_or(RestoreError::NoPhb { buid: *buid })?;
            if !phb.groups.lock().is_empty() {
                return Err(RestoreError::Attached { buid: *buid });
            }
            let tables = windows.iter().map(|window| build(&phb, window)).collect::<Result<Vec<_>, _>>()?;
            for (number, table) in tables.iter().enumerate() {
                let twice = |other: &TceTable| {
                    other.liobn() == table.liobn() || other.window().intersection(&table.window()).is_some()
                };
                if tables[..number].iter().any(twice) {
                    let (liobn, window) = (table.liobn(), table.window());
                    let (start, size) = (window.start(), window.len());
                    return Err(RestoreError::Window { buid: *buid, liobn, start, size });
                }
            }
            built.push((phb, tables));
        }
        for (phb, tables) in built {
            for table in phb.tables().iter() {
                phb.keep_no_more(table);
                phb.forget(table.liobn());
            }
            for table in tables {
                let liobn = table.liobn();
                if !phb.enter(phb.keep(table)) {
                    return Err(PhbError::LiobnTaken { liobn }.into());
                }
            }
        }
        Ok(())
    }
}
