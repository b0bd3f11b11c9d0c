//! Replays a QEMU trace of a guest through this library's handlers, and compares return codes and
//! translations.
//!
//! QEMU writes such a trace with `-trace 'spapr_iommu_*'`. `docs/replay.md` describes what is
//! compared, what is counted, and which proofs infer entries of a list.
//!
//! ```
//! use spapr_iommu_cli::replay::{Options, Trace};
//! use spapr_iommu_cli::Machine;
//!
//! let trace = Trace::read("../../tests/replay/traces/nvme-ddw.trace.xz".as_ref(), |_lines| ())?;
//! let machine = Machine::model("powernv9-64k".parse()?, trace.bridges());
//! let report = trace.replay(&machine, &Options::default(), |_done, _all| ())?;
//! assert!(report.passed);
//! assert_eq!(report.translations.compared, 924);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compare;
mod error;
mod guest;
mod infer;
mod liobns;
mod open;
mod report;
mod run;
mod timeline;
mod trace;

pub use error::{ReplayError, TraceError};
pub use report::{Difference, Entries, Hypercalls, Ioctls, Lines, Offer, Offers, Report, Rtas, Tces, Translations};
pub use run::{Options, Watcher};
pub use trace::Trace;
