//! The argument block of an RTAS call in guest memory (LoPAR, "RTAS argument call buffer"):
//! big-endian cells, namely the token, the number of arguments, the number of results, the
//! arguments, the results.

use super::memory::{GuestMemory, NoMemory};
use crate::addr::GuestAddr;

/// The most cells of arguments and results together, as in Linux's `struct rtas_args`.
const MAX_CELLS: usize = 16;
/// Bytes before the arguments.
const HEAD: u64 = 12;

/// Why an argument block is refused: the guest gets `H_PARAMETER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtasBlockError {
    /// It is not in RAM.
    #[error("the RTAS argument block is not in the guest's RAM")]
    Memory(#[from] NoMemory),
    /// It has no cell for a status, or too many cells.
    #[error("{args} arguments and {rets} results: an RTAS call has a status, and {MAX_CELLS} cells at most")]
    Cells {
        /// Arguments.
        args: u32,
        /// Results.
        rets: u32,
    },
}

/// An RTAS call as a guest makes it, copied out of its memory once. For any call, not only those of
/// this library:
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
#[derive(Clone, Copy, Debug)]
pub struct RtasBlock {
    at: GuestAddr,
    token: u32,
    args: [u32; MAX_CELLS],
    counts: (usize, usize),
}

impl RtasBlock {
    /// The token of the block at `at`, all of whose head is in RAM: which call it is.
    pub fn token_at(memory: &dyn GuestMemory, at: GuestAddr) -> Result<u32, NoMemory> {
        let mut head = [0; HEAD as usize];
        memory.read(at, &mut head)?;
        Ok(cell(&head, 0))
    }

    /// Copies the block at `at`.
    pub fn read(memory: &dyn GuestMemory, at: GuestAddr) -> Result<Self, RtasBlockError> {
        let mut head = [0; HEAD as usize];
        memory.read(at, &mut head)?;
        let [token, args, rets] = [0, 4, 8].map(|from| cell(&head, from));
        let wrong = RtasBlockError::Cells { args, rets };
        let counts = (args as usize, rets as usize);
        if counts.0.checked_add(counts.1).is_none_or(|cells| cells > MAX_CELLS) || rets == 0 {
            return Err(wrong);
        }
        let mut bytes = [0; MAX_CELLS * 4];
        let bytes = bytes.get_mut(..counts.0 * 4).ok_or(wrong)?;
        let nowhere = NoMemory { at, len: HEAD as usize + bytes.len() };
        memory.read(GuestAddr(at.0.checked_add(HEAD).ok_or(nowhere)?), bytes)?;
        let mut cells = [0; MAX_CELLS];
        cells.iter_mut().zip((0..bytes.len()).step_by(4)).for_each(|(value, from)| *value = cell(bytes, from));
        Ok(Self { at, token, args: cells, counts })
    }

    /// Which call it is.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// The arguments.
    pub fn args(&self) -> &[u32] {
        self.args.get(..self.counts.0).unwrap_or_default()
    }

    /// How many results the guest has room for, the status included.
    pub fn rets(&self) -> usize {
        self.counts.1
    }

    /// Writes the results, the status first: as many as the guest has room for, 0 where there are
    /// fewer.
    pub fn write(&self, memory: &dyn GuestMemory, results: &[u32]) -> Result<(), RtasBlockError> {
        let mut bytes = [0; MAX_CELLS * 4];
        let bytes = bytes.get_mut(..self.rets() * 4).unwrap_or_default();
        for (cell, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(results) {
            *cell = value.to_be_bytes();
        }
        let nowhere = NoMemory { at: self.at, len: bytes.len() };
        let at = self.at.0.checked_add(HEAD + 4 * self.counts.0 as u64).ok_or(nowhere)?;
        Ok(memory.write(GuestAddr(at), bytes)?)
    }
}

fn cell(bytes: &[u8], from: usize) -> u32 {
    bytes.get(from..).and_then(|bytes| bytes.first_chunk()).map_or(0, |cell| u32::from_be_bytes(*cell))
}
