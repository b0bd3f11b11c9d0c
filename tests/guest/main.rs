//! A guest's TCE tables on the model: what guests request, what devices see, which calls the kernel
//! gets.

mod accelerated;
mod hcalls;
mod limits;
mod looks;
mod memory;
mod sequences;
mod state;
#[cfg(feature = "vm-memory")]
mod virtio;
#[cfg(feature = "vm-memory")]
mod vm_memory;
mod windows;
