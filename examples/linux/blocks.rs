//! Blocks of RAM in the device tree: those that may be plugged (Linux reads them in
//! `arch/powerpc/mm/drmem.c`), and one that was.

use super::fdt::{Fdt, halves};
use super::memory::{BLOCK, Ram};
use super::plug::BLOCKS;

/// Associativity of memory: all of it is in one place.
const ASSOCIATIVITY: [u32; 4] = [0; 4];

/// Writes the node of all blocks, none of them plugged yet.
pub(crate) fn node(tree: &mut Fdt, ram: &Ram) {
    if ram.blocks() == 0 {
        return;
    }
    tree.node("ibm,dynamic-reconfiguration-memory", |tree| {
        tree.cells("ibm,lmb-size", &halves([BLOCK]));
        // One run of blocks: number, start, first connector, row of the table below, no flags.
        let runs = [&[1, ram.blocks()], &halves([ram.start(0)])[..], &[BLOCKS, 0, 0]].concat();
        tree.cells("ibm,dynamic-memory-v2", &runs);
        let table = [&[1, ASSOCIATIVITY.len() as u32], &ASSOCIATIVITY[..]].concat();
        tree.cells("ibm,associativity-lookup-arrays", &table);
    });
}

/// Writes the node of a block.
pub(crate) fn block(tree: &mut Fdt, ram: &Ram, block: u32) {
    let start = ram.start(block);
    tree.node(&format!("memory@{start:x}"), |tree| {
        tree.strings("device_type", &["memory"]);
        tree.cells("reg", &halves([start, BLOCK]));
        tree.cells("ibm,my-drc-index", &[BLOCKS + block]);
        tree.cells("ibm,associativity", &[&[ASSOCIATIVITY.len() as u32], &ASSOCIATIVITY[..]].concat());
    });
}
