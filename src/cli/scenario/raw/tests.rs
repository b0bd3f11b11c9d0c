use super::super::expect::Expect;
use super::super::file::Scenario;
use super::entry::{Answer, Entry, document};
use super::fields;
use super::fields::{Field, blanks, numbers};
use super::process::{Process, contents};
use super::step::{DeviceFile, Part, Slot, Step, Where, Which};
use proptest::prelude::*;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Errno, Fd, Host};
use spapr_iommu::model::Model;
use spapr_iommu::uapi::spapr;

/// Makes a file from any number.
fn slot(number: u64) -> Slot {
    let count = (number / 5) as usize % 256;
    match number % 5 {
        0 => Slot::Container(count),
        1 => Slot::Group(count),
        2 => Slot::Device(DeviceFile { group: count, which: Which::First }),
        3 => Slot::Device(DeviceFile { group: count, which: Which::Again }),
        _ => Slot::Device(DeviceFile { group: count, which: Which::Absent }),
    }
}

/// Sets any value for an argument, from any number.
fn set(field: Field<'_>, number: u64) {
    match field {
        Field::File(file) => *file = slot(number),
        Field::Inner(fd) => *fd = slot(number).into(),
        Field::User(user) if number.is_multiple_of(3) => *user = Where::Fixed(number),
        Field::User(user) => *user = Where::Memory { slot: number as usize % 256, offset: number as i64 },
        Field::Memory(slot) => *slot = number as usize % 256,
        Field::Byte(byte) => *byte = number as u8,
        Field::Small(small) => *small = number as u32,
        Field::Argsz(argsz, most) => *argsz = number as u32 % (most + 1),
        Field::Large(large) => *large = number,
        Field::Page(page) => *page = PageShift::new((number % 64) as u32),
        Field::Access(access) => {
            *access = [Protection::None, Protection::Read, Protection::ReadWrite][number as usize % 3];
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let number = prop_oneof![any::<u64>(), 0_u64..5, Just(u64::MAX), Just(1 << 63)];
    (0..blanks().len(), prop::collection::vec(prop::option::of(number), 8)).prop_map(|(which, values)| {
        let mut step = blanks()[which];
        for (argument, value) in step.arguments().into_iter().zip(values) {
            if let Some(value) = value {
                set(argument.field, value);
            }
        }
        step
    })
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let errno = (1..133).prop_map(|raw| Err(Errno::from_raw(raw)));
    prop_oneof![(0..=i32::MAX).prop_map(Ok), errno].prop_map(Answer)
}

fn any_expect() -> impl Strategy<Value = Expect<Answer>> {
    let kinds = prop_oneof![Just(["powernv", "pseries"]), Just(["64k", "4k"])];
    (any_answer(), any_answer(), prop::option::of(kinds)).prop_map(|(one, other, kinds)| match kinds {
        None => Expect::everywhere(one),
        Some([first, second]) => Expect::by_kind([(first, one), (second, other)]),
    })
}

prop_compose! {
    fn any_entry()(
        step in any_step(),
        expect in any_expect(),
        name in prop::option::of(".*"),
        note in prop::option::of("(?s).*"),
        locked in prop::option::of(any::<u64>()),
        given in prop::collection::vec(prop::option::of(any::<u64>()), 8),
    ) -> Entry {
        let known = match step {
            Step::Call { call, .. } => numbers(call),
            _ => Vec::new(),
        };
        let gives = known.into_iter().zip(given).filter_map(|((name, _), value)| Some((name.to_owned(), value?)));
        Entry { name, note, step, expect, gives: gives.collect(), locked }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back(entries in prop::collection::vec(any_entry(), 1..4), title in ".*", about in ".*") {
        let text = document(&title, Some(&about), Some("pseries-4k".parse().unwrap()), &entries);
        let scenario = Scenario::parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!((scenario.title(), scenario.about()), (title.as_str(), Some(about.as_str())));
        let read: Vec<Entry> = scenario.raw.into_iter().map(|line| line.entry).collect();
        prop_assert_eq!(read, entries, "{}", text);
    }
}

/// Limits a step to few files and pieces of memory, and to lengths that end in reasonable time.
fn tame(mut step: Step) -> Step {
    for argument in step.arguments() {
        match argument.field {
            Field::File(file) => *file = slot(u64::from(Fd::from(*file).0) % 10),
            Field::Inner(fd) => *fd = slot(u64::from(fd.0) % 10).into(),
            Field::User(Where::Memory { slot, .. }) | Field::Memory(slot) => *slot %= 2,
            _ => {}
        }
    }
    match &mut step {
        Step::Fill(Part { len, .. }, _) | Step::Check(Part { len, .. }, _) | Step::Dma { len, .. } => *len &= 0x1_ffff,
        _ => {}
    }
    step
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_steps_in_any_order_run(
        steps in prop::collection::vec(any_step().prop_map(tame), 0..60),
        preset in prop::sample::select(vec!["powernv8-4k", "powernv9", "pseries", "pseries-4k-7.2"]),
    ) {
        let model = Model::new(preset.parse().unwrap());
        let mut process = Process::new(model.groups());
        let container = Slot::Container(0);
        let call = |file, call| Step::Call { file, call, user: Where::Fixed(0) };
        let ready = [
            Step::Open(container),
            Step::Open(Slot::Group(0)),
            call(Slot::Group(0), Call::GroupSetContainer(container.into())),
            call(container, Call::SetIommu(spapr::TCE_V2_IOMMU)),
            Step::Allocate { size: 1 << 20, page: None },
        ];
        for step in ready {
            prop_assert_eq!(process.run(&model, &model, &step).0, Ok(0), "{}", step);
        }
        for step in steps {
            let _ = process.run(&model, &model, &step);
        }
        process.close_all(&model);
        prop_assert_eq!(process.open_files().count(), 0);
    }
}

#[test]
fn every_step_has_a_key_of_its_own_and_arguments_with_names_of_their_own() {
    let mut keys: Vec<_> = blanks().iter().map(Step::key).collect();
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count);
    for mut step in fields::blanks() {
        let mut names: Vec<_> = step.arguments().iter().map(|argument| argument.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{}", step.key());
    }
}

#[test]
fn fills_are_found_again_and_compared() {
    let model = Model::new("powernv9-4k".parse().unwrap());
    let mut process = Process::new(model.groups());
    let mut run = |step: Step| process.run(&model, &model, &step).0;
    let part = |offset, len| Part { slot: 0, offset, len };
    assert_eq!(run(Step::Fill(part(0, 4096), 1)), Err(Errno::EINVAL));
    assert_eq!(run(Step::Allocate { size: 0x2_8800, page: None }), Ok(0));
    assert_eq!(run(Step::Fill(part(0x1800, 0x1_9000), 7)), Ok(0));
    assert_eq!(run(Step::Check(part(0x1800, 0x1_9000), 7)), Ok(0));
    assert_eq!(run(Step::Check(part(0x1800, 0x1_9001), 7)), Ok(1));
    assert_eq!(run(Step::Check(part(0x2800, 0x1000), 6)), Ok(0));
    assert_eq!(run(Step::Check(part(0x2_8000, 0x2000), 0)), Err(Errno::EINVAL));
    assert_eq!(run(Step::Protect(part(0x2_8000, 0x1000), Protection::None)), Ok(0));
    assert_eq!(run(Step::Check(part(0x2_8000, 0x1000), 0)), Err(Errno::EFAULT));
    let found = contents(&model, 0, process.memory[0]);
    assert!(
        found.iter().all(|(part, byte)| process.clone().run(&model, &model, &Step::Check(*part, *byte)).0 == Ok(0))
    );
    assert!(found.contains(&(part(0x1800, 0x1_9000), 7)), "{found:?}");
    assert_eq!(found.iter().map(|(part, _)| part.len).sum::<u64>(), 0x2_8000);
}
