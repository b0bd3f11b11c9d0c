//! A guest's TCE tables on the model: what guests ask, what devices see, what the kernel is told.

mod accelerated;
mod bench;
mod devices;
mod hcalls;
mod memory;
mod state;
#[cfg(feature = "vm-memory")]
mod vm_memory;
mod windows;
