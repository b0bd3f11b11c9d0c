//! The interface between the guest and `examples/vmm`: hypercalls that only they know, from the
//! range left to implementations.
#![no_std]

/// The guest is done; r4 has the number of failed checks.
pub const H_DONE: u64 = 0xf100;
/// The guest requests another device of the same kind on its PHB; r4 gets the real address of its
/// BAR 0. `H_FUNCTION` if there is none.
pub const H_PLUG: u64 = 0xf103;
/// The next phase, a `PHASE_*`, begins.
pub const H_PHASE: u64 = 0xf101;
/// An interrupt, which the guest never expects; r4 has the vector.
pub const H_CRASH: u64 = 0xf102;

/// The guest sets up: it reads its device tree and requests a window.
pub const PHASE_SET_UP: u64 = 0;
/// It maps and unmaps its own memory.
pub const PHASE_MAPS: u64 = 1;
/// It makes calls that must be refused.
pub const PHASE_HOSTILE: u64 = 2;
