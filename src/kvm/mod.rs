//! Acceleration by KVM: the kernel answers TCE hypercalls.
//!
//! A VMM that runs its guest on KVM gives the VM's file to [`Vm`]. An [`Acceleration`] of it tells
//! the kernel which groups are attached to which TCE tables. From then on the kernel answers
//! hypercalls for these tables itself: H_GET_TCE and H_PUT_TCE, and for a trusted guest
//! H_PUT_TCE_INDIRECT and H_STUFF_TCE. What it cannot handle goes to the VMM, as without
//! acceleration.
//!
//! # Order
//! The kernel accepts few of these steps in another order (`virt/kvm/vfio.c`,
//! `arch/powerpc/kvm/book3s_64_vio.c`), and [`Acceleration`] keeps to it. A group is added before
//! its devices are opened. A table is attached to a group's window, which must already exist. A
//! group that joins is attached to all existing tables. A table is closed, or its groups removed,
//! before its window is removed; otherwise the kernel goes on filling a table that no device uses.
//!
//! # What the kernel does by itself
//! The kernel, not the registry, counts the mappings that the guest makes. Memory to which a table
//! may lead must stay registered until the table was read ([`KernelTable::load`]) or closed: memory
//! that is unregistered while a TCE leads to it is lost until the machine restarts.
//!
//! # Guests that are not trusted
//! A guest can bring a bare-metal host down through H_PUT_TCE_INDIRECT in the kernel: a TCE without
//! rights that has other bits below its page, such as 4, is not checked there and ends in a `BUG`
//! of `pnv_tce_xchg` (seen on Linux 7.2.13). A TCE of 0 in a list is entered as a map of nothing,
//! which keeps the guest's memory locked for good (seen there as well). A list that changes
//! meanwhile is checked at one time and used at another. H_STUFF_TCE past a window's end overwrites
//! memory of the host before Linux 6.12.112 and 7.2.8. So [`Acceleration::new`] leaves both calls
//! to the VMM, whose handlers check them; [`Acceleration::trusting`] hands them to the kernel.

mod acceleration;
#[cfg(feature = "model")]
pub mod model;
#[cfg(test)]
mod tests;
mod vm;

pub use acceleration::{Acceleration, KernelTable, Kvm, KvmError, TableSpec, locked_bytes};
pub use vm::Vm;
