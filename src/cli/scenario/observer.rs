//! The interface to watch a run.

use super::report::StepReport;
use spapr_iommu::space::AddressSpace;

/// Watches a run.
pub trait Observer {
    /// A step begins: its number, the number of steps, and its action.
    fn begins(&mut self, number: usize, count: usize, action: &str) {
        let _ = (number, count, action);
    }

    /// A step has made progress, in bytes.
    fn progress(&mut self, done: u64, all: u64) {
        let _ = (done, all);
    }

    /// The spaces after a step, each with its name.
    fn stands(&mut self, spaces: &mut dyn Iterator<Item = (&str, &AddressSpace)>) {
        let _ = spaces;
    }

    /// A step is done.
    fn done(&mut self, step: &StepReport) {
        let _ = step;
    }
}

/// Watches nothing.
impl Observer for () {}
