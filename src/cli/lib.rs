//! The command `spapr-iommu` and its parts: scenario files, replayed traces and plans.
//!
//! Everything here uses the public interface of [`spapr_iommu`] and nothing else.
#![deny(unsafe_code)]

mod by_address;
pub mod command;
mod doctor;
mod edu;
mod inspect;
mod machine;
pub mod picture;
pub mod plan;
pub mod replay;
pub mod scenario;
mod suggest;

pub use machine::{HostNote, Machine, NotHere};
