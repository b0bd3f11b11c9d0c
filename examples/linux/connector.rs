//! `ibm,configure-connector`: hands the guest the nodes of the device tree for what it has just
//! connected, a node or property for each call (LoPAR, chapter 13; Linux asks in
//! `arch/powerpc/platforms/pseries/dlpar.c`).

use super::fdt::{Fdt, Token};
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::{GuestMemory, NoMemory};
use std::vec::IntoIter;

/// Statuses of a call: all nodes were handed out, or what was handed out.
const COMPLETE: i32 = 0;
const CHILD: i32 = 2;
const PROPERTY: i32 = 3;
const PARENT: i32 = 4;

/// Cells of the work area: offset of the name, length and offset of the property's value.
const CELLS: u64 = 8;
/// Start of names in the work area, after all cells.
const NAME: u32 = 20;
/// Bytes of the work area.
const AREA: usize = 4096;

/// Nodes on their way to the guest.
pub(crate) struct NodeWalk {
    tokens: IntoIter<Token>,
    depth: u32,
}

impl NodeWalk {
    /// Starts with the nodes of a tree.
    pub(crate) fn new(tree: &Fdt) -> Self {
        Self { tokens: tree.tokens().into_iter(), depth: 0 }
    }

    /// Writes the next node or property into the guest's work area. Returns the status of the call,
    /// which is 0 at the end.
    pub(crate) fn next(&mut self, memory: &dyn GuestMemory, area: GuestAddr) -> Result<i32, NoMemory> {
        let (status, name, value) = match self.tokens.next() {
            Some(Token::Node(name)) => (CHILD, name, vec![]),
            Some(Token::Property(name, value)) => (PROPERTY, name, value),
            Some(Token::End) if self.depth > 1 => (PARENT, String::new(), vec![]),
            Some(Token::End) | None => return Ok(COMPLETE),
        };
        match status {
            CHILD => self.depth += 1,
            PARENT => self.depth -= 1,
            _ => {}
        }
        let after = NAME + name.len() as u32 + 1;
        let cells = [NAME, value.len() as u32, after];
        let text = name.into_bytes().into_iter().chain([0]).chain(value);
        let bytes: Vec<u8> = cells.into_iter().flat_map(u32::to_be_bytes).chain(text).collect();
        if CELLS as usize + bytes.len() > AREA {
            return Err(NoMemory { at: area, len: bytes.len() });
        }
        memory.write(GuestAddr(area.0 + CELLS), &bytes)?;
        Ok(status)
    }
}
