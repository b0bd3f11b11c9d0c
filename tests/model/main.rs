//! The model against the rules of the kernel, one test a rule.

mod anything;
mod core_calls;
mod device;
mod fixture;
mod groups;
mod mapping;
mod memory;
mod pseries;
mod registration;
mod twin;
mod v1;
mod windows;
