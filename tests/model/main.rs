//! The model against the rules of the kernel, one test a rule.

mod anything;
mod bench;
mod core_calls;
mod device;
mod groups;
mod mapping;
mod memory;
mod pseries;
mod registration;
mod twin;
mod v1;
mod windows;

#[path = "../fuzz/targets/raw.rs"]
mod raw;
#[path = "../fuzz/targets/raw_step.rs"]
mod raw_step;
