//! The namespace of a controller: blocks, in memory of the program.

use super::command::{Command, Failure, Status};
use super::identify::{MAX_TRANSFER, NAMESPACE};
use super::prp;
use crate::model::pci::Bus;
use crate::model::sparse::Sparse;

/// The smallest page of a controller in bytes, the unit of the largest transfer.
const MIN_PAGE: u64 = 4096;
/// Namespace identifier that means all namespaces.
const BROADCAST: u32 = u32::MAX;
/// Bytes that the health log counts as one unit.
const UNIT: u64 = 512_000;

const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;

#[derive(Clone, Debug)]
pub(super) struct Namespace {
    blocks: u64,
    /// Bytes in a block, as a power of two.
    shift: u8,
    contents: Sparse,
    /// Bytes and commands, read and written.
    bytes: [u64; 2],
    commands: [u64; 2],
}

impl Namespace {
    pub(super) fn new(bytes: u64, shift: u8) -> Self {
        Self { blocks: bytes >> shift, shift, contents: Sparse::default(), bytes: [0; 2], commands: [0; 2] }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn bytes(&self) -> u64 {
        self.blocks << self.shift
    }

    pub(super) fn shift(&self) -> u8 {
        self.shift
    }

    /// Returns units of 512000 bytes read and written, and the number of commands.
    pub(super) fn counts(&self) -> ([u64; 2], [u64; 2]) {
        (self.bytes.map(|bytes| bytes.div_ceil(UNIT)), self.commands)
    }

    /// Carries out a command of an I/O queue.
    pub(super) fn run(&mut self, command: &Command, page: u64, bus: &mut Bus<'_>) -> Result<(), Failure> {
        if !matches!(command.opcode, FLUSH | WRITE | READ) {
            return Err(Status::INVALID_OPCODE.into());
        }
        if !command.is_plain() {
            return Err(Status::INVALID_FIELD.into());
        }
        match command.namespace.get() {
            NAMESPACE => {}
            BROADCAST if command.opcode == FLUSH => {}
            _ => return Err(Status::INVALID_NAMESPACE.into()),
        }
        if command.opcode == FLUSH {
            // There is no cache to write back.
            return Ok(());
        }
        let first = u64::from(command.dword(10)) | u64::from(command.dword(11)) << 32;
        let count = u64::from(command.dword(12) & 0xffff) + 1;
        let len = count << self.shift;
        if len > MIN_PAGE << MAX_TRANSFER {
            return Err(Status::INVALID_FIELD.into());
        }
        if first.checked_add(count).is_none_or(|end| end > self.blocks) {
            return Err(Status::OUT_OF_RANGE.into());
        }
        let at = first << self.shift;
        let writes = usize::from(command.opcode == WRITE);
        if command.opcode == WRITE {
            self.contents.write(at, &prp::read(command, len, page, bus)?);
        } else {
            let mut data = vec![0; len as usize];
            self.contents.read(at, &mut data);
            prp::write(command, &data, page, bus)?;
        }
        self.bytes[writes] += len;
        self.commands[writes] += 1;
        Ok(())
    }
}
