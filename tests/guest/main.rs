//! A guest's TCE tables on the model: what guests ask, what devices see, what the kernel is told.

mod bench;
mod devices;
mod hcalls;
mod memory;
mod sequences;
mod vcpus;
mod windows;

#[path = "../hostile/mod.rs"]
mod hostile;
