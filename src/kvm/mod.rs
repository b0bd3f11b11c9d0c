//! Acceleration by KVM: the kernel answers TCE hypercalls.
//!
//! A VMM that runs its guest on KVM gives the VM's file to [`Vm`]. An [`Acceleration`] of it tells
//! the kernel which groups are attached to which TCE tables. From then on the kernel answers
//! H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE and H_GET_TCE of these tables itself. What it cannot
//! handle goes to the VMM, as without acceleration.
//!
//! # Order
//! The kernel accepts few of these steps in any other order (`virt/kvm/vfio.c`,
//! `arch/powerpc/kvm/book3s_64_vio.c`), and [`Acceleration`] keeps it. A group is added before its
//! devices are opened. A table is attached to a group's window, which must already exist. A group
//! that joins is attached to all existing tables. A table is closed, or its groups removed, before
//! its window is removed; otherwise the kernel goes on filling a table that no device uses.
//!
//! # What the kernel does by itself
//! The kernel, not the registry, counts the mappings that the guest makes. Memory a table may lead
//! to must stay registered until the table is read ([`KernelTable::load`]) or gone, since memory
//! that is unregistered while a TCE leads to it is lost until the machine restarts.
//!
//! # Guests that are not trusted
//! A guest can bring a bare-metal host down through H_PUT_TCE_INDIRECT in the kernel: a TCE without
//! rights that has other bits below its page, such as 4, is not checked there and ends in a `BUG`
//! of `pnv_tce_xchg` (seen on Linux 7.2.13). A TCE of 0 in a list is entered as a map of nothing,
//! which keeps the guest's memory locked for good (seen there as well), and a list that changes
//! meanwhile is checked at one time and used at another. H_STUFF_TCE past a window's end overwrites
//! memory of the host before Linux 6.12.112 and 7.2.8. So [`Acceleration::new`] leaves both calls
//! to the VMM, whose handlers do none of this; [`Acceleration::trusting`] does not.

mod acceleration;
mod error;
mod ioctl;
#[cfg(feature = "model")]
pub mod model;
mod seam;
mod table;
#[cfg(test)]
mod tests;
mod vm;

pub use acceleration::Acceleration;
pub use error::KvmError;
pub use seam::{KernelTable, Kvm, TableSpec};
pub use vm::Vm;
