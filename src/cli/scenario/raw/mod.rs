//! Raw steps: kernel calls that bypass the library, one by one, each with its expected answer.
//!
//! The library never makes a kernel call that would do harm; raw steps make whatever call they
//! describe, hostile arguments included. A scenario consists of one kind or the other: the library
//! knows everything that is registered in a process because it alone registers, and raw calls
//! made without its knowledge would make its records wrong.
//!
//! ```
//! use spapr_iommu::host::Errno;
//! use spapr_iommu_cli::scenario::raw::{Entry, Slot, Step, document};
//! use spapr_iommu_cli::scenario::Scenario;
//!
//! let entry = Entry::new(Step::Open(Slot::Group(9)), Err(Errno::ENOENT));
//! let text = document("no such group", None, Some("powernv9".parse()?), &[entry]);
//! let scenario = Scenario::parse(&text)?;
//! assert_eq!(scenario.groups(), 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod entry;
mod fields;
mod process;
mod run;
mod step;
#[cfg(test)]
mod tests;

pub use entry::{Entry, document};
pub use process::{Done, Process, contents, dma};
pub use step::{DeviceFile, Part, Slot, Step, Where, Which};

pub(super) use entry::Line;
pub(super) use run::run;
