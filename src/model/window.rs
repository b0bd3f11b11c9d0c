//! TCE_CREATE, TCE_REMOVE and the default window.

use super::container::{Driver, Kernel, Result, check_args};
use super::platform::Request;
use super::table::Table;
use super::violation::Violation;
use crate::host::Errno;
use crate::uapi::spapr::{TceCreate, TceRemove};
use rangemap::RangeMap;

impl Driver {
    pub(super) fn create(&mut self, kernel: &mut Kernel, args: &mut TceCreate) -> Result {
        self.bound = true;
        check_args(args.argsz, size_of::<TceCreate>(), args.flags)?;
        self.create_default(kernel)?;
        args.start_addr = self.create_window(kernel, args.page_shift, args.window_size, args.levels)?;
        Ok(0)
    }

    /// Creates the default window at the first call that may need it. If that fails, it stays
    /// pending.
    pub(super) fn create_default(&mut self, kernel: &mut Kernel) -> Result<()> {
        if self.default_pending {
            self.create_window(kernel, 12, u64::from(kernel.preset.limits().size), 1)?;
            self.default_pending = false;
        }
        Ok(())
    }

    /// `tce_iommu_create_window`.
    fn create_window(&mut self, kernel: &mut Kernel, shift: u32, size: u64, levels: u32) -> Result<u64> {
        let slot = self.tables.iter().position(Option::is_none).ok_or(Errno::ENOSPC)?;
        let newest = *self.groups.first().ok_or(Errno::ENODEV)?;
        // The check shifts by any number; as 6.12 is compiled, the low seven bits count.
        let low = if kernel.preset.kernel.bounds_page_shift() { shift } else { shift & 0x7f };
        if 1u64.checked_shl(low).is_none_or(|bit| kernel.preset.limits().pgsizes & bit == 0) {
            return Err(Errno::EINVAL);
        }
        let bytes = kernel.preset.table_size(low, size, levels);
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let charged = bytes >> kernel.process.page.get();
        kernel.process.locked.charge(charged)?;
        // The kernel loses its charge when the platform fails.
        let leaked = Violation::LeakedCharge { bytes: charged << kernel.process.page.get() };
        let leaked = (charged != 0).then_some(leaked);
        if low != shift {
            kernel.violations.push(Violation::WildPageShift { page_shift: shift });
            kernel.violations.extend(leaked);
            return Err(Errno::EINVAL);
        }
        let pe = &mut kernel.groups.get_mut(&newest).ok_or(Errno::ENODEV)?.pe;
        let request = Request { slot, shift, size, levels };
        let made = kernel.preset.create_table(pe, request, &mut kernel.violations);
        let made = made.inspect_err(|_| kernel.violations.extend(leaked))?;
        let table = Table {
            kind: made.kind,
            shift,
            start: made.start,
            entries: made.entries,
            charged,
            group: newest,
            runs: RangeMap::new(),
        };
        if let Err(errno) = self.groups.iter().try_for_each(|group| kernel.preset.set_window(*group, &table)) {
            self.free(kernel, table);
            return Err(errno);
        }
        self.tables[slot] = Some(table);
        Ok(made.start)
    }

    pub(super) fn remove(&mut self, kernel: &mut Kernel, args: &TceRemove) -> Result {
        self.bound = true;
        check_args(args.argsz, size_of::<TceRemove>(), args.flags)?;
        if self.default_pending && args.start_addr == 0 {
            self.default_pending = false;
            return Ok(0);
        }
        let slot = self.slot(args.start_addr).ok_or(Errno::EINVAL)?;
        if let Some(mut table) = self.tables[slot].take() {
            table.clear(&table.numbers(), self.v2.then_some(&mut kernel.regions));
            self.free(kernel, table);
        }
        Ok(0)
    }

    /// Returns the slot of the window that holds a bus address, wherever in the window it lies.
    pub(super) fn slot(&self, iova: u64) -> Option<usize> {
        self.tables.iter().position(|table| table.as_ref().is_some_and(|table| table.contains(iova)))
    }

    /// Removes a window from every group and releases its charge.
    fn free(&self, kernel: &mut Kernel, table: Table) {
        for number in &self.groups {
            if let Some(group) = kernel.groups.get_mut(number) {
                kernel.preset.unset_window(&mut group.pe, &table);
            }
        }
        kernel.process.locked.uncharge(table.charged);
    }
}
