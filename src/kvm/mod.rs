//! TCE hypercalls answered by the kernel: acceleration by KVM.
//!
//! A VMM that runs its guest on KVM gives the VM's file to [`Vm`], and an [`Acceleration`] of it keeps what the kernel has to
//! be told: which groups are behind which TCE tables. From then on H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE and
//! H_GET_TCE of these tables do not leave the kernel, but for what it cannot do: that comes to the VMM as without
//! acceleration.
//!
//! # Order
//! The kernel takes little of this in any other order (`virt/kvm/vfio.c`, `arch/powerpc/kvm/book3s_64_vio.c`), and
//! [`Acceleration`] keeps it: a group is added before its devices are opened; a table is tied to a group's window, which
//! has to be there before; a group that joins is tied to all tables there are; a table is closed, or its groups deleted,
//! before its window is removed: else the kernel goes on filling a table no device looks at.
//!
//! # What the kernel does by itself
//! Maps the guest makes are counted by the kernel, not by the registry: memory a table may lead to has to stay registered
//! until the table is read ([`KernelTable::load`]) or gone, since what is unregistered while a TCE leads to it is lost until
//! the machine restarts.
//!
//! # Guests that are not trusted
//! A guest can bring a bare-metal host down through H_PUT_TCE_INDIRECT in the kernel: a TCE without rights that has other
//! bits below its page, such as 4, is not checked there and ends in a `BUG` of `pnv_tce_xchg` (seen on Linux 7.2.13). A TCE of
//! 0 in a list is entered as a map of nothing, which keeps the guest's memory locked for good (seen there as well), and
//! a list that changes meanwhile is checked at one time and used at another. H_STUFF_TCE past a window's end overwrites memory
//! of the host before Linux 6.12.112 and 7.2.8. So [`Acceleration::new`] leaves both calls to the VMM, whose handlers do none of this; [`Acceleration::trusting`] does not.

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
