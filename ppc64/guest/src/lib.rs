//! What the guest and `examples/vmm` agree on: hypercalls only they know, of the range left to
//! implementations.
#![no_std]

/// The guest is done: the number of checks that failed.
pub const H_DONE: u64 = 0xf100;
/// The guest wants a second device of the same kind behind its PHB; r4 gets the real address of its
/// BAR 0. `H_FUNCTION` when there is none.
pub const H_PLUG: u64 = 0xf103;
/// What follows is of this kind: a `PHASE_*`.
pub const H_PHASE: u64 = 0xf101;
/// An interrupt, which the guest never expects: the vector.
pub const H_CRASH: u64 = 0xf102;

/// The guest sets up: it walks its device tree and asks for a window.
pub const PHASE_SET_UP: u64 = 0;
/// It maps and unmaps what is its own.
pub const PHASE_MAPS: u64 = 1;
/// It makes calls that must be refused.
pub const PHASE_HOSTILE: u64 = 2;
