//! Address spaces on the model: what users meet, and what the kernel is told.

mod accelerated;
mod charges;
mod concurrent;
mod double_fault;
mod faults;
mod fixture;
mod groups;
mod kernel_rules;
mod late;
mod leases;
mod locked;
mod maps;
mod mmio;
mod programs;
mod sequences;
mod stress;
mod successors;
mod threads;
mod told;
mod unlike;
mod windows;
