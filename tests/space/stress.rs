//! A hundred thousand live maps in random places, then none.

use crate::fixture::{BIG, Fixture, RW, at, iova};
use spapr_iommu::addr::{Iova, UserAddr};
use spapr_iommu::window::WindowRequest;
use std::collections::BTreeMap;

const PAGE: u64 = 0x1000;
const PAGES: u64 = 1 << 20;
const LIVE: usize = 100_000;

/// The books of every step, the naive way: a page each.
type Twin = BTreeMap<u64, u64>;

#[test]
fn a_hundred_thousand_live_maps_in_random_places_equal_a_naive_twin() {
    let mut rng = fastrand::Rng::with_seed(64);
    let fixture = Fixture::new("powernv9-4k");
    let ram = fixture.allocate(256 << 20);
    let lease = fixture.registry.register(ram).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(PAGES * PAGE)).unwrap();
    let mut twin = Twin::new();
    let mut places = Vec::with_capacity(LIVE);
    while twin.len() < LIVE {
        let (page, user) = (rng.u64(..PAGES), rng.u64(..ram.len() / PAGE));
        let there = iova(BIG + page * PAGE, PAGE);
        let mapped = fixture.space.map(there, at(ram, user * PAGE), RW);
        assert_eq!(mapped.is_ok(), !twin.contains_key(&page));
        if mapped.is_ok() {
            twin.insert(page, user);
            places.push(page);
        }
        step_agrees(&fixture, &twin, page, &mut rng, ram.start());
    }
    whole_agrees(&fixture, &twin, ram.start());
    while !places.is_empty() {
        let page = places.swap_remove(rng.usize(..places.len()));
        assert_eq!(fixture.space.unmap(iova(BIG + page * PAGE, PAGE)).unwrap(), PAGE);
        twin.remove(&page);
        step_agrees(&fixture, &twin, page, &mut rng, ram.start());
        if places.len() == LIVE / 2 {
            whole_agrees(&fixture, &twin, ram.start());
        }
    }
    assert_eq!(fixture.space.mapped(), (0, 0));
    lease.release().unwrap();
    fixture.ends_clean();
}

/// The sums, the page that was meant with its neighbours, and one at random: what a step can have
/// changed, for a cost that every step can bear.
fn step_agrees(fixture: &Fixture, twin: &Twin, page: u64, rng: &mut fastrand::Rng, ram: UserAddr) {
    assert_eq!(fixture.space.mapped().1, twin.len() as u64 * PAGE);
    for page in [page.saturating_sub(1), page, page + 1, rng.u64(..PAGES)] {
        let found = fixture.space.translate(Iova(BIG + page * PAGE)).map(|found| found.user.0);
        assert_eq!(found, twin.get(&page).map(|user| ram.0 + user * PAGE));
    }
}

/// Every page, in the space and in the hardware's tables.
fn whole_agrees(fixture: &Fixture, twin: &Twin, ram: UserAddr) {
    let pages: Vec<_> = fixture
        .space
        .mappings()
        .iter()
        .flat_map(|m| {
            (0..m.iova.len() / PAGE).map(|i| ((m.iova.start().0 - BIG) / PAGE + i, (m.user.0 - ram.0) / PAGE + i))
        })
        .collect();
    assert_eq!(pages, twin.iter().map(|(&page, &user)| (page, user)).collect::<Vec<_>>());
    fixture.agrees();
}
