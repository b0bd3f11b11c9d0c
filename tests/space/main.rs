//! Address spaces on the model: what users meet, and what the kernel is told.

mod accelerated;
mod faults;
mod fixture;
mod groups;
mod leases;
mod locked;
mod maps;
mod programs;
mod ruled;
mod sequences;
mod stress;
mod threads;
mod together;
mod twice;
mod windows;
