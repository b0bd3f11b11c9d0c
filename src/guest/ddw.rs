//! Dynamic DMA windows: what is offered to a guest, and how its requests are carried out.

use super::error::HcallError;
use super::liobn::Liobn;
use super::phb::{Phb, PhbError};
use super::table::{self, Behind, TceTable};
use crate::addr::{Iova, IovaRange, PageShift};
use crate::space::WindowError;
use crate::uapi::papr::rtas::{HARDWARE_ERROR, PARAMETER_ERROR};
use crate::window::{DEFAULT_PAGE, WindowRequest};
use std::sync::Arc;

/// Number of windows besides the default one.
const DYNAMIC: u32 = 1;

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

/// Why a dynamic window was not created or removed. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum DdwError {
    /// There is no such PHB.
    #[error("there is no PHB with BUID {buid:#x}")]
    NoPhb { buid: u64 },
    /// An RTAS call has the wrong number of cells.
    #[error("{args} arguments and {rets} results: not the cells of this call")]
    Cells { args: usize, rets: usize },
    /// A dynamic window already exists.
    #[error("no window is left: {present} is there")]
    NoneLeft { present: IovaRange },
    /// A page that was not offered.
    #[error("pages of 2^{shift} bytes are not offered")]
    Page { shift: u32 },
    /// More than was offered, or less than a page.
    #[error("a window of 2^{shift} bytes is not offered: from one page to {entries:#x} TCEs")]
    Size { shift: u32, entries: u64 },
    /// No window has this LIOBN.
    #[error("no window has {liobn}")]
    NoWindow { liobn: Liobn },
    /// The host could not create or remove the window.
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

impl DdwError {
    /// Returns the status for the guest (LoPAR, RTAS return codes).
    pub fn status(&self) -> i32 {
        match self {
            Self::Host(_) | Self::Clear(_) | Self::Observe(_) | Self::Phb(_) => HARDWARE_ERROR,
            _ => PARAMETER_ERROR,
        }
    }
}

impl Phb {
    fn dynamic(&self) -> Option<Arc<TceTable>> {
        self.tables().iter().find(|table| table.liobn() == self.config().dynamic_liobn()).cloned()
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
        let mut offer = DdwOffer { windows: DYNAMIC, entries: self.config().entries, pages };
        let Some(page) = offer.page_sizes().next_back() else { return DdwOffer { windows: 0, entries: 0, pages: 0 } };
        if let Some(present) = self.dynamic() {
            return DdwOffer { windows: 0, entries: offer.entries.min(present.len()), pages };
        }
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
        if let Some(present) = self.dynamic() {
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
            true => Behind::Nothing,
            false => Behind::Devices(self.space().clone()),
        };
        let start = match groups.is_empty() {
            true => self.config().dynamic,
            false => self.space().create_window(&self.host_window(page, size))?.range.start(),
        };
        let table = self.placed(start, size, page).inspect_err(|_| self.take_back(&groups, start))?;
        let table = self.keep(table);
        table.lock().behind = behind;
        if !self.enter(Arc::clone(&table)) {
            self.keep_no_more(&table);
            self.take_back(&groups, start);
            return Err(PhbError::LiobnTaken { liobn: table.liobn() }.into());
        }
        Ok(table)
    }

    fn placed(&self, start: Iova, size: u64, page: PageShift) -> Result<TceTable, DdwError> {
        let elsewhere = |window| PhbError::Elsewhere { window, start };
        let window = IovaRange::new(start, size).map_err(|_| elsewhere(self.config().default))?;
        match self.default_table().filter(|table| table.window().intersection(&window).is_some()) {
            Some(_) => Err(elsewhere(window).into()),
            None => Ok(TceTable::new(self.config().dynamic_liobn(), window, page)),
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
        self.keep_no_more(&table);
        if !groups.is_empty() {
            self.space().discard_window(table.window().start())?;
        }
        writer.behind = Behind::Removed;
        self.forget(liobn);
        Ok(())
    }

    /// Removes the dynamic window and gives the guest its default window back, empty.
    pub fn reset_windows(&self) -> Result<(), DdwError> {
        let groups = self.groups.lock();
        if let Some(dynamic) = self.dynamic() {
            self.remove_in(&groups, dynamic.liobn())?;
        }
        if let Some(table) = self.default_table() {
            let _writer = table.lock();
            if !groups.is_empty() {
                table.observe(self.space(), &self.ram, 0, table.len())?;
                table::clear(self.space(), table.window())?;
            }
            table.forget();
            return Ok(());
        }
        let config = self.config();
        if !groups.is_empty() {
            self.space().create_window(&WindowRequest::cover(config.default).page(DEFAULT_PAGE))?;
        }
        let table = self.keep(TceTable::new(config.liobn, config.default, DEFAULT_PAGE));
        if !groups.is_empty() {
            table.lock().behind = Behind::Devices(self.space().clone());
        }
        match self.enter(table) {
            true => Ok(()),
            false => Err(PhbError::LiobnTaken { liobn: config.liobn }.into()),
        }
    }
}
