//! Library calls as values, hostile ones among them, and the naive twin of their effects.
//!
//! Steps are decoded from bytes, so one kind of step, one way to run it and one twin serve the
//! property test and the threads (`tests/space`), and the fuzzer (`tests/fuzz`).

mod act;
mod books;
mod check;
mod number;
mod request;
mod runs;
mod setup;
mod step;

pub use act::{Fixture, Holdings};
pub use books::Twin;
pub use check::{agrees, stands};
pub use setup::Setup;
pub use step::Step;

use arbitrary::Unstructured;
use std::sync::Barrier;

/// Largest number of steps in a sequence: errors appear sooner, and a sequence stays quick.
const MAX_STEPS: usize = 80;

/// A machine and the steps run on it.
#[derive(Clone)]
pub struct Sequence {
    pub setup: Setup,
    pub steps: Vec<Step>,
}

/// Displays a step per line.
impl core::fmt::Debug for Sequence {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(f, "{:?}", self.setup)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

impl Sequence {
    /// Decodes a sequence; any bytes are valid.
    pub fn decode(bytes: &[u8]) -> arbitrary::Result<Self> {
        let mut input = Unstructured::new(bytes);
        let setup: Setup = input.arbitrary()?;
        let mut steps = if setup.ready { Step::first() } else { Vec::new() };
        while !input.is_empty() && steps.len() < MAX_STEPS {
            steps.push(input.arbitrary()?);
        }
        Ok(Self { setup, steps })
    }

    /// Runs one sequence per thread at the same time, on the machine of the first. Afterwards
    /// library and kernel must agree, and nothing may be left. Returns the number of bytes that
    /// were mapped.
    pub fn run_together(threads: &[Self]) -> u64 {
        let Some(first) = threads.first() else { return 0 };
        let fixture = Fixture::new(&first.setup);
        let start = Barrier::new(threads.len());
        let run = |sequence: &Self| {
            let mut holdings = Holdings::default();
            start.wait();
            for step in sequence.steps.iter().filter(|step| !matches!(step, Step::Renew { .. })) {
                holdings.act(&fixture, step);
            }
            holdings
        };
        let holdings = std::thread::scope(|scope| {
            let running: Vec<_> = threads.iter().map(|sequence| scope.spawn(|| run(sequence))).collect();
            let ended: Vec<_> = running.into_iter().map(|thread| thread.join()).collect();
            ended.into_iter().map(|holdings| holdings.unwrap()).collect::<Vec<_>>()
        });
        stands(&fixture);
        let mapped = fixture.mapped();
        fixture.end(holdings.into_iter().fold(Holdings::default(), Holdings::with), first.setup.end);
        mapped
    }

    /// Runs the sequence. Everything must agree after each step, and at the end nothing may be
    /// left.
    pub fn run(&self) {
        let fixture = Fixture::new(&self.setup);
        let mut holdings = Holdings::default();
        let mut twin = Twin::new(&fixture);
        agrees(&fixture, &twin);
        for step in &self.steps {
            let outcome = holdings.act(&fixture, step);
            twin.follow(&fixture, step, outcome);
            agrees(&fixture, &twin);
        }
        fixture.end(holdings, self.setup.end);
    }
}
