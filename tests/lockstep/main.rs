//! Tests of the conformance test: two models in lockstep agree, and models that differ are told
//! apart.

use spapr_iommu::addr::{PageShift, UserAddr, UserRange};
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Errno, Fd, Host, Memory, Wrapper};
use spapr_iommu::model::{Model, Preset};
use spapr_iommu::uapi::spapr::RegisterMemory;
use spapr_iommu::uapi::vfio::DmaMap;
use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::Scenario;
use spapr_iommu_tests::by_address::RunCall;
use spapr_iommu_tests::lockstep::episode::Pair;
use spapr_iommu_tests::lockstep::run::{Amount, END, Summary, run};
use spapr_iommu_tests::lockstep::side::{Side, groups, shifted_model};
use std::sync::Arc;

fn compare(left: &str, right: &str, seed: u64) -> Summary {
    let (left, right) = (left.parse().unwrap(), right.parse().unwrap());
    let pair = Pair { model: left, real: &|| shifted_model(right) };
    let huge = left.huge_pages().to_vec();
    let amount = Amount { seed, from: 0, ops: 4000, length: 100, dma_every: 8, huge, trace: false, shrink: true };
    run(&pair, &amount, |_| {}).unwrap()
}

#[test]
fn a_model_agrees_with_itself_wherever_its_memory_lies() {
    for preset in ["powernv8", "powernv9-4k", "powernv10-7.2", "pseries", "pseries-4k-7.2", "pseries-noddw"] {
        let summary = compare(preset, preset, 1);
        assert_eq!(summary.differences, [""; 0], "{preset}");
        assert!(summary.tally.steps >= 4000 && summary.tally.transfers > 0, "{preset}");
        // Both outcomes of every call that matters.
        for call in ["REGISTER_MEMORY", "UNREGISTER_MEMORY", "TCE_CREATE", "TCE_REMOVE"] {
            let kind = &summary.tally.kinds[&*format!("VFIO_IOMMU_SPAPR_{call}")];
            let both = kind.well > 20 && kind.otherwise > 20;
            assert!(both || preset == "pseries-noddw", "{preset} {call}: {kind:?}");
        }
    }
}

/// Returns the scenario in the report of the only difference.
fn reported(summary: &Summary) -> (String, Scenario) {
    let [difference] = &summary.differences[..] else { panic!("they pass for the same") };
    let (start, end) = (difference.find("title = ").unwrap(), difference.find(END).unwrap());
    let text = &difference[start..end];
    (text.into(), Scenario::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}")))
}

fn model(scenario: &Scenario, preset: &str) -> Machine {
    Machine::model(preset.parse().unwrap(), scenario.groups())
}

/// Asserts that the scenario holds on the first and not on the second.
fn tells_apart(text: &str, scenario: &Scenario, good: &Machine, other: &Machine) {
    let here = scenario.run(good, &mut ()).unwrap();
    assert!(here.passed && here.end.is_clean(), "{text}\n{:?} {:?}", here.surprise(), here.end);
    let there = scenario.run(other, &mut ()).unwrap();
    assert!(there.surprise().is_some(), "{text}");
    // Every page of the memory is checked.
    let steps = text.matches("[[raw]]").count() - text.matches("\ncheck = ").count();
    assert!((1..=24).contains(&steps), "{text}");
}

#[test]
fn what_differs_is_found_shrunk_and_told_as_a_scenario() {
    for (left, right) in [("powernv9", "powernv9-4k"), ("pseries", "pseries-7.2"), ("powernv8", "powernv9")] {
        let (text, scenario) = reported(&compare(left, right, 1));
        tells_apart(&text, &scenario, &model(&scenario, left), &model(&scenario, right));
    }
}

/// Changes what a model does with a call.
type Twist = fn(&Model, Fd, &mut Call) -> Result<i32, Errno>;

/// A slightly different model.
struct Twisted {
    model: Arc<Model>,
    twist: Twist,
}

impl core::fmt::Debug for Twisted {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.model.fmt(f)
    }
}

impl Wrapper for Twisted {
    type Inner = Model;

    fn inner(&self) -> &Model {
        &self.model
    }

    unsafe fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        (self.twist)(&self.model, fd, call)
    }
}

impl Memory for Twisted {
    fn allocate(&self, size: u64, page: PageShift) -> Result<UserRange, Errno> {
        self.model.allocate(size, page)
    }
    fn free(&self, range: UserRange) -> Result<(), Errno> {
        self.model.free(range)
    }
    fn protect(&self, range: UserRange, protection: Protection) -> Result<(), Errno> {
        self.model.protect(range, protection)
    }
    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno> {
        self.model.read(at, data)
    }
    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno> {
        self.model.write(at, data)
    }
}

impl spapr_iommu_tests::lockstep::side::Machine for Twisted {}

fn an_errno_for_a_positive_result(model: &Model, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
    match (model.run_call(fd, call), &call) {
        (Ok(1..), Call::UnmapDma(_)) => Err(Errno::EINVAL),
        (result, _) => result,
    }
}

fn windows_elsewhere(model: &Model, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
    let result = model.run_call(fd, call);
    if let (Ok(0), Call::TceCreate(args)) = (result, call) {
        args.start_addr += 1 << 12;
    }
    result
}

fn more_memory_locked(model: &Model, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
    let result = model.run_call(fd, call);
    if let (Ok(0), Call::RegisterMemory(args)) = (result, call) {
        let more = model.allocate(1 << 16, model.page_shift())?;
        model.run_call(
            fd,
            &mut Call::RegisterMemory(RegisterMemory { vaddr: more.start().0, size: more.len(), ..*args }),
        )?;
    }
    result
}

fn groups_without_a_container(model: &Model, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
    let result = model.run_call(fd, call);
    if let Call::GroupGetStatus(status) = call {
        status.flags &= 1;
    }
    result
}

fn devices_that_cannot_write(model: &Model, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
    match *call {
        Call::MapDma(args) if args.flags == 3 => model.run_call(fd, &mut Call::MapDma(DmaMap { flags: 1, ..args })),
        _ => model.run_call(fd, call),
    }
}

/// The mappings that a failed MAP replaced are mapped again.
fn failed_maps_that_leave_what_was_there(model: &Model, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
    let before = model.tables(fd);
    let result = model.run_call(fd, call);
    if let (Err(_), Call::MapDma(_)) = (result, &call) {
        let now = model.tables(fd);
        let still = |entry| now.iter().any(|table| table.entries.contains(entry));
        for entry in before.iter().flat_map(|table| &table.entries).filter(|entry| !still(entry)) {
            let (iova, vaddr, flags) = (entry.iova, entry.user.0, entry.permission.bits());
            let again = DmaMap { argsz: 32, flags, vaddr, iova: iova.start().0, size: iova.len() };
            let _ = model.run_call(fd, &mut Call::MapDma(again));
        }
    }
    result
}

#[test]
fn each_kind_of_difference_is_reported() {
    let preset: Preset = "powernv9".parse().unwrap();
    let twists: [(Twist, &str); 6] = [
        (an_errno_for_a_positive_result, "expect = 1"),
        (windows_elsewhere, "start_addr"),
        (more_memory_locked, "locked ="),
        (groups_without_a_container, "group-get-status ="),
        (devices_that_cannot_write, "check ="),
        (failed_maps_that_leave_what_was_there, "check ="),
    ];
    for (twist, shown) in twists {
        let twisted = |model| Twisted { model, twist };
        let real = || {
            let model = Arc::new(Model::new(preset).without_freezing());
            let groups = groups(&*model)?;
            Ok(Side::new(twisted(model), groups))
        };
        let huge = preset.huge_pages().to_vec();
        let amount =
            Amount { seed: 1, from: 0, ops: 20_000, length: 100, dma_every: 1, huge, trace: false, shrink: true };
        let summary = run(&Pair { model: preset, real: &real }, &amount, |_| {}).unwrap();
        let (text, scenario) = reported(&summary);
        assert!(text.contains(shown), "{text}");
        let other = Machine::wrapped(preset, scenario.groups(), |model| Arc::new(twisted(model)));
        tells_apart(&text, &scenario, &model(&scenario, "powernv9"), &other);
    }
}
