//! RTAS calls for dynamic DMA windows, cell by cell (LoPAR, "DMA window" RTAS functions).

use super::GuestIommu;
use super::ddw::DdwError;
use super::liobn::Liobn;
use super::phb::Phb;
use super::rtas_block::RtasBlock;
use super::tokens::{DdwTokens, RtasCall};
use crate::addr::GuestAddr;
use crate::uapi::papr::DDW_PAGE_SHIFTS;
use crate::uapi::papr::hcall::{H_PARAMETER, H_SUCCESS};
use crate::uapi::papr::rtas::{PARAMETER_ERROR, SUCCESS};
use std::sync::Arc;

/// The most results.
const MAX_CELLS: usize = 16;

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

const fn low(value: u64) -> u32 {
    value as u32
}

/// Converts pages to the bits of a query's mask.
fn page_mask(pages: u64) -> u32 {
    let bits = DDW_PAGE_SHIFTS.iter().enumerate();
    bits.filter(|(_, shift)| pages & (1 << **shift) != 0).fold(0, |mask, (bit, _)| mask | 1 << bit)
}

impl GuestIommu {
    /// Carries out an RTAS call. `args` and `rets` are its cells as numbers; `rets[0]` gets the
    /// status, the rest is 0 after a failure. The error is for the VMM to log.
    pub fn rtas(&self, call: RtasCall, args: &[u32], rets: &mut [u32]) -> Result<(), DdwError> {
        rets.fill(0);
        let result = self.carry_out(call, args, rets);
        let status = match &result {
            Ok(()) => SUCCESS,
            Err(error) => {
                tracing::debug!(?call, error = error as &dyn std::error::Error, "RTAS call refused");
                rets.fill(0);
                error.status()
            }
        };
        if let Some(first) = rets.first_mut() {
            *first = status.cast_unsigned();
        }
        result
    }

    fn carry_out(&self, call: RtasCall, args: &[u32], rets: &mut [u32]) -> Result<(), DdwError> {
        let phb = |buid_high: u32, buid_low: u32| -> Result<Arc<Phb>, DdwError> {
            let buid = u64::from(buid_high) << 32 | u64::from(buid_low);
            self.phb(buid).ok_or(DdwError::NoPhb { buid })
        };
        match (call, args, rets) {
            (RtasCall::QueryPeDmaWindow, &[_, hi, lo], [_, windows, block, pages, _]) => {
                let offer = phb(hi, lo)?.offer();
                // A block that does not fit the cell is reported as the largest that does.
                (*windows, *block) = (offer.windows, offer.entries.min(1 << 31) as u32);
                *pages = page_mask(offer.pages);
                Ok(())
            }
            (RtasCall::QueryPeDmaWindow, &[_, hi, lo], [_, windows, block_high, block_low, pages, _]) => {
                let offer = phb(hi, lo)?.offer();
                (*windows, *block_high, *block_low) = (offer.windows, high(offer.entries), low(offer.entries));
                *pages = page_mask(offer.pages);
                Ok(())
            }
            (RtasCall::CreatePeDmaWindow, &[_, hi, lo, page, window], [_, liobn, addr_high, addr_low]) => {
                if window == 0 {
                    tracing::warn!(
                        "the guest asks for a DMA window of 2^0 bytes: give its device tree ibm,lrdr-capacity, \
                         which Linux reads its largest memory from"
                    );
                }
                let table = phb(hi, lo)?.create_window(page, window)?;
                let start = table.window().start().0;
                (*liobn, *addr_high, *addr_low) = (table.liobn().0, high(start), low(start));
                Ok(())
            }
            (RtasCall::RemovePeDmaWindow, &[liobn], [_]) => {
                let liobn = Liobn(liobn);
                let has = |phb: &Arc<Phb>| phb.tables().iter().any(|table| table.liobn() == liobn);
                let phb = self.phbs().into_iter().find(has).ok_or(DdwError::NoWindow { liobn })?;
                phb.remove_window(liobn)
            }
            // Limited addressing gives the same windows: the default one is below 4 GiB in any
            // case.
            (RtasCall::ResetPeDmaWindow, &[_, hi, lo] | &[_, hi, lo, _], [_]) => phb(hi, lo)?.reset_windows(),
            (_, args, rets) => Err(DdwError::Cells { args: args.len(), rets: rets.len() }),
        }
    }

    /// An RTAS call whose argument block lies at `at` in guest memory: see [`RtasBlock`]. What
    /// `H_RTAS` gets (QEMU and SLOF). `None` when the token is none of ours: then nothing was done.
    pub fn h_rtas(&self, tokens: &DdwTokens, at: GuestAddr) -> Option<i64> {
        let memory = self.ram().memory();
        let Ok(token) = RtasBlock::token_at(memory, at) else { return Some(H_PARAMETER) };
        tokens.call(token)?;
        let Ok(block) = RtasBlock::read(memory, at) else { return Some(H_PARAMETER) };
        let call = tokens.call(block.token())?;
        let mut results = [0; MAX_CELLS];
        let results = results.get_mut(..block.rets())?;
        // The status is in the results.
        let _ = self.rtas(call, block.args(), results);
        Some(if block.write(memory, results).is_ok() { H_SUCCESS } else { H_PARAMETER })
    }
}

impl DdwError {
    /// Returns whether the guest requested what it may not have, rather than the host failing.
    pub fn is_the_guests(&self) -> bool {
        self.status() == PARAMETER_ERROR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_the_bits_of_the_query() {
        assert_eq!(page_mask(0x1211000), 0x107);
        assert_eq!(page_mask(0x11000), 0x3);
        assert_eq!(page_mask(1 << 34), 0x80);
    }
}
