//! A guest's TCE tables on the model: what guests ask, what devices see, what the kernel is told.

mod accelerated;
mod devices;
mod guide;
mod hcalls;
mod limits;
mod locked;
mod looks;
mod memory;
mod places;
mod sequences;
mod state;
mod vcpus;
#[cfg(feature = "vm-memory")]
mod virtio;
#[cfg(feature = "vm-memory")]
mod vm_memory;
mod windows;
