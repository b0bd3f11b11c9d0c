//! Scenarios: files that describe steps with memory, windows and devices, and their expected
//! results.
//!
//! The same file runs on a [model](spapr_iommu::model) and on the running kernel, and gives the
//! same [`Report`] on both. `docs/scenario.md` describes the format.
//!
//! ```
//! use spapr_iommu_cli::Machine;
//! use spapr_iommu_cli::scenario::Scenario;
//!
//! let scenario = Scenario::parse(
//!     r#"
//!     title = "one page"
//!     [[memory]]
//!     name = "ram"
//!     size = "64K"
//!     [[step]]
//!     attach = { group = 0 }
//!     [[step]]
//!     register = { memory = "ram" }
//!     [[step]]
//!     map = { at = "default+1M", memory = "ram" }
//!     "#,
//! )?;
//! let machine = Machine::model("powernv9".parse()?, scenario.groups());
//! let report = scenario.run(&machine, &mut ())?;
//! assert!(report.passed);
//! assert_eq!(report.tables.maps[0].memory, "ram+0x0");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod act;
mod action;
mod check;
mod code;
mod context;
mod expect;
mod file;
mod places;
pub mod raw;
mod report;
mod run;
mod value;

pub use context::StartError;
pub use file::{FileError, Scenario};
pub use places::NoMemory;
pub use report::{
    End, GroupRow, LeaseRow, Locked, MapRow, PlanReport, RegionRow, Report, StepReport, Tables, WindowRow,
};
pub use run::{Observer, RunState};
pub(crate) use value::{NumberError, checked_number};
