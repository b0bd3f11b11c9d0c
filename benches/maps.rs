//! Measures map, unmap and lookup in an address space over a host that maps nothing, compared with
//! a plain `BTreeMap`, and two threads on two spaces, compared with one thread.
//!
//! `cargo bench --bench maps`, or for one number of live ranges `cargo bench --bench maps -- 1000`

#[path = "measure/mod.rs"]
mod measure;

use measure::{Null, Table, median_ns};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use spapr_iommu::model::{Model, Preset};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
use spapr_iommu::window::WindowRequest;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const PAGE: u64 = 0x1000;
const USER: u64 = 1 << 40;

/// A map without windows, registry and kernel.
#[derive(Default)]
struct Plain(BTreeMap<u64, (u64, u64, Permission)>);

impl Plain {
    fn map(&mut self, iova: u64, len: u64, user: u64) -> bool {
        let free = self.0.range(..iova + len).next_back().is_none_or(|(_, &(end, ..))| end <= iova);
        if free {
            self.0.insert(iova, (iova + len, user, Permission::ReadWrite));
        }
        free
    }

    fn unmap(&mut self, iova: u64) -> bool {
        self.0.remove(&iova).is_some()
    }

    fn lookup(&self, iova: u64) -> Option<u64> {
        let (&start, &(end, user, _)) = self.0.range(..=iova).next_back()?;
        (iova < end).then(|| user + (iova - start))
    }
}

/// Creates `count` spaces of one registry, each with `live` ranges of a page, every second page,
/// none continuing another. All map the same memory.
fn spaces(count: u32, live: u64) -> (Vec<(AddressSpace, u64)>, Lease) {
    let preset: Preset = "powernv9-4k".parse().expect("a preset");
    let host = Arc::new(Null(Model::new(preset).with_groups(count).with_open_memory()));
    let registry = Registry::new(host);
    let size = live * 2 * PAGE;
    let memory = UserRange::new(UserAddr(USER), size).expect("range");
    // SAFETY: addresses of a model, which touches no memory.
    let lease = unsafe { registry.register_raw(memory) }.expect("register");
    let space = |number| {
        let space = AddressSpace::new(&registry);
        space.attach(Group(number)).expect("attach");
        let request = WindowRequest::bytes(size).page(PageShift::P4K);
        let start = space.create_window(&request).expect("window").range.start().0;
        for i in 0..live {
            space.map(page(start, 2 * i), user(live, 2 * i), Permission::ReadWrite).expect("map");
        }
        (space, start)
    };
    ((0..count).map(space).collect(), lease)
}

/// Maps and unmaps a page at each of `places`.
fn map_and_unmap((space, start): &(AddressSpace, u64), live: u64, places: &[u64]) {
    for &place in places {
        let at = page(*start, 2 * place + 1);
        space.map(at, user(live, 2 * place + 1), Permission::ReadWrite).expect("free");
        space.unmap(at).expect("mapped");
    }
}

/// Maps and unmaps in one space, and in two spaces by a thread each. Prints the best rounds, since
/// other load takes one of two processors more often than the only one that is needed.
fn two_threads(live: u64, places: &[u64]) {
    const ROUNDS: usize = 200;
    let (spaces, _lease) = spaces(2, live);
    let times = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        map_and_unmap(&spaces[0], live, places);
        let alone = began.elapsed();
        let both_run = Barrier::new(2);
        let work = |space| {
            both_run.wait();
            let began = Instant::now();
            map_and_unmap(space, live, places);
            (began, Instant::now())
        };
        let (first, second) = thread::scope(|scope| {
            let second = scope.spawn(|| work(&spaces[1]));
            (work(&spaces[0]), second.join().expect("no panic"))
        });
        (alone, first.1.max(second.1) - first.0.min(second.0))
    });
    let least = |(a, b): (Duration, Duration), (c, d): (Duration, Duration)| (a.min(c), b.min(d));
    let (alone, together) = times.reduce(least).expect("rounds");
    let rate = |count: usize, took: Duration| (count * places.len()) as f64 / took.as_micros() as f64;
    let (one, two) = (rate(1, alone), rate(2, together));
    println!("map+unmap a µs, two threads {two:.2}, one {one:.2}: {:.2}", two / one);
}

fn page(start: u64, at: u64) -> IovaRange {
    IovaRange::new(Iova(start + at * PAGE), PAGE).expect("range")
}

/// Scatters user addresses, so that neighbours do not merge.
fn user(live: u64, at: u64) -> UserAddr {
    UserAddr(USER + (2 * live - 1 - at) * PAGE)
}

fn main() {
    let chosen: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    Table::head("live ranges", "space", "BTreeMap");
    for live in [1_000, 65_000, 1_000_000].into_iter().filter(|live| chosen.is_empty() || chosen.contains(live)) {
        let (spaces, _lease) = spaces(1, live);
        let (space, start) = &spaces[0];
        let start = *start;
        let mut plain = Plain::default();
        for i in 0..live {
            plain.map(start + 2 * i * PAGE, PAGE, user(live, 2 * i).0);
        }
        let mut rng = fastrand::Rng::with_seed(live);
        let places: Vec<u64> = (0..4096).map(|_| rng.u64(..live)).collect();
        let (ours, theirs) = median_ns(
            places.len(),
            || map_and_unmap(&spaces[0], live, &places),
            || {
                for &place in &places {
                    let at = start + (2 * place + 1) * PAGE;
                    assert!(plain.map(at, PAGE, user(live, 2 * place + 1).0));
                    assert!(plain.unmap(at));
                }
            },
        );
        Table::row(&format!("map+unmap, {live}"), ours, theirs);
        let (ours, theirs) = median_ns(
            places.len(),
            || {
                for &place in &places {
                    black_box(space.translate(Iova(start + 2 * place * PAGE + 8)));
                }
            },
            || {
                for &place in &places {
                    black_box(plain.lookup(start + 2 * place * PAGE + 8));
                }
            },
        );
        Table::row(&format!("lookup, {live}"), ours, theirs);
        if live == 1_000 {
            two_threads(live, &places);
        }
    }
}
