//! Address spaces on the model: what users meet, and what the kernel is told.

mod accelerated;
mod charges;
mod double_fault;
mod faults;
mod fixture;
mod groups;
mod kernel_rules;
mod leases;
mod maps;
mod mmio;
mod regions;
mod sequences;
mod threads;
mod unlike;
mod windows;
