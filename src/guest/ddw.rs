//! Dynamic DMA windows: what is offered to a guest, and how its requests are carried out.

use super::error::HcallError;
use super::liobn::Liobn;
use super::phb::{Phb, PhbError};
use super::table::{self, Backing, TceTable};
use crate::addr::{Iova, IovaRange, PageShift};
use crate::space::WindowError;
use crate::uapi::papr::rtas::{HARDWARE_ERROR, PARAMETER_ERROR};
use crate::window::{DEFAULT_PAGE, WindowRequest};
use arrayvec::ArrayVec;
use std::sync::Arc;

/// Windows of a PHB, the default one included: as many as QEMU gives.
const WINDOWS: usize = 2;

/// The windows a guest may request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DdwOffer {
    /// Number of dynamic windows that can still be created.
    pub windows: u32,
    /// Largest number of TCEs in one, with any of the pages.
    pub entries: u64,
    /// Bit n: pages of 2^n bytes.
    pub pages: u64,
}

impl DdwOffer {
    /// Iterates over the pages, smallest first.
    pub fn page_sizes(&self) -> impl DoubleEndedIterator<Item = PageShift> + '_ {
        (12..=34).filter(|shift| self.pages & (1 << shift) != 0).filter_map(PageShift::new)
    }
}

/// Why a dynamic window is not made or removed. Nothing has changed, except where the error is
/// [`DdwError::HalfReset`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum DdwError {
    /// There is no such PHB.
    #[error("there is no PHB with BUID {buid:#x}")]
    NoPhb { buid: u64 },
    /// An RTAS call has the wrong number of cells.
    #[error("{args} arguments and {rets} results: not the cells of this call")]
    Cells {
        /// Arguments.
        args: usize,
        /// Results.
        rets: usize,
    },
    /// All windows are there already.
    #[error("no window is left: {present} is there")]
    NoneLeft {
        /// A dynamic one.
        present: IovaRange,
    },
    /// A page that was not offered.
    #[error("pages of 2^{shift} bytes are not offered")]
    Page { shift: u32 },
    /// More than was offered, or less than a page.
    #[error("a window of 2^{shift} bytes is not offered: from one page to {entries:#x} TCEs")]
    Size { shift: u32, entries: u64 },
    /// No window has this LIOBN.
    #[error("no window has {liobn}")]
    NoWindow {
        /// What the guest named.
        liobn: Liobn,
    },
    /// A reset that the kernel refused half way.
    #[error("the reset stopped half way, what the guest had mapped in {lost} is gone: {why}")]
    HalfReset {
        /// The window whose mappings are gone.
        lost: IovaRange,
        /// What was refused; part of the message, so no source.
        why: Box<DdwError>,
    },
    /// The host could not.
    #[error(transparent)]
    Host(#[from] WindowError),
    /// The guest's TCEs could not be unmapped.
    #[error(transparent)]
    Clear(#[from] crate::space::UnmapError),
    /// What the kernel mapped itself could not be counted.
    #[error(transparent)]
    Observe(#[from] HcallError),
    /// The host placed the window where another window of the guest is, or another table has its
    /// LIOBN.
    #[error(transparent)]
    Phb(#[from] PhbError),
}

/// A PHB does not have its first windows again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the windows of the PHB with BUID {buid:#x} are not reset: reset them again once its devices are detached")]
pub struct ResetError {
    /// The BUID.
    pub buid: u64,
    /// Why.
    #[source]
    pub why: Box<DdwError>,
}

impl DdwError {
    /// Returns the status for the guest (LoPAR, RTAS return codes).
    pub fn status(&self) -> i32 {
        match self {
            Self::Host(_) | Self::Clear(_) | Self::Observe(_) | Self::Phb(_) | Self::HalfReset { .. } => HARDWARE_ERROR,
            _ => PARAMETER_ERROR,
        }
    }
}

impl Phb {
    fn dynamic(&self) -> Option<Arc<TceTable>> {
        self.tables().iter().find(|table| !self.is_default(table)).cloned()
    }

    /// A dynamic window where no other can be made.
    fn last(&self) -> Option<Arc<TceTable>> {
        self.dynamic().filter(|_| self.tables().len() >= WINDOWS)
    }

    /// The LIOBN of the next dynamic window, and the most bytes it may have: a second one takes the
    /// place of the default window.
    fn next(&self) -> (Liobn, u64) {
        let (config, tables) = (self.config(), self.tables());
        match tables.iter().any(|table| table.liobn() == config.dynamic_liobn()) {
            true => (config.liobn, config.default.len()),
            false => (config.dynamic_liobn(), u64::MAX),
        }
    }

    /// Returns what the guest may request: pages that all its RAM consists of and that the host has
    /// a window for; and, with the largest of them, as many TCEs as the host can have now.
    pub fn offer(&self) -> DdwOffer {
        let attached = !self.groups.lock().is_empty();
        self.offer_now(attached)
    }

    fn offer_now(&self, attached: bool) -> DdwOffer {
        let aligned = self.ram.aligned().unwrap_or(PageShift::P4K);
        let pages = self.config().pages & ((aligned.bytes() << 1) - 1);
        let mut offer = DdwOffer { windows: 0, entries: self.config().entries, pages };
        let Some(page) = offer.page_sizes().next_back() else { return DdwOffer { windows: 0, entries: 0, pages: 0 } };
        if let Some(present) = self.last() {
            return DdwOffer { windows: 0, entries: offer.entries.min(present.len()), pages };
        }
        offer.windows = (WINDOWS - self.tables().len()) as u32;
        offer.entries = offer.entries.min(self.next().1 >> page.get());
        if attached {
            let possible = |entries: &u64| {
                let size = entries.checked_mul(page.bytes());
                size.is_some_and(|size| self.space().plan(&self.host_window(page, size)).is_ok())
            };
            let halves = std::iter::successors(Some(offer.entries), |entries| (*entries > 1).then_some(entries / 2));
            offer.entries = halves.map(|n| 1 << n.max(1).ilog2()).find(possible).unwrap_or(0);
            offer.windows = u32::from(offer.entries != 0);
        }
        offer
    }

    /// Creates the dynamic window: `2^window_shift` bytes with pages of `2^page_shift`.
    pub fn create_window(&self, page_shift: u32, window_shift: u32) -> Result<Arc<TceTable>, DdwError> {
        let groups = self.groups.lock();
        self.is_there()?;
        if let Some(present) = self.last() {
            return Err(DdwError::NoneLeft { present: present.window() });
        }
        let offer = self.offer_now(!groups.is_empty());
        let page = offer.page_sizes().find(|page| page.get() == page_shift);
        let page = page.ok_or(DdwError::Page { shift: page_shift })?;
        let wrong_size = DdwError::Size { shift: window_shift, entries: offer.entries };
        let entries = window_shift.checked_sub(page_shift).and_then(|shift| 1_u64.checked_shl(shift));
        let size = entries.filter(|entries| *entries <= offer.entries).and_then(|n| n.checked_mul(page.bytes()));
        let Some(size) = size else { return Err(wrong_size) };
        let behind = match groups.is_empty() {
            true => Backing::Nothing,
            false => Backing::Devices(self.space().clone()),
        };
        let start = match groups.is_empty() {
            true if self.next().0 == self.config().liobn => self.config().default.start(),
            true => self.config().dynamic,
            false => self.space().create_window(&self.host_window(page, size))?.range.start(),
        };
        let table = self.placed(start, size, page).inspect_err(|_| self.take_back(&groups, start))?;
        let table = self.accelerate(table);
        table.lock().behind = behind;
        if !self.enter(Arc::clone(&table)) {
            self.release_from_kvm(&table);
            self.take_back(&groups, start);
            return Err(PhbError::LiobnTaken { liobn: table.liobn() }.into());
        }
        Ok(table)
    }

    fn placed(&self, start: Iova, size: u64, page: PageShift) -> Result<TceTable, DdwError> {
        let elsewhere = |window| PhbError::Elsewhere { window, start };
        let window = IovaRange::new(start, size).map_err(|_| elsewhere(self.config().default))?;
        match self.tables().iter().any(|table| table.window().intersection(&window).is_some()) {
            true => Err(elsewhere(window).into()),
            false => Ok(TceTable::new(self.next().0, window, page)),
        }
    }

    fn take_back(&self, groups: &[u32], start: Iova) {
        if !groups.is_empty()
            && let Err(error) = self.space().remove_window(start)
        {
            tracing::warn!(%error, "a window made for a guest stays");
        }
    }

    /// Removes a window of the guest with everything mapped in it.
    pub fn remove_window(&self, liobn: Liobn) -> Result<(), DdwError> {
        let groups = self.groups.lock();
        self.remove_in(&groups, liobn)
    }

    fn remove_in(&self, groups: &[u32], liobn: Liobn) -> Result<(), DdwError> {
        let table = self.tables().iter().find(|table| table.liobn() == liobn).cloned();
        let table = table.ok_or(DdwError::NoWindow { liobn })?;
        let mut writer = table.lock();
        self.release_from_kvm(&table);
        if !groups.is_empty() {
            self.space().discard_window(table.window().start())?;
        }
        writer.behind = Backing::Removed;
        self.forget(liobn);
        Ok(())
    }

    /// Removes the dynamic windows and gives the guest its default window back, empty. Where the
    /// host cannot have the default window in the place of the only dynamic one, that is refused
    /// with nothing changed.
    pub fn reset_windows(&self) -> Result<(), DdwError> {
        let groups = self.groups.lock();
        self.is_there()?;
        match self.default_table() {
            Some(table) => self.empty(&groups, &table),
            None => self.bring_back(&groups),
        }
    }

    /// Clears the default window, and removes the dynamic one.
    fn empty(&self, groups: &[u32], table: &TceTable) -> Result<(), DdwError> {
        {
            let _writer = table.lock();
            if !groups.is_empty() {
                table.sync_from_kvm(self.space(), &self.ram, 0, table.len())?;
                table::clear(self.space(), table.window())?;
            }
            table.forget();
        }
        let Some(dynamic) = self.dynamic() else { return Ok(()) };
        let half = |why| DdwError::HalfReset { lost: table.window(), why: Box::new(why) };
        self.remove_in(groups, dynamic.liobn()).map_err(half)
    }

    /// Makes the default window anew, in the place of a dynamic one. Of two dynamic windows the
    /// other one is removed first, as the default window may need what it gives back.
    fn bring_back(&self, groups: &[u32]) -> Result<(), DdwError> {
        let config = self.config();
        let mut dynamic: ArrayVec<_, WINDOWS> = self.tables().iter().take(WINDOWS).cloned().collect();
        // A second one has the default window's LIOBN and place.
        dynamic.sort_by_key(|table| table.liobn() == config.liobn);
        let replaced = dynamic.pop();
        if self.directory.has(config.liobn) && replaced.as_ref().is_none_or(|table| table.liobn() != config.liobn) {
            return Err(PhbError::LiobnTaken { liobn: config.liobn }.into());
        }
        let other = dynamic.pop();
        if let Some(other) = &other {
            self.remove_in(groups, other.liobn())?;
        }
        let half = |why| match &other {
            Some(other) => DdwError::HalfReset { lost: other.window(), why: Box::new(why) },
            None => why,
        };
        let mut behind = Backing::Nothing;
        if !groups.is_empty() {
            let request = WindowRequest::cover(config.default).page(DEFAULT_PAGE);
            match &replaced {
                Some(replaced) => self.replace(replaced, &request).map_err(half)?,
                None => self.space().create_window(&request).map(drop)?,
            }
            behind = Backing::Devices(self.space().clone());
        } else if let Some(replaced) = &replaced {
            self.remove_in(groups, replaced.liobn())?;
        }
        let table = self.accelerate(TceTable::new(config.liobn, config.default, DEFAULT_PAGE));
        table.lock().behind = behind;
        match self.enter(table) {
            true => Ok(()),
            false => Err(PhbError::LiobnTaken { liobn: config.liobn }.into()),
        }
    }

    /// Gives the dynamic window up for another one of the host.
    fn replace(&self, dynamic: &TceTable, request: &WindowRequest) -> Result<(), DdwError> {
        let start = dynamic.window().start();
        let mut writer = dynamic.lock();
        self.space().can_replace_window(start, request)?;
        self.release_from_kvm(dynamic);
        let replaced = self.space().replace_window(start, request);
        let lost =
            replaced.is_ok() || self.space().status().windows.iter().all(|(window, _)| window.range.start() != start);
        if lost {
            writer.behind = Backing::Removed;
            self.forget(dynamic.liobn());
        }
        replaced.map(drop).map_err(|why| match lost {
            true => DdwError::HalfReset { lost: dynamic.window(), why: Box::new(why.into()) },
            false => why.into(),
        })
    }
}
