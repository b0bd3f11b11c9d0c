//! A guest's TCE tables on the model: what guests ask, what devices see, what the kernel is told.

mod accelerated;
mod bench;
mod devices;
mod hcalls;
mod limits;
mod looks;
mod memory;
mod sequences;
mod state;
mod vcpus;
#[cfg(feature = "vm-memory")]
mod vm_memory;
mod windows;

#[path = "../hostile/mod.rs"]
mod hostile;
#[path = "../shared/joined.rs"]
mod joined;
