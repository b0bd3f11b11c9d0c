//! A naive twin of MAP and UNMAP, page by page as in the kernel's loop, compared with the model's
//! runs.

use super::*;
use proptest::prelude::*;
use spapr_iommu::addr::UserRange;
use spapr_iommu::host::Errno;
use std::collections::BTreeMap;

const PAGE: u64 = 0x1000;
const BASE: u64 = 1 << 40;
/// Host pages of 64 KiB that may be registered, and IOMMU pages of the window that is checked.
const HOST_PAGES: u64 = 8;
const ENTRIES: u64 = 96;

#[derive(Clone, Copy, Debug)]
enum Step {
    Register { first: u64, count: u64 },
    Unregister { first: u64, count: u64 },
    Map { page: u64, entry: u64, count: u64 },
    Unmap { entry: u64, count: u64 },
}

#[derive(Default)]
struct Twin {
    /// Start, end and count of each region.
    regions: Vec<(u64, u64, u64)>,
    entries: BTreeMap<u64, u64>,
}

impl Twin {
    fn region(&mut self, user: u64) -> Option<&mut (u64, u64, u64)> {
        self.regions.iter_mut().find(|(start, end, _)| *start <= user && user + PAGE <= *end)
    }

    fn clear(&mut self, entry: u64) {
        if let Some(user) = self.entries.remove(&entry) {
            self.region(user).unwrap().2 -= 1;
        }
    }

    fn map(&mut self, user: u64, entry: u64, count: u64) -> Outcome {
        for i in 0..count {
            let here = user + i * PAGE;
            match self.region(here) {
                Some(region) => region.2 += 1,
                None => {
                    (entry..entry + i).for_each(|entry| self.clear(entry));
                    return Err(Errno::EINVAL);
                }
            }
            self.clear(entry + i);
            self.entries.insert(entry + i, here);
        }
        OK
    }

    fn register(&mut self, range: UserRange) -> Outcome {
        let (start, end) = (range.start().0, range.end().0);
        if self.regions.iter().any(|region| (region.0, region.1) == (start, end)) {
            return Err(Errno::EBUSY);
        }
        if self.regions.iter().any(|region| region.0 < end && start < region.1) {
            return Err(Errno::EINVAL);
        }
        self.regions.push((start, end, 0));
        OK
    }
}

fn step() -> impl Strategy<Value = Step> {
    let host = || (0..HOST_PAGES, 1..3u64);
    prop_oneof![
        2 => host().prop_map(|(first, count)| Step::Register { first, count }),
        1 => host().prop_map(|(first, count)| Step::Unregister { first, count }),
        4 => (0..HOST_PAGES * 16, 0..ENTRIES, 1..40u64).prop_map(|(page, entry, count)| Step::Map { page, entry, count }),
        2 => (0..ENTRIES, 1..40u64).prop_map(|(entry, count)| Step::Unmap { entry, count }),
    ]
}

/// Fewer under Miri, which is slow.
const STEPS: usize = if cfg!(miri) { 8 } else { 60 };

proptest! {
    #[test]
    fn runs_come_to_the_same_as_pages(steps in proptest::collection::vec(step(), 1..STEPS)) {
        let b = Fixture::on(model("pseries").with_open_memory(), &[0], 7);
        // Away from the rest, so that the container is enabled from the start.
        prop_assert_eq!(b.register(user(1 << 30, 0x10000)), OK);
        let mut twin = Twin::default();
        let host = |first, count| user(BASE + first * 16 * PAGE, count * 16 * PAGE);
        for step in steps {
            match step {
                Step::Register { first, count } => {
                    prop_assert_eq!(b.register(host(first, count)), twin.register(host(first, count)));
                }
                Step::Unregister { first, count } => {
                    let range = host(first, count);
                    let found = twin.regions.iter().position(|r| (r.0, r.1) == (range.start().0, range.end().0));
                    // Mapped memory would be lost, which a test of its own shows.
                    if found.is_some_and(|at| twin.regions[at].2 != 0) {
                        continue;
                    }
                    let expected = found.map(|at| { twin.regions.remove(at); }).ok_or(Errno::ENOENT).and(OK);
                    prop_assert_eq!(b.unregister(range), expected);
                }
                Step::Map { page, entry, count } => {
                    let user = BASE + page * PAGE;
                    let expected = twin.map(user, entry, count);
                    prop_assert_eq!(b.map(spapr_iommu::addr::UserAddr(user), entry * PAGE, count * PAGE), expected);
                }
                Step::Unmap { entry, count } => {
                    (entry..entry + count).for_each(|entry| twin.clear(entry));
                    prop_assert_eq!(b.unmap(entry * PAGE, count * PAGE), OK);
                }
            }
            let pages = b.entries(0).into_iter().flat_map(|(iova, len, user)| {
                (0..len / PAGE).map(move |i| (iova / PAGE + i, user + i * PAGE))
            });
            prop_assert_eq!(pages.collect::<BTreeMap<_, _>>(), twin.entries.clone());
            for (start, end, mapped) in &twin.regions {
                prop_assert_eq!(b.mapped(user(*start, end - start)), *mapped);
            }
        }
        prop_assert_eq!(b.violations(), []);
        b.close_all();
        prop_assert_eq!(b.model.locked(), 0);
    }
}
