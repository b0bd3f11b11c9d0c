//! Address spaces on the model: what users encounter, and which calls the kernel gets.

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
