//! Library calls as values, hostile ones among them, and the naive twin of their effects.
//!
//! Steps are decoded from bytes, so one kind of step, one way to run it and one twin serve the
//! property test and the threads (`tests/space`), and the fuzzer (`tests/fuzz`).

mod act;
mod check;
mod step;
pub(crate) mod twin;

pub use act::{Fixture, Holdings};
pub use check::{agrees, stands};
pub use step::Step;
pub use twin::Twin;

use arbitrary::{Arbitrary, Result, Unstructured};
use spapr_iommu::model::{Firmware, HostPage, KernelVersion, Machine, Preset};
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

/// The initial state of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub preset: Preset,
    /// Bytes that may be locked, if that is limited.
    pub memlock: Option<u64>,
    /// Whether a host driver holds a device of the last group.
    pub host_driver: bool,
    /// Whether group 0 is attached and the first memory leased, so that most steps have an effect.
    pub ready: bool,
    pub end: End,
}

/// The order in which everything is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    LeasesFirst,
    SpacesFirst,
    /// Everything is unmapped, released and detached, all of which must work.
    Tidy,
    /// The kernel closes the files of a process that was killed.
    Killed,
}

impl<'a> Arbitrary<'a> for Setup {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let bits: u8 = u.arbitrary()?;
        let more: u8 = u.arbitrary()?;
        let machine = match bits & 7 {
            0 => Machine::Powernv8,
            1 | 2 => Machine::Powernv9,
            3 => Machine::Powernv10,
            4 | 5 => Machine::Pseries(Firmware::default()),
            6 => Machine::Pseries(Firmware { windows: 1, ..Firmware::default() }),
            _ => Machine::Pseries(Firmware { ddw: u.ratio(3, 4)?, page_sizes: u.arbitrary()?, windows: 2 }),
        };
        let page = if bits & 8 == 0 { HostPage::Large } else { HostPage::Small };
        let kernel = if bits & 16 == 0 { KernelVersion::V6_12 } else { KernelVersion::V7_2 };
        let memlock = match more & 7 {
            0 => Some(u64::from(u.arbitrary::<u8>()?) << 18),
            _ => None,
        };
        let end = match more >> 6 {
            0 => End::LeasesFirst,
            1 => End::SpacesFirst,
            2 => End::Tidy,
            _ => End::Killed,
        };
        let preset = Preset { machine, page, kernel };
        Ok(Self { preset, memlock, host_driver: more & 8 != 0, ready: bits & 0x60 != 0, end })
    }
}
