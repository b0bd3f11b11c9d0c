//! Translates bus addresses to the guest's memory, for devices that the VMM emulates.

use super::entries::{Branch, SPAN};
use super::memory::NoMemory;
use super::phb::Phb;
use super::read_mostly::Version;
use super::runs;
use super::table::TceTable;
use crate::addr::{GuestAddr, Iova, PageShift};
use crate::permission::Permission;
use std::cell::RefCell;
use std::sync::Arc;

/// Where a bus address leads in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestTranslation {
    /// Guest address.
    pub guest: GuestAddr,
    /// What the device may do there.
    pub permission: Permission,
    /// The window's page: the translation holds up to the end of this page.
    pub page: PageShift,
}

impl GuestTranslation {
    /// Returns where `tce`, of the page that holds `iova`, leads.
    #[inline]
    pub(super) fn of_tce(tce: u64, iova: Iova, page: PageShift) -> Option<Self> {
        let permission = runs::permission(tce)?;
        let start = runs::address(tce, page)?;
        Some(Self { guest: GuestAddr(start.0 | (iova.0 & page.mask())), permission, page })
    }

    /// Returns the mask of the address bits within the page.
    pub fn mask(&self) -> u64 {
        self.page.mask()
    }
}

impl TceTable {
    /// Translates `iova`; `None` outside the window, and where the guest gave no rights. Lock-free.
    #[inline]
    pub fn translate(&self, iova: Iova) -> Option<GuestTranslation> {
        GuestTranslation::of_tce(self.tce(iova)?, iova, self.page())
    }

    /// Returns the entry of the page that holds `iova`; `None` outside the window.
    #[inline]
    pub(super) fn tce(&self, iova: Iova) -> Option<u64> {
        let offset = iova.0.wrapping_sub(self.window().start().0);
        (offset < self.window().len()).then(|| self.load(offset >> self.page().get()))
    }
}

/// The part of a table in which a translation ended: most often the next one does as well.
#[derive(Debug)]
struct Part {
    /// First bus address.
    start: Iova,
    /// Bytes.
    len: u64,
    page: PageShift,
    entries: Arc<Branch>,
}

/// A PHB's windows at hand, and where the last translation ended.
#[derive(Debug)]
pub(super) struct View {
    tables: Version<Vec<Arc<TceTable>>>,
    last: Option<Part>,
}

impl View {
    fn new(phb: &Phb) -> Self {
        Self { tables: phb.tables.latest(), last: None }
    }

    #[inline]
    fn translate(&mut self, phb: &Phb, iova: Iova) -> Option<GuestTranslation> {
        let (tce, page) = self.tce(phb, iova);
        GuestTranslation::of_tce(tce, iova, page)
    }

    /// Returns the entry of the page that holds `iova`, 0 outside of all windows, and its page.
    #[inline]
    fn tce(&mut self, phb: &Phb, iova: Iova) -> (u64, PageShift) {
        if phb.tables.is_latest(&self.tables)
            && let Some(last) = &self.last
            && let offset = iova.0.wrapping_sub(last.start.0)
            && offset < last.len
        {
            return (last.entries.load(offset >> last.page.get()), last.page);
        }
        self.tce_elsewhere(phb, iova)
    }

    /// Does the same, and keeps the part of the table where it lies.
    #[cold]
    fn tce_elsewhere(&mut self, phb: &Phb, iova: Iova) -> (u64, PageShift) {
        self.last = None;
        phb.tables.refresh(&mut self.tables);
        let Some(table) = self.tables.value().iter().find(|table| table.window().contains(iova)) else {
            return (0, PageShift::P4K);
        };
        self.last = table.part(iova);
        (table.tce(iova).unwrap_or(0), table.page())
    }
}

/// A device's view of its PHB, for devices that translate much: it keeps the PHB's windows at hand
/// and looks only whether they have changed.
///
/// ```
/// # use spapr_iommu::addr::{GuestAddr, Iova};
/// # use spapr_iommu::guest::{GuestIommu, Liobn, PhbConfig, Slots, Translator};
/// # use spapr_iommu::host::Host;
/// # use spapr_iommu::model::Model;
/// # use spapr_iommu::registry::Registry;
/// # use std::sync::Arc;
/// # let host = Arc::new(Model::new("powernv9-64k".parse()?));
/// # let memory = host.share(64 << 20, host.page_shift())?;
/// # let slots = Slots::new();
/// # slots.insert(GuestAddr(0), &memory)?;
/// # let iommu = GuestIommu::new(&Registry::new(host), Arc::new(slots));
/// # iommu.add_memory()?;
/// let phb = iommu.add_phb(PhbConfig::new(1, Liobn(0x8000_0000))?)?;
/// let mut device = Translator::new(phb);
/// iommu.h_put_tce(Liobn(0x8000_0000), 0x1000, 0x10_0003)?;
/// assert_eq!(device.translate(Iova(0x1010)).map(|there| there.guest), Some(GuestAddr(0x10_0010)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Translator {
    phb: Arc<Phb>,
    view: View,
}

impl Translator {
    /// Creates the view of a device on `phb`.
    pub fn new(phb: Arc<Phb>) -> Self {
        Self { view: View::new(&phb), phb }
    }

    /// Returns the device's PHB.
    pub fn phb(&self) -> &Arc<Phb> {
        &self.phb
    }

    /// Translates `iova` as [`Phb::translate`] does.
    #[inline]
    pub fn translate(&mut self, iova: Iova) -> Option<GuestTranslation> {
        self.view.translate(&self.phb, iova)
    }
}

/// Bus addresses that lead to consecutive guest addresses with the same rights.
pub(super) struct Stretch {
    pub there: GuestTranslation,
    /// Bytes.
    pub len: u64,
    /// TCEs that were read.
    #[cfg_attr(not(feature = "vm-memory"), allow(dead_code, reason = "bounds accesses of PhbIommu"))]
    pub tces: u64,
}

impl TceTable {
    /// Returns the part of the table that holds the entry of `iova`, which lies in the window;
    /// `None` while all of the part has one value, or the kernel has the table.
    fn part(&self, iova: Iova) -> Option<Part> {
        let (window, page) = (self.window(), self.page());
        let (first, entries) = self.entries().branch_of((iova.0 - window.start().0) >> page.get())?;
        let start = Iova(window.start().0 + (first << page.get()));
        Some(Part { start, len: (SPAN << page.get()).min(window.end().0 - start.0), page, entries })
    }

    /// Translates `iova` and what follows it: `len` bytes and `tces` TCEs at most.
    fn stretch(&self, iova: Iova, len: u64, tces: u64) -> Option<Stretch> {
        let there = self.translate(iova)?;
        let page = self.page();
        let first = (iova.0 - self.window().start().0) >> page.get();
        let most = (iova.0 & page.mask()).saturating_add(len).div_ceil(page.bytes()).min(tces);
        let tce = self.load(first);
        let follows = |count: &u64| self.load(first + count) == tce.wrapping_add(count << page.get());
        // The first was read twice: a guest that changes it meanwhile gets either.
        let count = 1 + (1..most).take_while(follows).count() as u64;
        let reach = (count << page.get()) - (iova.0 & page.mask());
        Some(Stretch { there, len: reach.min(len), tces: count })
    }
}

/// Why an emulated device did not reach guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum DeviceAccessError {
    /// The guest gave no such right at the bus address, the first such one.
    #[error("the guest does not let devices {access} at bus address {at}: map it before starting the device")]
    NotMapped { at: Iova, access: &'static str },
    /// The bus addresses wrap.
    #[error("{len} bytes at bus address {at} run past the end of the bus")]
    Wraps { at: Iova, len: usize },
    /// The VMM does not have the RAM to which the guest's TCE leads.
    #[error("the guest maps RAM that the VMM took away: call remove_memory before a slot is removed")]
    Memory(#[source] NoMemory),
}

crate::error::classify!(DeviceAccessError {
    Argument: Wraps;
    NotFound: NotMapped, Memory;
});

impl Phb {
    /// Translates `iova` for a device on this PHB: the result of its guest's TCE. Lock-free, also
    /// while vCPUs make hypercalls.
    #[inline]
    pub fn translate(&self, iova: Iova) -> Option<GuestTranslation> {
        let kept = self.views.get().unwrap_or_else(|| self.first_view());
        let (tce, page) = match kept.try_borrow_mut() {
            Ok(mut view) => view.tce(self, iova),
            Err(_) => View::new(self).tce_elsewhere(self, iova),
        };
        GuestTranslation::of_tce(tce, iova, page)
    }

    /// Creates this thread's view.
    #[cold]
    fn first_view(&self) -> &RefCell<View> {
        self.views.get_or(|| RefCell::new(View::new(self)))
    }

    /// Translates `iova` and what follows it in the same window: `len` bytes and `tces` TCEs at
    /// most.
    pub(super) fn stretch(&self, iova: Iova, len: u64, tces: u64) -> Option<Stretch> {
        self.tables.read(|tables| tables.iter().find(|table| table.window().contains(iova))?.stretch(iova, len, tces))
    }

    /// Reads guest memory at a bus address as an emulated device on this PHB does, through the
    /// guest's TCEs. After an error, some of `data` may have been read.
    pub fn device_read(&self, iova: Iova, data: &mut [u8]) -> Result<(), DeviceAccessError> {
        let (mut at, mut rest) = (iova, data);
        check_end(iova, rest.len())?;
        while !rest.is_empty() {
            let (guest, len) = self.reach(at, rest.len(), Permission::Read)?;
            let (part, after) = rest.split_at_mut(len);
            self.ram.memory().read(guest, part).map_err(DeviceAccessError::Memory)?;
            (at, rest) = (Iova(at.0 + len as u64), after);
        }
        Ok(())
    }

    /// Writes guest memory at a bus address as an emulated device on this PHB does. After an error,
    /// some of `data` may have been written.
    pub fn device_write(&self, iova: Iova, data: &[u8]) -> Result<(), DeviceAccessError> {
        let (mut at, mut rest) = (iova, data);
        check_end(iova, rest.len())?;
        while !rest.is_empty() {
            let (guest, len) = self.reach(at, rest.len(), Permission::Write)?;
            let (part, after) = rest.split_at(len);
            self.ram.memory().write(guest, part).map_err(DeviceAccessError::Memory)?;
            (at, rest) = (Iova(at.0 + len as u64), after);
        }
        Ok(())
    }

    /// Returns where a device reaches guest memory at `at`, and how many of `len` bytes there.
    fn reach(&self, at: Iova, len: usize, access: Permission) -> Result<(GuestAddr, usize), DeviceAccessError> {
        let found = self.stretch(at, len as u64, u64::MAX);
        let found = found.filter(|found| [access, Permission::ReadWrite].contains(&found.there.permission));
        let access = if access == Permission::Read { "read" } else { "write" };
        let found = found.ok_or(DeviceAccessError::NotMapped { at, access })?;
        Ok((found.there.guest, len.min(found.len as usize)))
    }
}

/// Checks that `len` bytes at `at` end on the bus.
fn check_end(at: Iova, len: usize) -> Result<(), DeviceAccessError> {
    at.0.checked_add(len as u64).map(drop).ok_or(DeviceAccessError::Wraps { at, len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{GuestIommu, Liobn, PhbConfig, Slots};
    use crate::host::Host;
    use crate::model::Model;
    use crate::registry::Registry;

    const LIOBN: Liobn = Liobn(0x8000_0000);

    fn guest() -> (GuestIommu, Arc<Phb>) {
        let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
        let slots = Slots::new();
        slots.insert(GuestAddr(0), &model.share(1 << 20, PageShift::P64K).unwrap()).unwrap();
        let iommu = GuestIommu::new(&Registry::new(model), Arc::new(slots));
        iommu.add_memory().unwrap();
        let phb = iommu.add_phb(PhbConfig::new(1, LIOBN).unwrap()).unwrap();
        (iommu, phb)
    }

    /// Where the PHB and the device, each with a view of its own, say that `iova` leads.
    fn both(device: &mut Translator, iova: u64) -> Option<u64> {
        let found = device.translate(Iova(iova));
        assert_eq!(found, device.phb().translate(Iova(iova)));
        found.map(|there| there.guest.0)
    }

    #[test]
    fn a_device_sees_each_change_of_its_tables() {
        let (iommu, phb) = guest();
        let mut device = Translator::new(phb.clone());
        assert_eq!(both(&mut device, 0x1010), None);
        iommu.h_put_tce(LIOBN, 0x1000, 0x2_0003).unwrap();
        assert_eq!([0x1010, 0x2010].map(|iova| both(&mut device, iova)), [Some(0x2_0010), None]);
        // In another branch, and back.
        iommu.h_put_tce(LIOBN, 0x3fff_f000, 0x3_0001).unwrap();
        assert_eq!([0x3fff_f004, 0x1010].map(|iova| both(&mut device, iova)), [Some(0x3_0004), Some(0x2_0010)]);
        iommu.h_put_tce(LIOBN, 0x1000, 0x4_0003).unwrap();
        assert_eq!(both(&mut device, 0x1010), Some(0x4_0010));
        iommu.h_stuff_tce(LIOBN, 0, 0, 512).unwrap();
        assert_eq!(both(&mut device, 0x1010), None);
        assert_eq!([1 << 30, u64::MAX].map(|iova| both(&mut device, iova)), [None, None]);
    }

    #[test]
    fn a_device_sees_no_window_that_was_removed() {
        let (iommu, phb) = guest();
        let mut device = Translator::new(phb.clone());
        iommu.h_put_tce(LIOBN, 0x1000, 0x2_0003).unwrap();
        assert_eq!(both(&mut device, 0x1000), Some(0x2_0000));
        phb.remove_window(LIOBN).unwrap();
        // Twice: what the first look finds out must hold for the second.
        assert_eq!([0x1000, 0x1000].map(|iova| both(&mut device, iova)), [None, None]);
        phb.reset_windows().unwrap();
        assert_eq!([0x1000, 0x1000].map(|iova| both(&mut device, iova)), [None, None]);
        iommu.h_put_tce(LIOBN, 0x1000, 0x3_0003).unwrap();
        assert_eq!(both(&mut device, 0x1000), Some(0x3_0000));
        iommu.remove_phb(1).unwrap();
        assert_eq!(both(&mut device, 0x1000), None);
    }

    #[test]
    fn what_is_still_read_of_removed_windows_counts() {
        let (iommu, phb) = guest();
        let bytes = || phb.table_bytes.load(std::sync::atomic::Ordering::Relaxed);
        let put = || iommu.h_put_tce(LIOBN, 0x1000, 0x2_0003).unwrap();
        put();
        let one = bytes();
        assert_ne!(one, 0);
        let mut device = Translator::new(phb.clone());
        device.translate(Iova(0x1000)).unwrap();
        phb.remove_window(LIOBN).unwrap();
        phb.reset_windows().unwrap();
        put();
        // The device has not looked again.
        assert_eq!(bytes(), 2 * one);
        device.translate(Iova(0x1000)).unwrap();
        assert_eq!(bytes(), one);
    }
}
