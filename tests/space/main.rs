//! Address spaces on the model: what users meet, and what the kernel is told.

mod accelerated;
mod charges;
mod faults;
mod fixture;
mod groups;
mod late;
mod leases;
mod locked;
mod maps;
mod mmio;
mod programs;
mod ruled;
mod sequences;
mod stress;
mod successors;
mod threads;
mod together;
mod told;
mod twice;
mod unlike;
mod windows;
