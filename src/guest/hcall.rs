//! TCE hypercalls of a guest: H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT and H_STUFF_TCE (LoPAR).

use super::GuestIommu;
use super::error::HcallError;
use super::runs;
use super::stats::Counters;
use super::table::TceTable;
use crate::addr::{GuestAddr, Liobn};
use crate::uapi::papr::hcall::{
    H_GET_TCE, H_PARAMETER, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, H_SUCCESS, MAX_INDIRECT, MAX_STUFFED,
};
use zerocopy::IntoBytes;

/// Alignment of a list, whatever the guest's own page.
const LIST_ALIGN: u64 = 4096;

impl GuestIommu {
    /// `H_PUT_TCE`: sets the TCE of the page at the bus address `ioba`, in place of the earlier
    /// one. A TCE without rights unmaps, and is stored as it is.
    pub fn h_put_tce(&self, liobn: Liobn, ioba: u64, tce: u64) -> Result<(), HcallError> {
        self.counted(liobn, |table| {
            table.put_one(self.ram(), table.index_of(ioba)?, tce)?;
            table.counters().calls().puts.add(1);
            Ok(())
        })
    }

    /// `H_PUT_TCE_INDIRECT`: sets `count` TCEs, at most 512, from the big-endian list at `list` in
    /// guest memory. The list is copied once and checked whole: all are set or none. TCEs that
    /// continue each other go to the kernel as one MAP.
    pub fn h_put_tce_indirect(&self, liobn: Liobn, ioba: u64, list: u64, count: u64) -> Result<(), HcallError> {
        self.counted(liobn, |table| {
            self.put_list(table, ioba, list, count)?;
            table.counters().calls().indirects.add(1);
            table.counters().calls().tces.add(count);
            Ok(())
        })
    }

    fn put_list(&self, table: &TceTable, ioba: u64, list: u64, count: u64) -> Result<(), HcallError> {
        let mut buffer = [0_u64; MAX_INDIRECT as usize];
        let len = usize::try_from(count).ok();
        let values = len.and_then(|len| buffer.get_mut(..len)).ok_or(HcallError::TooMany { count })?;
        if list & (LIST_ALIGN - 1) != 0 {
            return Err(HcallError::ListMisaligned { list: GuestAddr(list) });
        }
        let first = table.index(ioba, count)?;
        self.ram().memory().read(GuestAddr(list), values.as_mut_bytes()).map_err(HcallError::List)?;
        values.iter_mut().for_each(|value| *value = u64::from_be(*value));
        table.put(self.ram(), first, values)
    }

    /// `H_STUFF_TCE`: sets `count` TCEs, at most 2^18, to `tce`, which must give no rights. The
    /// pages are unmapped with one UNMAP, or none if nothing is mapped.
    pub fn h_stuff_tce(&self, liobn: Liobn, ioba: u64, tce: u64, count: u64) -> Result<(), HcallError> {
        self.counted(liobn, |table| {
            if runs::permission(tce).is_some() {
                return Err(HcallError::StuffsRights { tce });
            }
            let first = table.index(ioba, count)?;
            if count > MAX_STUFFED {
                return Err(HcallError::StuffsTooMany { count });
            }
            table.stuff(self.ram(), first, count, tce)?;
            table.counters().calls().stuffs.add(1);
            table.counters().calls().tces.add(count);
            Ok(())
        })
    }

    /// `H_GET_TCE`: returns the TCE at `ioba` as the guest set it, 0 if it never did. Lock-free.
    pub fn h_get_tce(&self, liobn: Liobn, ioba: u64) -> Result<u64, HcallError> {
        self.counted(liobn, |table| {
            let tce = table.load(table.index_of(ioba)?);
            table.counters().calls().gets.add(1);
            Ok(tce)
        })
    }

    /// Runs `act` on the table with that LIOBN, and counts refusals.
    #[inline]
    fn counted<T>(&self, liobn: Liobn, act: impl FnOnce(&TceTable) -> Result<T, HcallError>) -> Result<T, HcallError> {
        // Boxed, a result fits registers.
        let result = self.directory.with(liobn, |table| match table {
            Some(table) => act(table).map_err(|error| refused(table.counters(), error)),
            None => Err(refused(&self.without_table, HcallError::NoTable { liobn })),
        });
        result.map_err(|error| *error)
    }

    /// Handles a hypercall as `KVM_EXIT_PAPR_HCALL` passes it: its number and r4 to r12. Returns r3
    /// for the guest and leaves r4 to r12 in `args`. `None` if it is not a TCE hypercall.
    pub fn hcall(&self, number: u64, args: &mut [u64; 9]) -> Option<i64> {
        let [liobn, ioba, third, count, ..] = *args;
        let named = u32::try_from(liobn).map(Liobn);
        let result = match (number, named) {
            (H_GET_TCE | H_PUT_TCE | H_STUFF_TCE | H_PUT_TCE_INDIRECT, Err(_)) => return Some(H_PARAMETER),
            (H_GET_TCE, Ok(liobn)) => self.h_get_tce(liobn, ioba).map(|tce| args[0] = tce),
            (H_PUT_TCE, Ok(liobn)) => self.h_put_tce(liobn, ioba, third),
            (H_STUFF_TCE, Ok(liobn)) => self.h_stuff_tce(liobn, ioba, third, count),
            (H_PUT_TCE_INDIRECT, Ok(liobn)) => self.h_put_tce_indirect(liobn, ioba, third, count),
            _ => return None,
        };
        Some(match result {
            Ok(()) => H_SUCCESS,
            Err(error) => {
                tracing::debug!(number, error = &error as &dyn std::error::Error, "hypercall refused");
                error.return_code()
            }
        })
    }
}

#[cold]
fn refused(counters: &Counters, error: HcallError) -> Box<HcallError> {
    counters.refusals.count(&error);
    Box::new(error)
}
