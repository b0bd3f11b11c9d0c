//! Address spaces on the model: what users meet, and what the kernel is told.

mod bench;
mod faults;
mod groups;
mod leases;
mod locked;
mod maps;
mod ruled;
mod stress;
mod threads;
mod twin;
mod windows;
