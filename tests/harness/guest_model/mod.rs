//! A hostile guest: hypercalls and RTAS calls as values, with any arguments, and the naive twin of
//! their effects.
//!
//! Steps are decoded from bytes, so one kind of step and one way to run it serve the property test
//! and the threads (`tests/guest`), and the fuzzer (`tests/fuzz`).

mod fixture;
mod step;
mod twin;

pub use fixture::{Outcome, Testbed};
pub use step::Step;

use crate::guest_fixture::{BUID, LIOBN};
use arbitrary::{Arbitrary, Result, Unstructured};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::guest::{Liobn, PhbConfig};
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
        assert_eq!(groups, twin.groups[number].iter().copied().map(Group).collect::<Vec<_>>());
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

/// Guest RAM that is plugged and unplugged: start and length. Lists are in the first.
pub const SLOTS: [(u64, u64); 5] =
    [(0, 4 << 20), (4 << 20, 4 << 20), (64 << 20, 16 << 20), (1 << 40, 1 << 20), (128 << 20, 32 << 20)];

/// The slot of huge pages, if the machine has them.
pub const HUGE: usize = 4;

const MACHINES: [&str; 12] = [
    "powernv8-64k",
    "powernv8-4k",
    "powernv9-64k",
    "powernv9-4k-7.2",
    "powernv9-64k-7.2",
    "powernv10-64k",
    "pseries-64k",
    "pseries-4k",
    "pseries-64k-7.2",
    "pseries-1window",
    "pseries-noddw-4k",
    "pseries-pgsz=0x11000",
];

/// The initial state of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub machine: &'static str,
    /// Bytes that may be locked, if that is limited.
    pub memlock: Option<u64>,
    /// Bytes of the default windows.
    pub default: u64,
    /// Largest number of TCEs in a dynamic window.
    pub entries: u64,
    /// Bit n: slot n is plugged from the start.
    pub slots: u8,
    /// Whether a device is attached from the start.
    pub attached: bool,
    /// Whether a dynamic window exists from the start, with pages of 64 KiB.
    pub window: bool,
}

impl Setup {
    /// Creates a setup with everything.
    pub fn roomy(machine: &'static str) -> Self {
        let (default, entries, slots) = (64 << 20, 1 << 12, 0b11111);
        Self { machine, memlock: None, default, entries, slots, attached: true, window: true }
    }

    /// Returns whether the firmware has no dynamic windows, and therefore none for VFIO at all.
    pub fn has_no_windows(&self) -> bool {
        self.machine.contains("noddw")
    }

    /// Returns the configurations of the two PHBs.
    pub fn configs(&self) -> [PhbConfig; 2] {
        [0, 1].map(|number| {
            let default = IovaRange::new(Iova(0), self.default).unwrap();
            let liobn = Liobn(LIOBN.0 + 0x10 * number);
            let config = PhbConfig::new(BUID + u64::from(number), liobn).unwrap();
            config.with_default_window(default).with_entries(self.entries)
        })
    }
}

impl<'a> Arbitrary<'a> for Setup {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let machine = *u.choose(&MACHINES)?;
        let bits: u8 = u.arbitrary()?;
        let memlock = match bits & 7 {
            0 => Some(u64::from(u.arbitrary::<u8>()?) << 18),
            _ => None,
        };
        let default = [16 << 20, 64 << 20, 64 << 20, 1 << 30][usize::from(bits >> 3 & 3)];
        let entries = [1 << 12, 1 << 8, 1 << 16, 1][usize::from(bits >> 5 & 3)];
        let slots = *u.choose(&[0b00111, 0b00111, 0b10111, 0b11111, 0b00001, 0b10100, 0b11000, 0])?;
        let more: u8 = u.arbitrary()?;
        Ok(Self { machine, memlock, default, entries, slots, attached: more & 3 != 3, window: more & 12 != 12 })
    }
}
