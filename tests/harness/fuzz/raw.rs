//! Any kernel calls with any numbers in any order: the model must answer, and its own counts must
//! balance.

use super::raw_step::Step;
use crate::by_address::RunCall;
use arbitrary::Unstructured;
use spapr_iommu::Group;
use spapr_iommu::host::{Call, Fd, Host, Memory, Node, Region};
use spapr_iommu::model::{Firmware, HostPage, KernelVersion, Leak, Machine, Model, Preset, Violation};
use std::collections::BTreeMap;

const MAX_STEPS: usize = 120;
const GROUPS: u32 = 3;

/// The machine, a container with some groups in it, and steps.
#[derive(Clone)]
pub struct Calls {
    preset: Preset,
    open_memory: bool,
    memlock: Option<u64>,
    driver: u32,
    groups: u32,
    steps: Vec<Step>,
}

/// Displays a step per line.
impl core::fmt::Debug for Calls {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { preset, open_memory, memlock, driver, groups, steps } = self;
        writeln!(f, "{preset}, open {open_memory}, {memlock:?}, driver {driver}, {groups} groups")?;
        steps.iter().try_for_each(|step| writeln!(f, "  {step:x?}"))
    }
}

/// The visible state of the model, to compare.
type View = (Vec<Violation>, u64, usize, usize);

impl Calls {
    /// Decodes calls; any bytes are valid.
    pub fn decode(bytes: &[u8]) -> arbitrary::Result<Self> {
        let mut u = Unstructured::new(bytes);
        let bits: u16 = u.arbitrary()?;
        let machine = match bits & 7 {
            0 => Machine::Powernv8,
            1 => Machine::Powernv9,
            2 | 3 => Machine::Powernv10,
            4 => Machine::Pseries(Firmware { windows: 1, ..Firmware::default() }),
            5 => Machine::Pseries(Firmware { ddw: false, ..Firmware::default() }),
            6 => Machine::Pseries(Firmware { page_sizes: u.arbitrary()?, ..Firmware::default() }),
            _ => Machine::Pseries(Firmware::default()),
        };
        let page = if bits & 8 == 0 { HostPage::Large } else { HostPage::Small };
        let kernel = if bits & 16 == 0 { KernelVersion::V6_12 } else { KernelVersion::V7_2 };
        let memlock = (bits & 0x60 == 0).then_some(u64::from(bits >> 8) << 20);
        let driver = if bits & 0x80 == 0 { 7 } else { 2 };
        let groups = u32::from(bits >> 8) & 3;
        let mut steps = Vec::new();
        while !u.is_empty() && steps.len() < MAX_STEPS {
            steps.push(u.arbitrary()?);
        }
        Ok(Self {
            preset: Preset { machine, page, kernel },
            open_memory: bits & 0x100 != 0,
            memlock,
            driver,
            groups,
            steps,
        })
    }

    fn model(&self) -> Model {
        let mut model = Model::new(self.preset).with_groups(GROUPS);
        if let Some(limit) = self.memlock {
            model = model.with_memlock(Some(limit));
        }
        if self.open_memory {
            model = model.with_open_memory();
        }
        model
    }

    /// Runs the calls. A model forked from another midway must reach the same end.
    pub fn run(&self) {
        let model = self.model();
        let container = model.open(Node::Container).unwrap();
        for number in 0..self.groups.min(GROUPS) {
            let group = model.open(Node::Group(Group(number))).unwrap();
            let _ = model.run_call(group, &mut Call::GroupSetContainer(container));
        }
        let _ = model.run_call(container, &mut Call::SetIommu(self.driver));
        model.allocate(1 << 20, model.page_shift()).unwrap();
        let mut counted = self.driver == 7 && !self.steps.iter().any(Step::wants_v1);
        let mut regions = Regions::new();
        let mut twin: Option<(Model, Regions)> = None;
        for (at, step) in self.steps.iter().enumerate() {
            if at == self.steps.len() / 2 && regions.is_empty() {
                twin = Some((model.fork(), Regions::new()));
            }
            let open = model.containers().len();
            let result = step.run(&model, container, &mut regions);
            // A container without a file remains while it has groups, and its tables cannot be
            // seen.
            counted &= model.containers().len() >= open;
            if let Some((twin, regions)) = &mut twin {
                assert_eq!(step.run(twin, container, regions), result, "{step:x?} in a fork");
            }
            balances(&model, counted);
        }
        if let Some((twin, _)) = &twin {
            assert_eq!(view(twin), view(&model));
        }
        regions.clear();
        model.exit();
        ends(&model);
    }
}

/// Open device regions.
pub type Regions = Vec<Box<dyn Region>>;

fn view(model: &Model) -> View {
    (model.violations(), model.locked(), model.regions().len(), model.containers().len())
}

/// Checks that tables are sound, that regions are counted once for each TCE that leads into them if
/// all containers are `counted`, and that all locked memory is accounted for.
fn balances(model: &Model, counted: bool) {
    let violations = model.violations();
    let mut tces: BTreeMap<u64, u64> = BTreeMap::new();
    let regions = model.regions();
    for container in model.containers() {
        let tables = model.tables(container);
        assert!(tables.len() <= 2);
        for table in tables {
            let mut end = table.range.start();
            for entry in table.entries {
                assert!(table.range.contains_range(&entry.iova) && entry.iova.start() >= end, "{entry:?}");
                assert!(entry.iova.is_aligned(table.page) && entry.user.0 & table.page.mask() == 0, "{entry:?}");
                end = entry.iova.end();
                for region in &regions {
                    let last = entry.user.0.saturating_add(entry.iova.len());
                    let (from, to) = (entry.user.0.max(region.range.start().0), last.min(region.range.end().0));
                    *tces.entry(region.range.start().0).or_default() += to.saturating_sub(from) >> table.page.get();
                }
            }
        }
    }
    // A failed exchange counts too many.
    let sound = !violations.iter().any(|violation| matches!(violation, Violation::LeakedCount { .. }));
    for region in regions.iter().filter(|_| sound && counted) {
        assert_eq!(region.mapped, tces.get(&region.range.start().0).copied().unwrap_or(0), "{region:x?}");
    }
    let page = model.page_shift().bytes();
    assert_eq!(model.locked() % page, 0);
    let lost: u64 = violations.iter().map(|v| if let Violation::LeakedCharge { bytes } = v { *bytes } else { 0 }).sum();
    let leaked = model.leaks().iter().map(|leak| if let Leak::Locked(bytes) = leak { *bytes } else { 0 }).sum::<u64>();
    assert_eq!(leaked, lost, "locked memory that nothing accounts for");
}

/// Checks that after the process nothing is left except what violations reported.
fn ends(model: &Model) {
    use Violation::{LeakedCharge, ReleasedWhileMapped, UnregisterWhileMapped};
    assert_eq!(model.containers(), [] as [Fd; 0]);
    let leaks = model.leaks();
    let left: u64 = leaks
        .iter()
        .map(|leak| match leak {
            Leak::Region(r) => r.len(),
            Leak::Locked(n) => *n,
        })
        .sum();
    assert_eq!(left, model.locked());
    let loses = |violation: &Violation| {
        matches!(violation, UnregisterWhileMapped { .. } | ReleasedWhileMapped { .. } | LeakedCharge { .. })
    };
    assert_eq!(leaks.is_empty(), !model.violations().iter().any(loses), "{leaks:?}");
}
