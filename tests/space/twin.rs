//! Any sequence of calls, valid or hostile: no trap is met, and space, hardware and a naive twin agree.

use crate::bench::{BIG, Bench, PRESETS, iova};
use proptest::prelude::*;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::host::model::MemoryKind;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Lease;
use spapr_iommu::space::{AddressSpace, MapRequest, Overlap};
use spapr_iommu::window::WindowRequest;
use std::collections::BTreeMap;

const PAGE: u64 = 0x10000;
const RAM_PAGES: u64 = 16;

#[derive(Clone, Debug)]
enum Step {
    Attach(u32),
    Beside(u32, u32),
    Detach(u32),
    Register(u64, u64),
    Release(usize),
    Drop(usize),
    Map {
        requests: Vec<(u64, u64, u64)>,
        permission: Permission,
        replace: bool,
    },
    /// Maps in another space, which shares the registry.
    Elsewhere(u64, u64),
    /// The user unmaps memory and maps it again, where nothing is leased.
    Renew(u64),
    Unmap(u64, u64),
    Window(u64),
    Ask(u64, u64),
    Unask(u64, u64),
    RemoveWindow(u64),
    DropDefault,
    Trim,
}

/// Bus addresses of interest: both windows, their ends, and nonsense.
fn bus() -> impl Strategy<Value = u64> {
    prop_oneof![
        25 => (0..12u64).prop_map(|page| page * PAGE),
        25 => (0..12u64).prop_map(|page| BIG + page * PAGE),
        1 => Just((1 << 30) - PAGE),
        1 => Just((2 << 30) - PAGE),
        1 => Just(BIG + (1 << 30) - PAGE),
        1 => Just(0x800),
        1 => any::<u64>(),
    ]
}

fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![40 => (1..5u64).prop_map(|pages| pages * PAGE), 1 => Just(0x1000), 1 => Just(3), 1 => any::<u64>()]
}

fn step() -> impl Strategy<Value = Step> {
    let request = (bus(), 0..RAM_PAGES, bytes());
    prop_oneof![
        3 => (0..3u32).prop_map(Step::Attach),
        1 => (0..3u32, 0..3u32).prop_map(|(group, other)| Step::Beside(group, other)),
        1 => (0..3u32).prop_map(Step::Detach),
        4 => (0..RAM_PAGES, 1..8u64).prop_map(|(page, pages)| Step::Register(page, pages)),
        2 => (0..8usize).prop_map(Step::Release),
        1 => (0..8usize).prop_map(Step::Drop),
        8 => (prop::collection::vec(request, 1..3), permission(), any::<bool>())
            .prop_map(|(requests, permission, replace)| Step::Map { requests, permission, replace }),
        2 => (0..RAM_PAGES, 1..4u64).prop_map(|(page, pages)| Step::Elsewhere(page, pages)),
        2 => (0..RAM_PAGES).prop_map(Step::Renew),
        6 => (bus(), bytes()).prop_map(|(at, size)| Step::Unmap(at, size)),
        1 => bytes().prop_map(Step::Window),
        1 => (bus(), bytes()).prop_map(|(at, size)| Step::Ask(at, size)),
        1 => (bus(), bytes()).prop_map(|(at, size)| Step::Unask(at, size)),
        1 => bus().prop_map(Step::RemoveWindow),
        1 => Just(Step::DropDefault),
        1 => Just(Step::Trim),
    ]
}

fn permission() -> impl Strategy<Value = Permission> {
    prop_oneof![3 => Just(Permission::ReadWrite), 1 => Just(Permission::Read), 1 => Just(Permission::Write)]
}

fn range(start: u64, len: u64) -> Option<IovaRange> {
    IovaRange::new(Iova(start), len).ok()
}

/// Runs a step; what it maps goes into `twin`, 4 KiB page by page.
fn run(
    bench: &Bench,
    other: &AddressSpace,
    ram: UserRange,
    leases: &mut Vec<Lease>,
    twin: &mut BTreeMap<u64, u64>,
    step: Step,
) {
    let space = &bench.space;
    match step {
        Step::Attach(group) => drop(space.attach(group)),
        Step::Beside(group, other) => drop(space.attach_beside(group, other)),
        Step::Detach(group) => {
            let last = space.status().groups.len() == 1;
            if space.detach(group).is_ok() && last {
                twin.clear();
            }
        }
        Step::Register(page, pages) => {
            let start = UserAddr(ram.start().0 + page * PAGE);
            leases.extend(bench.registry.register(UserRange::new(start, pages * PAGE).unwrap()));
        }
        Step::Release(at) if at < leases.len() => {
            if let Err(refused) = leases.remove(at).release() {
                assert!(!refused.mapped.is_empty());
                leases.push(refused.lease);
            }
        }
        Step::Drop(at) if at < leases.len() => drop(leases.remove(at)),
        Step::Release(_) | Step::Drop(_) => {}
        Step::Elsewhere(page, pages) => {
            let there = iova(page * PAGE, pages * PAGE);
            if other.unmap(there).is_ok_and(|bytes| bytes > 0) {
                return;
            }
            let user = UserAddr(ram.start().0 + page * PAGE);
            drop(other.map(there, user, Permission::ReadWrite));
        }
        Step::Renew(page) => {
            let page = UserRange::new(UserAddr(ram.start().0 + page * PAGE), PAGE).unwrap();
            if leases.iter().all(|lease| lease.range().intersection(&page).is_none()) {
                bench.model.declare(page, MemoryKind::Ordinary).unwrap();
            }
        }
        Step::Map { requests, permission, replace } => {
            let requests: Vec<_> = requests
                .into_iter()
                .filter_map(|(at, page, len)| {
                    let user = UserAddr(ram.start().0 + page * PAGE);
                    Some(MapRequest { iova: range(at, len)?, user, permission })
                })
                .collect();
            let overlap = if replace { Overlap::Replace } else { Overlap::Refuse };
            if space.map_all(&requests, overlap).is_ok() {
                for request in requests {
                    for offset in (0..request.iova.len()).step_by(0x1000) {
                        twin.insert(request.iova.start().0 + offset, request.user.0 + offset);
                    }
                }
            }
        }
        Step::Unmap(at, len) => {
            let Some(range) = range(at, len) else { return };
            if let Ok(bytes) = space.unmap(range) {
                let before = twin.len() as u64;
                twin.retain(|&page, _| !range.contains(Iova(page)));
                assert_eq!(bytes, (before - twin.len() as u64) * 0x1000);
            }
        }
        Step::Window(len) => drop(space.create_window(&WindowRequest::bytes(len))),
        Step::Ask(at, len) => drop(range(at, len).map(|range| space.ask(range))),
        Step::Unask(at, len) => drop(range(at, len).map(|range| space.unask(range))),
        Step::RemoveWindow(at) => drop(space.remove_window(Iova(at))),
        Step::DropDefault => drop(space.drop_default_window()),
        Step::Trim => drop(space.trim()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 1500 }))]

    #[test]
    fn no_sequence_of_calls_meets_a_trap_and_all_books_agree(
        preset in prop::sample::select(&PRESETS[..]),
        // Most sequences start where maps can work.
        ready in prop::bool::weighted(0.8),
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let bench = Bench::with(spapr_iommu::host::model::Model::new(preset.parse().unwrap()).with_groups(4));
        let ram = bench.allocate(RAM_PAGES * PAGE);
        let other = AddressSpace::new(&bench.registry);
        other.attach(3).unwrap();
        let mut leases = Vec::new();
        let mut twin = BTreeMap::new();
        let first = [Step::Attach(0), Step::Register(0, RAM_PAGES)];
        for step in first.into_iter().filter(|_| ready).chain(steps) {
            run(&bench, &other, ram, &mut leases, &mut twin, step);
            bench.agrees_beside(&[&other]);
            let pages: BTreeMap<u64, u64> = bench
                .space
                .mappings()
                .iter()
                .flat_map(|m| (0..m.iova.len()).step_by(0x1000).map(|o| (m.iova.start().0 + o, m.user.0 + o)))
                .collect();
            prop_assert_eq!(&pages, &twin);
        }
        for mapping in bench.space.mappings() {
            bench.space.unmap(iova(mapping.iova.start().0, mapping.iova.len())).unwrap();
        }
        drop((leases, other));
        bench.ends_clean();
    }
}
