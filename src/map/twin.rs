//! Checks the interval map against a naive twin: one entry per page, nothing clever.

use super::{IntervalMap, Mapping};
use crate::addr::{Iova, IovaRange, UserAddr};
use crate::permission::Permission;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGE: u64 = 0x1000;
const PAGES: u64 = 32;

#[derive(Clone, Debug)]
enum Step {
    Insert { page: u64, pages: u64, user_page: u64, permission: Permission, region: u8 },
    Remove { page: u64, pages: u64 },
}

fn permission() -> impl Strategy<Value = Permission> {
    prop_oneof![Just(Permission::ReadWrite), Just(Permission::Read)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..PAGES, 1..6u64, 0..4u64, permission(), 0..2u8).prop_map(|(page, pages, shift, permission, region)| {
            Step::Insert { page, pages, user_page: page + shift * 100, permission, region }
        }),
        2 => (0..PAGES, 1..9u64).prop_map(|(page, pages)| Step::Remove { page, pages }),
    ]
}

fn pages_of(mapping: &Mapping<u8>) -> impl Iterator<Item = (u64, (u64, Permission, u8))> {
    let (iova, user) = (mapping.iova.start().0 / PAGE, mapping.user.0 / PAGE);
    let (permission, region) = (mapping.permission, mapping.region);
    (0..mapping.iova.len() / PAGE).map(move |i| (iova + i, (user + i, permission, region)))
}

/// Fewer steps under Miri, which is slow.
const STEPS: usize = if cfg!(miri) { 8 } else { 60 };

proptest! {
    #[test]
    fn the_map_equals_its_twin_after_every_step(steps in prop::collection::vec(step(), 1..STEPS)) {
        let mut map = IntervalMap::new();
        let mut twin: BTreeMap<u64, (u64, Permission, u8)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert { page, pages, user_page, permission, region } => {
                    let iova = IovaRange::new(Iova(page * PAGE), pages * PAGE).unwrap();
                    let mapping = Mapping { iova, user: UserAddr(user_page * PAGE), permission, region };
                    let free = !(page..page + pages).any(|page| twin.contains_key(&page));
                    let spot = map.free_spot(iova);
                    prop_assert_eq!(spot.is_some(), free);
                    let placed = match spot {
                        Some(spot) => map.insert_at(spot, mapping),
                        None => None,
                    };
                    for next in page + pages..PAGES {
                        let next = IovaRange::new(Iova(next * PAGE), PAGE).unwrap();
                        let after = placed.and_then(|placed| map.free_spot_after(placed, next));
                        prop_assert!(after.is_none() || after == map.free_spot(next));
                    }
                    prop_assert!(free || map.insert(mapping).is_err());
                    if free {
                        twin.extend(pages_of(&mapping));
                    }
                }
                Step::Remove { page, pages } => {
                    let range = IovaRange::new(Iova(page * PAGE), pages * PAGE).unwrap();
                    let mut taken = BTreeMap::new();
                    let whole = map.iter().find(|run| run.iova == range);
                    let exact = map.exact(range);
                    prop_assert_eq!(exact.map(|(_, found)| found), whole);
                    match exact {
                        Some((spot, found)) => {
                            map.remove_at(spot);
                            taken.extend(pages_of(&found));
                        }
                        None => map.remove(range, |piece| taken.extend(pages_of(&piece))),
                    }
                    let expected: BTreeMap<_, _> = twin.range(page..page + pages).map(|(&k, &v)| (k, v)).collect();
                    twin.retain(|at, _| !(page..page + pages).contains(at));
                    prop_assert_eq!(taken, expected);
                }
            }
            let runs: Vec<_> = map.iter().collect();
            let recorded: BTreeMap<_, _> = runs.iter().flat_map(pages_of).collect();
            prop_assert_eq!(&recorded, &twin);
            prop_assert_eq!(map.bytes(), twin.len() as u64 * PAGE);
            for pair in runs.windows(2) {
                let apart = pair[0].iova.end() < pair[1].iova.start()
                    || (pair[0].user.0.wrapping_add(pair[0].iova.len()), pair[0].permission, pair[0].region)
                        != (pair[1].user.0, pair[1].permission, pair[1].region);
                prop_assert!(apart, "{:?} continues {:?}", pair[1], pair[0]);
            }
            let whole = IovaRange::new(Iova(0), (PAGES + 20) * PAGE).unwrap();
            let free: u64 = map.gaps(whole).map(|gap| gap.len()).sum();
            prop_assert_eq!(free + map.bytes(), whole.len());
            for page in 0..PAGES + 10 {
                let user = map.translate(Iova(page * PAGE + 5)).map(|found| found.user.0);
                prop_assert_eq!(user, twin.get(&page).map(|(user, ..)| user * PAGE + 5));
            }
        }
    }
}
