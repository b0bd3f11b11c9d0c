//! A hostile guest: hypercalls and RTAS calls as values, with any arguments, and the naive twin of
//! their effects.
//!
//! Steps are decoded from bytes, so one kind of step and one way to run it serve the property test
//! and the threads (`tests/guest`), and the fuzzer (`tests/fuzz`).

mod fixture;
mod log;
mod number;
mod setup;
mod step;
mod twin;

pub use {fixture::Outcome, setup::SLOTS};
pub use {fixture::Testbed, setup::Setup, step::Step};

use arbitrary::Unstructured;
use twin::Twin;

/// Largest number of steps in a sequence: errors appear sooner, and a sequence stays quick.
const MAX_STEPS: usize = 80;

/// A machine and the steps run on it.
#[derive(Clone)]
pub struct Sequence {
    setup: Setup,
    steps: Vec<Step>,
}

/// Displays a step per line.
impl core::fmt::Debug for Sequence {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(f, "{:x?}", self.setup)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step:x?}"))
    }
}

impl Sequence {
    /// Decodes a sequence; any bytes are valid.
    pub fn decode(bytes: &[u8]) -> arbitrary::Result<Self> {
        let mut input = Unstructured::new(bytes);
        let setup: Setup = input.arbitrary()?;
        let mut steps = Testbed::first(&setup);
        while !input.is_empty() && steps.len() < MAX_STEPS {
            steps.push(input.arbitrary()?);
        }
        Ok(Self { setup, steps })
    }

    /// Runs the sequence. After each step everything must agree; at the end nothing may be left.
    /// Returns the number of MAPs.
    pub fn run(&self) -> usize {
        let testbed = Testbed::new(&self.setup, true);
        let mut twin = Twin::new(&self.setup);
        for step in &self.steps {
            let outcome = testbed.act(step);
            twin.follow(&testbed, step, outcome);
            agrees(&testbed, &twin);
        }
        let maps = testbed.stays_in_ram();
        testbed.end();
        maps
    }
}

/// Checks that tables and twin are equal, that the hardware holds what the tables lead to, and that
/// nothing leads outside the guest's RAM.
fn agrees(testbed: &Testbed, twin: &Twin) {
    for (number, phb) in testbed.phbs.iter().enumerate() {
        let mut groups: Vec<_> = phb.space().status().groups.iter().map(|group| group.group).collect();
        groups.sort_unstable();
        assert_eq!(groups, twin.groups[number].iter().copied().collect::<Vec<_>>());
        let of = twin.windows.iter().filter(|(_, window)| window.phb == number);
        let expected: Vec<_> = of.map(|(&liobn, window)| (liobn, window.start, window.len, window.shift)).collect();
        let tables = phb.tables();
        let mut found: Vec<_> = tables
            .iter()
            .map(|table| (table.liobn().0.into(), table.window().start().0, table.window().len(), table.page().get()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected, "windows");
        for table in tables.iter() {
            let first = table.window().start().0 >> table.page().get();
            let mut entries = Vec::new();
            table.each(&mut |index, tce| entries.push((first + index, tce)));
            let tces = &twin.windows[&u64::from(table.liobn().0)].tces;
            assert!(entries.iter().copied().eq(tces.iter().map(|(&page, &tce)| (page, tce))), "{}", table.liobn());
        }
    }
    testbed.fixture.agrees();
    testbed.stays_in_ram();
}
