//! Dynamic DMA windows (DDW): what a guest may request, and how its requests are carried out.

use super::error::HcallError;
use super::phb::{Phb, PhbError};
use super::table::{self, TceTable};
use super::writer::Backing;
use crate::addr::{Iova, IovaRange, Liobn, PageShift};
use crate::error::ErrorKind;
use crate::pci::Group;
use crate::space::WindowError;
use crate::uapi::papr::rtas::{HARDWARE_ERROR, PARAMETER_ERROR};
use crate::window::{DEFAULT_PAGE, WindowRequest};
use arrayvec::ArrayVec;
use std::sync::Arc;

/// Maximum windows of a PHB, including the default one: as in QEMU (`SPAPR_PCI_DMA_MAX_WINDOWS`).
pub(super) const MAX_WINDOWS: usize = 2;

/// The windows a guest may request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DdwOffer {
    /// Number of dynamic windows that can still be created.
    pub windows: u32,
    /// Maximum TCEs in one, with any of the page sizes.
    pub entries: u64,
    /// Page sizes: bit n stands for pages of 2^n bytes.
    pub pages: u64,
}

impl DdwOffer {
    /// Iterates over the page sizes, smallest first.
    pub fn page_sizes(&self) -> impl DoubleEndedIterator<Item = PageShift> + '_ {
        (12..=34).filter(|shift| self.pages & (1 << shift) != 0).filter_map(PageShift::new)
    }
}

/// Why a dynamic window was not created or removed. Nothing has changed, except after
/// [`DdwError::HalfReset`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum DdwError {
    /// No PHB has the BUID.
    #[error("there is no PHB with BUID {buid:#x}")]
    NoPhb { buid: u64 },
    /// An RTAS call has the wrong number of cells.
    #[error("{args} arguments and {rets} results do not fit this RTAS call")]
    Cells { args: usize, rets: usize },
    /// The PHB has as many windows as it may have.
    #[error("no further window is possible while {present} exists: remove it first")]
    NoneLeft { present: IovaRange },
    /// The page size was not offered.
    #[error("pages of 2^{shift} bytes are not offered")]
    Page { shift: u32 },
    /// The window is larger than was offered, or smaller than a page.
    #[error("a window of 2^{shift} bytes is not offered: it may have one page to {entries:#x} TCEs")]
    Size { shift: u32, entries: u64 },
    /// No window has this LIOBN.
    #[error("no window has {liobn}")]
    NoWindow { liobn: Liobn },
    /// The kernel refused a reset halfway.
    #[error("the reset stopped halfway, and what the guest had mapped in {lost} is gone: {why}")]
    HalfReset {
        /// The window whose mappings are gone.
        lost: IovaRange,
        /// Why; part of the message, so no source.
        why: Box<DdwError>,
    },
    /// The host cannot have the window.
    #[error(transparent)]
    Host(#[from] WindowError),
    /// The guest's TCEs could not be unmapped.
    #[error(transparent)]
    Clear(#[from] crate::space::UnmapError),
    /// What the kernel mapped by itself could not be read back.
    #[error(transparent)]
    Sync(#[from] HcallError),
    /// The host placed the window where another window of the guest is, or another table has its
    /// LIOBN.
    #[error(transparent)]
    Phb(#[from] PhbError),
}

crate::error::classify!(DdwError {
    Argument: Cells, Page, Size;
    NotFound: NoPhb, NoWindow;
    Busy: NoneLeft;
    Inconsistent: HalfReset;
    inner: Host.0, Clear.0, Sync.0, Phb.0;
});

/// A PHB did not get its initial windows back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the windows of the PHB with BUID {buid:#x} were not reset: detach its devices and reset them again")]
pub struct ResetError {
    /// Bus unit ID.
    pub buid: u64,
    /// Cause.
    #[source]
    pub why: Box<DdwError>,
}

impl ResetError {
    /// Returns what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.why.kind()
    }

    /// Returns a stable name of the cause, in kebab case.
    pub fn code(&self) -> &'static str {
        self.why.code()
    }
}

impl DdwError {
    /// Returns the status for the guest (LoPAR, RTAS return codes).
    pub fn status(&self) -> i32 {
        match self {
            Self::Host(_) | Self::Clear(_) | Self::Sync(_) | Self::Phb(_) | Self::HalfReset { .. } => HARDWARE_ERROR,
            _ => PARAMETER_ERROR,
        }
    }

    /// Returns whether the guest requested what it may not have, and the host did not fail.
    pub fn is_the_guests(&self) -> bool {
        self.status() == PARAMETER_ERROR
    }
}

impl Phb {
    fn dynamic_table(&self) -> Option<Arc<TceTable>> {
        self.tables().iter().find(|table| !self.is_default(table)).cloned()
    }

    /// Returns a dynamic window if no further one is possible.
    fn full(&self) -> Option<Arc<TceTable>> {
        self.dynamic_table().filter(|_| self.tables().len() >= MAX_WINDOWS)
    }

    /// Returns the LIOBN of the next dynamic window, and the most bytes it may have: a second one
    /// takes the place of the default window.
    fn next(&self) -> (Liobn, u64) {
        let (config, tables) = (self.config(), self.tables());
        if tables.iter().any(|table| table.liobn() == config.dynamic_liobn()) {
            (config.liobn, config.default.len())
        } else {
            (config.dynamic_liobn(), u64::MAX)
        }
    }

    /// Returns what the guest may request: page sizes to which all slots of its RAM are aligned,
    /// and as many TCEs as the host can have now with the largest of them.
    pub fn offer(&self) -> DdwOffer {
        let attached = !self.groups.lock().is_empty();
        self.offer_now(attached)
    }

    fn offer_now(&self, attached: bool) -> DdwOffer {
        // The smallest page is always possible.
        let aligned = self.ram.alignment().unwrap_or(PageShift::P4K);
        let pages = self.config().pages & ((aligned.bytes() << 1) - 1);
        let mut offer = DdwOffer { windows: 0, entries: self.config().entries, pages };
        let Some(page) = offer.page_sizes().next_back() else { return DdwOffer { windows: 0, entries: 0, pages: 0 } };
        if let Some(present) = self.full() {
            return DdwOffer { windows: 0, entries: offer.entries.min(present.len()), pages };
        }
        offer.windows = (MAX_WINDOWS - self.tables().len()) as u32;
        offer.entries = offer.entries.min(self.next().1 >> page.get());
        if attached {
            let possible = |entries: &u64| {
                let size = entries.checked_mul(page.bytes());
                size.is_some_and(|size| self.space().plan(&self.host_window(page, size)).is_ok())
            };
            let halves = std::iter::successors(Some(offer.entries), |entries| (*entries > 1).then_some(entries / 2));
            match halves.map(|n| 1 << n.max(1).ilog2()).find(possible) {
                Some(entries) => (offer.windows, offer.entries) = (1, entries),
                None => (offer.windows, offer.entries) = (0, 0),
            }
        }
        offer
    }

    /// Creates the dynamic window: `2^window_shift` bytes with pages of `2^page_shift`.
    pub fn create_window(&self, page_shift: u32, window_shift: u32) -> Result<Arc<TceTable>, DdwError> {
        let groups = self.groups.lock();
        self.check_present()?;
        if let Some(present) = self.full() {
            return Err(DdwError::NoneLeft { present: present.window() });
        }
        let offer = self.offer_now(!groups.is_empty());
        let page = offer.page_sizes().find(|page| page.get() == page_shift);
        let page = page.ok_or(DdwError::Page { shift: page_shift })?;
        let wrong_size = DdwError::Size { shift: window_shift, entries: offer.entries };
        let entries = window_shift.checked_sub(page_shift).and_then(|shift| 1_u64.checked_shl(shift));
        let size = entries.filter(|entries| *entries <= offer.entries).and_then(|n| n.checked_mul(page.bytes()));
        let Some(size) = size else { return Err(wrong_size) };
        let start = match groups.is_empty() {
            true if self.next().0 == self.config().liobn => self.config().default.start(),
            true => self.config().dynamic,
            false => self.space().create_window(&self.host_window(page, size))?.range.start(),
        };
        let table = self.new_table(start, size, page).inspect_err(|_| self.remove_created(&groups, start))?;
        let table = self.accelerate(table);
        table.lock().backing = self.backing(&groups);
        if !self.add_table(Arc::clone(&table)) {
            self.release_from_kvm(&table);
            self.remove_created(&groups, start);
            return Err(PhbError::LiobnTaken { liobn: table.liobn() }.into());
        }
        Ok(table)
    }

    fn backing(&self, groups: &[Group]) -> Backing {
        if groups.is_empty() { Backing::None } else { Backing::Space(self.space().clone()) }
    }

    fn new_table(&self, start: Iova, size: u64, page: PageShift) -> Result<TceTable, DdwError> {
        let window = IovaRange::new(start, size).map_err(PhbError::Range)?;
        if self.tables().iter().any(|table| table.window().intersection(&window).is_some()) {
            return Err(PhbError::Elsewhere { window, start }.into());
        }
        Ok(TceTable::new(self.next().0, window, page, &self.table_bytes))
    }

    fn remove_created(&self, groups: &[Group], start: Iova) {
        if !groups.is_empty()
            && let Err(error) = self.space().remove_window(start)
        {
            tracing::warn!(%error, "a window created for the guest could not be removed");
        }
    }

    /// Removes a window of the guest and everything mapped in it.
    pub fn remove_window(&self, liobn: Liobn) -> Result<(), DdwError> {
        let groups = self.groups.lock();
        self.remove_in(&groups, liobn)
    }

    fn remove_in(&self, groups: &[Group], liobn: Liobn) -> Result<(), DdwError> {
        let table = self.tables().iter().find(|table| table.liobn() == liobn).cloned();
        let table = table.ok_or(DdwError::NoWindow { liobn })?;
        let mut writer = table.lock();
        self.release_from_kvm(&table);
        if !groups.is_empty() {
            self.space().discard_window(table.window().start())?;
        }
        writer.backing = Backing::Removed;
        self.remove_table(liobn);
        Ok(())
    }

    /// Removes the dynamic windows and gives the guest its default window back, empty. Refused with
    /// nothing changed if the host cannot have the default window in place of the dynamic ones.
    pub fn reset_windows(&self) -> Result<(), DdwError> {
        let groups = self.groups.lock();
        self.check_present()?;
        match self.default_table() {
            Some(table) => self.clear_default(&groups, &table),
            None => self.recreate_default(&groups),
        }
    }

    /// Clears the default window, and removes the dynamic one.
    fn clear_default(&self, groups: &[Group], table: &TceTable) -> Result<(), DdwError> {
        {
            let _writer = table.lock();
            if !groups.is_empty() {
                table.sync_from_kvm(self.space(), &self.ram)?;
                table::clear(self.space(), table.window())?;
            }
            table.clear_entries();
        }
        let Some(dynamic) = self.dynamic_table() else { return Ok(()) };
        let half = |why| DdwError::HalfReset { lost: table.window(), why: Box::new(why) };
        self.remove_in(groups, dynamic.liobn()).map_err(half)
    }

    /// Creates the default window again, in place of a dynamic one. Of two dynamic windows the
    /// other is removed first, as the default window may need the memory or the slot that this
    /// frees.
    fn recreate_default(&self, groups: &[Group]) -> Result<(), DdwError> {
        let config = self.config();
        let mut dynamic: ArrayVec<_, MAX_WINDOWS> = self.tables().iter().take(MAX_WINDOWS).cloned().collect();
        // A second one has the default window's LIOBN and place.
        dynamic.sort_by_key(|table| table.liobn() == config.liobn);
        let replaced = dynamic.pop();
        if self.directory.has(config.liobn) && replaced.as_ref().is_none_or(|table| table.liobn() != config.liobn) {
            return Err(PhbError::LiobnTaken { liobn: config.liobn }.into());
        }
        let other = dynamic.pop();
        let request = WindowRequest::cover(config.default).page(DEFAULT_PAGE);
        if !groups.is_empty() {
            let starts: ArrayVec<_, MAX_WINDOWS> =
                [&other, &replaced].into_iter().flatten().map(|table| table.window().start()).collect();
            self.space().can_replace(&starts, &request)?;
        }
        if let Some(other) = &other {
            self.remove_in(groups, other.liobn())?;
        }
        let half = |why| match &other {
            Some(other) => DdwError::HalfReset { lost: other.window(), why: Box::new(why) },
            None => why,
        };
        if !groups.is_empty() {
            match &replaced {
                Some(replaced) => self.replace(replaced, &request).map_err(half)?,
                None => self.space().create_window(&request).map(drop)?,
            }
        } else if let Some(replaced) = &replaced {
            self.remove_in(groups, replaced.liobn())?;
        }
        let table = self.accelerate(TceTable::new(config.liobn, config.default, DEFAULT_PAGE, &self.table_bytes));
        table.lock().backing = self.backing(groups);
        if !self.add_table(table) {
            return Err(PhbError::LiobnTaken { liobn: config.liobn }.into());
        }
        Ok(())
    }

    /// Replaces the host's window of a dynamic one.
    fn replace(&self, dynamic: &TceTable, request: &WindowRequest) -> Result<(), DdwError> {
        let start = dynamic.window().start();
        let mut writer = dynamic.lock();
        self.release_from_kvm(dynamic);
        let replaced = self.space().replace_window(start, request);
        let lost =
            replaced.is_ok() || self.space().status().windows.iter().all(|(window, _)| window.range.start() != start);
        if lost {
            writer.backing = Backing::Removed;
            self.remove_table(dynamic.liobn());
        }
        replaced.map(drop).map_err(|why| {
            let why = DdwError::from(why);
            if lost { DdwError::HalfReset { lost: dynamic.window(), why: Box::new(why) } } else { why }
        })
    }
}
