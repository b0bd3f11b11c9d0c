//! Measures map, unmap and lookup in an address space over a host that maps nothing, compared with
//! a plain `BTreeMap`.
//!
//! `cargo bench --bench maps`

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
use std::sync::Arc;

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

/// Creates a space with `live` ranges of a page, every second page, none continuing another.
fn space(live: u64) -> (AddressSpace, Lease, u64) {
    let preset: Preset = "powernv9-4k".parse().expect("a preset");
    let host = Arc::new(Null(Model::new(preset).with_open_memory()));
    let registry = Registry::new(host);
    let space = AddressSpace::new(&registry);
    space.attach(Group(0)).expect("attach");
    let size = live * 2 * PAGE;
    let memory = UserRange::new(UserAddr(USER), size).expect("range");
    // SAFETY: addresses of a model, which touches no memory.
    let lease = unsafe { registry.register_raw(memory) }.expect("register");
    let request = WindowRequest::bytes(size).page(PageShift::P4K);
    let start = space.create_window(&request).expect("window").range.start().0;
    for i in 0..live {
        space.map(page(start, 2 * i), user(live, 2 * i), Permission::ReadWrite).expect("map");
    }
    (space, lease, start)
}

fn page(start: u64, at: u64) -> IovaRange {
    IovaRange::new(Iova(start + at * PAGE), PAGE).expect("range")
}

/// Scatters user addresses, so that neighbours do not merge.
fn user(live: u64, at: u64) -> UserAddr {
    UserAddr(USER + (2 * live - 1 - at) * PAGE)
}

fn main() {
    Table::head("live ranges", "space", "BTreeMap");
    for live in [1_000, 65_000, 1_000_000] {
        let (space, _lease, start) = space(live);
        let mut plain = Plain::default();
        for i in 0..live {
            plain.map(start + 2 * i * PAGE, PAGE, user(live, 2 * i).0);
        }
        let mut rng = fastrand::Rng::with_seed(live);
        let places: Vec<u64> = (0..4096).map(|_| rng.u64(..live)).collect();
        let (ours, theirs) = median_ns(
            places.len(),
            || {
                for &place in &places {
                    let at = page(start, 2 * place + 1);
                    space.map(at, user(live, 2 * place + 1), Permission::ReadWrite).expect("free");
                    space.unmap(at).expect("mapped");
                }
            },
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
    }
}
