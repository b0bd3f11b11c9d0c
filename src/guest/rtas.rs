//! RTAS calls for dynamic DMA windows (LoPAR, "DMA window" RTAS functions): tokens, argument
//! blocks, cells, and the device tree properties that announce them.

use super::GuestIommu;
use super::ddw::DdwError;
use super::memory::{GuestMemory, NoMemory};
use super::phb::Phb;
use crate::addr::{GuestAddr, Liobn};
use crate::uapi::papr::DDW_PAGE_SHIFTS;
use crate::uapi::papr::hcall::{H_PARAMETER, H_SUCCESS};
use crate::uapi::papr::rtas::SUCCESS;
use arrayvec::ArrayVec;
use std::sync::Arc;

/// An RTAS call for DMA windows, with the cells of its arguments and results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtasCall {
    /// `ibm,query-pe-dma-window`: config address, BUID high, low; 5 results, or 6 with a 64-bit
    /// block.
    QueryPeDmaWindow,
    /// `ibm,create-pe-dma-window`: config address, BUID high, low, page shift, window shift;
    /// status, LIOBN, address high, low.
    CreatePeDmaWindow,
    /// `ibm,remove-pe-dma-window`: LIOBN; status.
    RemovePeDmaWindow,
    /// `ibm,reset-pe-dma-window`: config address, BUID high, low, and optionally 1 for limited
    /// addressing; status.
    ResetPeDmaWindow,
}

/// RTAS tokens of the calls for DMA windows: any four numbers that no other call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DdwTokens {
    /// Token of `ibm,query-pe-dma-window`.
    pub query: u32,
    /// Token of `ibm,create-pe-dma-window`.
    pub create: u32,
    /// Token of `ibm,remove-pe-dma-window`.
    pub remove: u32,
    /// Token of `ibm,reset-pe-dma-window`.
    pub reset: u32,
}

impl DdwTokens {
    /// Returns the call with that token.
    pub fn call(&self, token: u32) -> Option<RtasCall> {
        match token {
            _ if token == self.query => Some(RtasCall::QueryPeDmaWindow),
            _ if token == self.create => Some(RtasCall::CreatePeDmaWindow),
            _ if token == self.remove => Some(RtasCall::RemovePeDmaWindow),
            _ if token == self.reset => Some(RtasCall::ResetPeDmaWindow),
            _ => None,
        }
    }

    /// Returns names and tokens for the `/rtas` node of the device tree.
    pub fn names(&self) -> [(&'static str, u32); 4] {
        [
            ("ibm,query-pe-dma-window", self.query),
            ("ibm,create-pe-dma-window", self.create),
            ("ibm,remove-pe-dma-window", self.remove),
            ("ibm,reset-pe-dma-window", self.reset),
        ]
    }
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

const fn low(value: u64) -> u32 {
    value as u32
}

/// Converts page sizes, bit n for 2^n bytes, to the mask of `ibm,query-pe-dma-window`.
fn page_mask(pages: u64) -> u32 {
    let bits = DDW_PAGE_SHIFTS.iter().enumerate();
    bits.filter(|(_, shift)| pages & (1 << **shift) != 0).fold(0, |mask, (bit, _)| mask | 1 << bit)
}

impl GuestIommu {
    /// Handles an RTAS call. `args` and `rets` are its cells as numbers. `rets[0]` gets the status;
    /// the others are 0 after a failure. The error is for the VMM to log.
    pub fn rtas(&self, call: RtasCall, args: &[u32], rets: &mut [u32]) -> Result<(), DdwError> {
        rets.fill(0);
        let result = self.dispatch(call, args, rets);
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

    fn dispatch(&self, call: RtasCall, args: &[u32], rets: &mut [u32]) -> Result<(), DdwError> {
        let phb = |buid_high: u32, buid_low: u32| -> Result<Arc<Phb>, DdwError> {
            let buid = u64::from(buid_high) << 32 | u64::from(buid_low);
            self.phb(buid).ok_or(DdwError::NoPhb { buid })
        };
        match (call, args, rets) {
            (RtasCall::QueryPeDmaWindow, &[_, hi, lo], [_, windows, block, pages, _]) => {
                let offer = phb(hi, lo)?.offer();
                // A number that does not fit the cell is reported as the largest power of two that
                // does.
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
                        "the guest requested a DMA window of 2^0 bytes: give its device tree ibm,lrdr-capacity, \
                         from which Linux reads the size of its memory"
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
            // Limited addressing gives the same windows: the default one is below 4 GiB anyway.
            (RtasCall::ResetPeDmaWindow, &[_, hi, lo] | &[_, hi, lo, _], [_]) => phb(hi, lo)?.reset_windows(),
            (_, args, rets) => Err(DdwError::Cells { args: args.len(), rets: rets.len() }),
        }
    }

    /// Handles `H_RTAS`, QEMU's private hypercall: an RTAS call whose argument block lies at `at`
    /// in guest memory (see [`RtasBlock`]). Returns r3 for the guest; `None` without any effect if
    /// the token is not in `tokens`.
    pub fn h_rtas(&self, tokens: &DdwTokens, at: GuestAddr) -> Option<i64> {
        let memory = self.ram().memory();
        let Ok(token) = RtasBlock::token_at(memory, at) else { return Some(H_PARAMETER) };
        tokens.call(token)?;
        let Ok(block) = RtasBlock::read(memory, at) else { return Some(H_PARAMETER) };
        let call = tokens.call(block.token())?;
        let mut results: Cells = core::iter::repeat_n(0, block.rets()).collect();
        // The results contain the status.
        let _ = self.rtas(call, block.args(), &mut results);
        Some(if block.write(memory, &results).is_ok() { H_SUCCESS } else { H_PARAMETER })
    }
}

/// A property of a device tree node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Property name.
    pub name: &'static str,
    /// Property value: big-endian cells.
    pub value: Vec<u8>,
}

fn property(name: &'static str, cells: &[u32]) -> Property {
    Property { name, value: cells.iter().flat_map(|cell| cell.to_be_bytes()).collect() }
}

impl Phb {
    /// Returns the DMA properties of the PHB's device tree node (LoPAR, "DMA window" properties):
    /// `ibm,#dma-address-cells` and `ibm,#dma-size-cells` (2 each), `ibm,dma-window` (LIOBN, start,
    /// size of the default window), `ibm,ddw-applicable` (tokens), and `ibm,ddw-extensions` (the
    /// token of the reset call, and a query with 6 results).
    pub fn properties(&self, tokens: &DdwTokens) -> Vec<Property> {
        let (liobn, window) = (self.config().liobn.0, self.config().default);
        let [start, size] = [window.start().0, window.len()].map(|value| [(value >> 32) as u32, value as u32]);
        vec![
            property("ibm,#dma-address-cells", &[2]),
            property("ibm,#dma-size-cells", &[2]),
            property("ibm,dma-window", &[liobn, start[0], start[1], size[0], size[1]]),
            property("ibm,ddw-applicable", &[tokens.query, tokens.create, tokens.remove]),
            property("ibm,ddw-extensions", &[2, tokens.reset, 1]),
        ]
    }
}

/// The most cells of arguments and results together, as in Linux's `struct rtas_args`.
const MAX_CELLS: usize = 16;
/// Cells before the arguments: token, number of arguments, number of results.
const HEAD: usize = 3;

type Cells = ArrayVec<u32, MAX_CELLS>;

/// Why an RTAS argument block was refused. The guest gets `H_PARAMETER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum RtasBlockError {
    /// It is not in RAM.
    #[error("the RTAS argument block is not in the guest's RAM")]
    Memory(#[from] NoMemory),
    /// It has no cell for a status, or too many cells.
    #[error(
        "an RTAS call cannot have {args} arguments and {rets} results: it has a status and at most {MAX_CELLS} cells"
    )]
    Cells { args: u32, rets: u32 },
}

crate::error::classify!(RtasBlockError {
    Argument: Memory, Cells;
});

/// The argument block of an RTAS call (LoPAR, "RTAS argument call buffer"), copied from guest
/// memory once. Its cells are big endian: the token, the number of arguments, the number of
/// results, the arguments, the results. Serves for any call, not only those of this library:
///
/// ```
/// # use spapr_iommu::addr::GuestAddr;
/// # use spapr_iommu::guest::{GuestMemory, RtasBlock, RtasBlockError};
/// # fn display_character(memory: &dyn GuestMemory, at: GuestAddr) -> Result<(), RtasBlockError> {
/// let block = RtasBlock::read(memory, at)?;
/// let status = match block.args() {
///     [character] => { eprint!("{}", *character as u8 as char); 0 }
///     _ => -3_i32,
/// };
/// block.write(memory, &[status.cast_unsigned()])
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RtasBlock {
    at: GuestAddr,
    token: u32,
    args: Cells,
    rets: usize,
}

impl RtasBlock {
    /// Reads the token of the block at `at`, i.e. which call it is. Its whole head must be in RAM.
    pub fn token_at(memory: &dyn GuestMemory, at: GuestAddr) -> Result<u32, NoMemory> {
        Self::head(memory, at).map(|[token, ..]| token)
    }

    fn head(memory: &dyn GuestMemory, at: GuestAddr) -> Result<[u32; HEAD], NoMemory> {
        let mut cells = [[0; 4]; HEAD];
        memory.read(at, cells.as_flattened_mut())?;
        Ok(cells.map(u32::from_be_bytes))
    }

    /// Copies the block at `at`.
    pub fn read(memory: &dyn GuestMemory, at: GuestAddr) -> Result<Self, RtasBlockError> {
        let [token, args, rets] = Self::head(memory, at)?;
        let wrong = RtasBlockError::Cells { args, rets };
        let (count, rets) = (args as usize, rets as usize);
        let mut cells = [[0; 4]; MAX_CELLS];
        let cells = cells.get_mut(..count).ok_or(wrong)?;
        if rets == 0 || rets > MAX_CELLS - cells.len() {
            return Err(wrong);
        }
        let bytes = cells.as_flattened_mut();
        let nowhere = NoMemory { at, len: 4 * HEAD + bytes.len() };
        memory.read(GuestAddr(at.0.checked_add(4 * HEAD as u64).ok_or(nowhere)?), bytes)?;
        Ok(Self { at, token, args: cells.iter().map(|cell| u32::from_be_bytes(*cell)).collect(), rets })
    }

    /// Returns the token, i.e. which call it is.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// Returns the arguments.
    pub fn args(&self) -> &[u32] {
        &self.args
    }

    /// Returns the number of results for which the guest has room, including the status.
    pub fn rets(&self) -> usize {
        self.rets
    }

    /// Writes the results, the status first: as many as the guest has room for, 0 after the last.
    pub fn write(&self, memory: &dyn GuestMemory, results: &[u32]) -> Result<(), RtasBlockError> {
        let cells = results.iter().copied().chain(core::iter::repeat(0)).take(self.rets);
        let cells: ArrayVec<[u8; 4], MAX_CELLS> = cells.map(u32::to_be_bytes).collect();
        let bytes = cells.as_flattened();
        let nowhere = NoMemory { at: self.at, len: bytes.len() };
        let at = self.at.0.checked_add(4 * (HEAD + self.args.len()) as u64).ok_or(nowhere)?;
        Ok(memory.write(GuestAddr(at), bytes)?)
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
