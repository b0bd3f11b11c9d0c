//! TCE hypercalls of a guest.

use super::GuestIommu;
use super::error::HcallError;
use super::liobn::Liobn;
use super::tce;
use crate::addr::GuestAddr;
use crate::uapi::papr::hcall::{
    H_GET_TCE, H_PARAMETER, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, H_SUCCESS, MOST_INDIRECT,
};

/// Lists are aligned to pages of this size, whatever the guest's own page.
const LIST_ALIGN: u64 = 4096;
/// Bytes of a full list.
const LIST_BYTES: usize = (MOST_INDIRECT as usize) * 8;

impl GuestIommu {
    /// `H_PUT_TCE`: sets one TCE at `ioba`, a bus address, which includes the window's start. A TCE
    /// without rights unmaps, and is kept as it is. Replaces the earlier TCE.
    pub fn h_put_tce(&self, liobn: Liobn, ioba: u64, tce: u64) -> Result<(), HcallError> {
        self.with_table(liobn, |table| table.put(self.ram(), table.index(ioba, 1)?, &[tce]))
    }

    /// `H_PUT_TCE_INDIRECT`: sets the `count` TCEs, at most 512, that are stored big endian at
    /// `list` in guest memory. The list is copied once and checked whole: all are set or none. TCEs
    /// that continue each other go to the kernel as one MAP.
    pub fn h_put_tce_indirect(&self, liobn: Liobn, ioba: u64, list: u64, count: u64) -> Result<(), HcallError> {
        let table = self.table(liobn)?;
        if count > MOST_INDIRECT {
            return Err(HcallError::TooMany { count });
        }
        if list & (LIST_ALIGN - 1) != 0 {
            return Err(HcallError::ListMisaligned { list: GuestAddr(list) });
        }
        let first = table.index(ioba, count)?;
        let mut bytes = [0; LIST_BYTES];
        let len = count as usize * 8;
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        self.ram().memory().read(GuestAddr(list), bytes).map_err(HcallError::List)?;
        let mut values = [0; MOST_INDIRECT as usize];
        let (words, _) = bytes.as_chunks::<8>();
        for (value, word) in values.iter_mut().zip(words) {
            *value = u64::from_be_bytes(*word);
        }
        table.put(self.ram(), first, values.get(..count as usize).unwrap_or_default())
    }

    /// `H_STUFF_TCE`: sets `tce`, which gives no rights, `count` times: the pages are unmapped,
    /// with one UNMAP if they are mapped at all.
    pub fn h_stuff_tce(&self, liobn: Liobn, ioba: u64, tce: u64, count: u64) -> Result<(), HcallError> {
        let table = self.table(liobn)?;
        if tce::permission(tce).is_some() {
            return Err(HcallError::StuffsRights { tce });
        }
        let first = table.index(ioba, count)?;
        table.stuff(self.ram(), first, count, tce)
    }

    /// `H_GET_TCE`: returns the TCE at `ioba` as the guest set it, 0 if it never did. Lock-free.
    pub fn h_get_tce(&self, liobn: Liobn, ioba: u64) -> Result<u64, HcallError> {
        self.with_table(liobn, |table| Ok(table.load(table.index(ioba, 1)?)))
    }

    /// Handles a hypercall as `KVM_EXIT_PAPR_HCALL` passes it: its number and r4 to r12. Returns r3
    /// for the guest, and leaves r4 and up in `args`. `None` if it is not a TCE hypercall.
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
                tracing::debug!(number, %error, "hypercall refused");
                error.code()
            }
        })
    }
}
