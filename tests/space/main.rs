//! Address spaces on the model: what users meet, and what the kernel is told.

mod accelerated;
mod bench;
mod faults;
mod groups;
mod late;
mod leases;
mod locked;
mod maps;
mod programs;
mod ruled;
mod sequences;
mod stress;
mod successors;
mod threads;
mod together;
mod twice;
mod unlike;
mod windows;

#[path = "../shared/joined.rs"]
mod joined;
#[path = "../twin/mod.rs"]
mod twin;
