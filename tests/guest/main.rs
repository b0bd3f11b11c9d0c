//! A guest's TCE tables on the model: what guests ask, what devices see, what the kernel is told.

mod accelerated;
mod guide;
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
