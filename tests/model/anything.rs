//! Any call with any numbers in any order: the model answers, and its books balance.

use super::bench::*;
use proptest::prelude::*;
use spapr_iommu::addr::{PageShift, UserAddr};
use spapr_iommu::host::model::Leak;
use spapr_iommu::host::{Call, Fd, Host, Memory, Node};
use spapr_iommu::uapi::{eeh, spapr, vfio};

const PRESETS: [&str; 8] = [
    "powernv8",
    "powernv9-4k",
    "powernv9-7.2",
    "pseries",
    "pseries-4k-7.2",
    "pseries-noddw",
    "pseries-1window",
    "pseries-pgsz=0xffffffffffffffff",
];

#[derive(Clone, Debug)]
enum Step {
    Open(Option<u32>),
    OpenDevice(u32),
    Close(u32),
    Call(u32, Call),
    Allocate(u64, u32),
    Free(u64, u64),
    Touch(u64, u8),
}

/// Numbers near the borders that matter.
fn number() -> impl Strategy<Value = u64> {
    let base = prop_oneof![
        4 => Just(0u64),
        6 => Just(1 << 44),
        3 => (0..64u32).prop_map(|bit| 1 << bit),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ];
    let offset = prop_oneof![(0..64u64).prop_map(|n| n << 12), (0..16u64).prop_map(|n| n << 16), 0..3u64];
    (base, offset, any::<bool>()).prop_map(
        |(base, offset, up)| {
            if up { base.wrapping_add(offset) } else { base.wrapping_sub(offset) }
        },
    )
}

fn argsz() -> impl Strategy<Value = u32> {
    prop_oneof![9 => Just(40u32), 1 => 0..48u32]
}

fn flags() -> impl Strategy<Value = u32> {
    prop_oneof![9 => Just(0u32), 1 => any::<u32>()]
}

fn call() -> impl Strategy<Value = Call> {
    let memory = || {
        (argsz(), flags(), number(), number()).prop_map(|(argsz, flags, vaddr, size)| spapr::RegisterMemory {
            argsz,
            flags,
            vaddr,
            size,
        })
    };
    prop_oneof![
        1 => prop_oneof![Just(2), Just(7), any::<u32>()].prop_map(Call::SetIommu),
        1 => (3..40u32).prop_map(|fd| Call::GroupSetContainer(Fd(fd))),
        1 => Just(Call::GroupUnsetContainer),
        1 => prop_oneof![Just(Call::Enable), Just(Call::Disable), Just(Call::DeviceReset)],
        1 => argsz().prop_map(|argsz| Call::TceGetInfo(spapr::TceInfo { argsz, ..Default::default() })),
        4 => memory().prop_map(Call::RegisterMemory),
        2 => memory().prop_map(Call::UnregisterMemory),
        4 => (argsz(), 0..5u32, number(), number(), number())
            .prop_map(|(argsz, flags, vaddr, iova, size)| Call::MapDma(vfio::DmaMap { argsz, flags, vaddr, iova, size })),
        2 => (argsz(), flags(), number(), number())
            .prop_map(|(argsz, flags, iova, size)| Call::UnmapDma(vfio::DmaUnmap { argsz, flags, iova, size })),
        3 => (argsz(), 0..70u32, number(), 0..7u32).prop_map(|(argsz, page_shift, window_size, levels)| {
            Call::TceCreate(spapr::TceCreate { argsz, page_shift, window_size, levels, ..Default::default() })
        }),
        2 => (argsz(), number()).prop_map(|(argsz, start_addr)| {
            Call::TceRemove(spapr::TceRemove { argsz, flags: 0, start_addr })
        }),
        1 => (argsz(), 0..12u32).prop_map(|(argsz, op)| Call::EehPeOp(eeh::PeOp { argsz, op, ..Default::default() })),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let fd = || 3..40u32;
    prop_oneof![
        2 => proptest::option::of(0..3u32).prop_map(Step::Open),
        1 => fd().prop_map(Step::OpenDevice),
        1 => fd().prop_map(Step::Close),
        20 => (fd(), call()).prop_map(|(fd, call)| Step::Call(fd, call)),
        2 => (number(), prop_oneof![Just(12u32), Just(16), Just(21), Just(24)]).prop_map(|(n, p)| Step::Allocate(n, p)),
        1 => (number(), number()).prop_map(|(start, len)| Step::Free(start, len)),
        2 => (number(), any::<u8>()).prop_map(|(at, byte)| Step::Touch(at, byte)),
    ]
}

proptest! {
    #[test]
    fn any_call_is_answered_and_what_stays_locked_is_accounted_for(
        preset in 0..PRESETS.len(),
        open in any::<bool>(),
        v2 in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let model = model(PRESETS[preset]);
        let b = Bench::on(if open { model.with_open_memory() } else { model }, &[0], if v2 { 7 } else { 2 });
        for step in steps {
            match step {
                Step::Open(None) => drop(b.model.open(Node::Container)),
                Step::Open(Some(group)) => drop(b.model.open(Node::Group(group))),
                Step::OpenDevice(fd) => drop(b.model.open(Node::Device { group: Fd(fd), name: "0000:00:00.0" })),
                Step::Close(fd) => b.model.close(Fd(fd)),
                // The bench's own container gets most of the calls.
                Step::Call(fd, call) => drop(b.on_fd(if fd > 12 { b.container } else { Fd(fd) }, call)),
                Step::Allocate(size, shift) => drop(b.model.allocate(size, PageShift::new(shift).unwrap())),
                Step::Free(start, len) => {
                    if let Ok(range) = spapr_iommu::addr::UserRange::new(UserAddr(start), len) {
                        let _ = b.model.free(range);
                    }
                }
                Step::Touch(at, byte) => {
                    if b.model.write(UserAddr(at), &[byte]).is_ok() {
                        let mut back = [!byte];
                        prop_assert_eq!(b.model.read(UserAddr(at), &mut back), Ok(()));
                        prop_assert_eq!(back, [byte]);
                    }
                }
            }
        }
        b.model.exit();
        // What is left is what the violations say, and nothing else.
        let leaks = b.model.leaks();
        let left: u64 = leaks.iter().map(|leak| match leak { Leak::Region(r) => r.len(), Leak::Locked(n) => *n }).sum();
        prop_assert_eq!(left, b.model.locked());
        prop_assert_eq!(leaks.is_empty(), b.violations().iter().all(|v| !loses(v)));
    }
}

fn loses(violation: &spapr_iommu::host::model::Violation) -> bool {
    use spapr_iommu::host::model::Violation::*;
    matches!(violation, UnregisterWhileMapped { .. } | ReleasedWhileMapped { .. } | LeakedCharge { .. })
}
