//! The twin: what is leased, attached and mapped, and the expected result of each step.

use super::act::{Fixture, GROUPS, Outcome, SPACES};
use super::step::Step;
use spapr_iommu::addr::{IovaRange, UserRange};
use spapr_iommu::host::{Host, Platform};
use spapr_iommu::permission::Permission;
use spapr_iommu::space::{MapRequest, Overlap};
use spapr_iommu::window::Step as Planned;
use std::collections::BTreeMap;

/// The expected state of a space.
#[derive(Default)]
pub struct Space {
    pub runs: Runs,
    /// Groups, with the number of their open devices.
    pub groups: BTreeMap<u32, u32>,
}

pub struct Twin {
    pub spaces: Vec<Space>,
    pub leases: Vec<UserRange>,
    /// Whether no memory was changed and locked memory is not limited: then valid requests must
    /// work.
    intact: bool,
    /// Memory that was changed while it was leased, which the user must not do.
    pub breached: Vec<UserRange>,
}

impl Twin {
    /// Creates a twin with nothing attached, or with what the setup requires.
    pub fn new(fixture: &Fixture) -> Self {
        let spaces = (0..SPACES).map(|_| Space::default()).collect();
        let intact = fixture.setup.memlock.is_none();
        Self { spaces, leases: Vec::new(), intact, breached: Vec::new() }
    }

    /// Returns whether leases cover all of a stretch.
    fn is_leased(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            let Some(lease) = self.leases.iter().find(|lease| lease.start().0 <= at && at < lease.end().0) else {
                return false;
            };
            at = lease.end().0;
        }
        true
    }

    /// Checks the result of a step against the expected one, and applies the step.
    pub fn follow(&mut self, fixture: &Fixture, step: &Step, outcome: Outcome) {
        match (step, outcome) {
            (&Step::Attach { space, group }, Outcome::Attached(result)) => {
                let free = group < GROUPS - u32::from(fixture.setup.host_driver) && !self.is_attached(group);
                assert!(free || result.is_err(), "{step:?}");
                if let Err(error) = &result {
                    assert!(!free || !self.intact, "{step:?}: {error}");
                } else {
                    self.spaces[space].groups.insert(group, 0);
                }
            }
            (&Step::Beside { space, group, other }, Outcome::Attached(result)) => {
                let free = group < GROUPS - u32::from(fixture.setup.host_driver) && !self.is_attached(group);
                let there = self.spaces[space].groups.contains_key(&other);
                let powernv = fixture.setup.preset.platform() == Platform::Powernv;
                assert_eq!(result.is_ok(), free && there && powernv, "{step:?}: {result:?}");
                if result.is_ok() {
                    self.spaces[space].groups.insert(group, 0);
                }
            }
            (&Step::Detach { space, group }, Outcome::Detached(result)) => {
                let space = &mut self.spaces[space];
                assert_eq!(result.is_ok(), space.groups.get(&group) == Some(&0), "{step:?}: {result:?}");
                if result.is_ok() {
                    space.groups.remove(&group);
                    if space.groups.is_empty() {
                        *space = Space::default();
                    }
                }
            }
            (&Step::Renew { space }, Outcome::Renewed) => self.spaces[space] = Space::default(),
            (_, Outcome::Registered(parts, result)) => self.registered(fixture, step, parts, result),
            (_, Outcome::Released(at, result)) => self.released(at, result),
            (_, Outcome::Dropped(at)) => drop(self.leases.remove(at)),
            (&Step::Map { space, overlap, .. }, Outcome::Mapped(requests, result)) => match result {
                Ok(()) => self.mapped(space, &requests, overlap),
                Err(error) => {
                    let right = self.intact && self.is_right(fixture, space, &requests, overlap);
                    assert!(!right, "{step:?}: {error}");
                    self.not_the_kernels(&error.to_string(), step);
                }
            },
            (&Step::Unmap { space, .. }, Outcome::Unmapped(range, result)) => {
                let windows = fixture.space(space).status().windows;
                let held = |(window, _): &_| holds(window, range);
                assert_eq!(result.is_ok(), windows.iter().any(held), "{step:?}: {result:?}");
                if let Ok(bytes) = result {
                    let (start, end) = (range.start().0, range.end().0);
                    assert_eq!(bytes, self.spaces[space].runs.within(start, end), "{step:?}");
                    self.spaces[space].runs.remove(start, end);
                }
            }
            (&Step::UnmapAll { space }, Outcome::UnmappedAll(result)) => {
                result.unwrap();
                self.spaces[space].runs = Runs::default();
            }
            (_, Outcome::Made { plan, made, locked }) => match (plan, made) {
                (Ok(plan), Ok(window)) => {
                    let planned = (plan.window.page, plan.window.size);
                    assert_eq!((window.page, window.range.len()), planned, "{step:?}");
                    assert!(plan.window.start.is_none_or(|start| start == window.range.start()), "{step:?}");
                    let creates = matches!(plan.steps[..], [Planned::Create { .. }]);
                    assert!(!creates || locked == i128::from(plan.locked_bytes), "{step:?}: {locked} not as {plan:?}");
                }
                (Err(plan), Err(made)) => assert_eq!(plan.to_string(), made.to_string(), "{step:?}"),
                (plan, made) => panic!("{step:?}: {made:?} though planned {plan:?}"),
            },
            (_, Outcome::Windows(Err(error))) => self.not_the_kernels(&error.to_string(), step),
            (&Step::Device { space, group }, Outcome::Opened(result)) => {
                let count = self.spaces[space].groups.get_mut(&group);
                assert_eq!(result.is_ok(), count.is_some(), "{step:?}: {result:?}");
                count.into_iter().for_each(|count| *count += 1);
            }
            (_, Outcome::Closed { space, group }) => {
                self.spaces[space].groups.entry(group).and_modify(|count| *count -= 1);
            }
            (_, Outcome::Changed(range, result)) => self.changed(range, result.is_ok()),
            (Step::Protect { .. }, _) => self.intact = false,
            _ => {}
        }
    }

    fn is_attached(&self, group: u32) -> bool {
        self.spaces.iter().any(|space| space.groups.contains_key(&group))
    }

    /// Plans must prevent refusals by the kernel.
    fn not_the_kernels(&self, error: &str, step: &Step) {
        assert!(!self.intact || !error.contains(" failed with "), "the kernel refused {step:?}: {error}");
    }

    fn registered(
        &mut self,
        fixture: &Fixture,
        step: &Step,
        parts: Vec<UserRange>,
        result: Result<(), spapr_iommu::registry::RegisterError>,
    ) {
        let page = fixture.model.page_shift();
        let aligned = parts.iter().all(|part| part.is_aligned(page));
        match result {
            Ok(()) => {
                assert!(aligned, "{step:?}");
                self.leases.extend(parts);
            }
            Err(error) => {
                self.not_the_kernels(&error.to_string(), step);
                let there = |part: &UserRange| fixture.blocks.iter().any(|block| block.contains_range(part));
                // Memory that is still mapped though no lease covers it cannot be leased again.
                let loose = |part: &UserRange| !self.is_leased(part.start().0, part.end().0) && self.any_mapped();
                let right = aligned && parts.iter().all(|part| there(part) && !loose(part));
                assert!(!self.intact || !right, "{step:?}: {error}");
            }
        }
    }

    fn any_mapped(&self) -> bool {
        self.spaces.iter().any(|space| space.runs.bytes() > 0)
    }

    /// Returns the bus addresses that lead into memory that this lease alone covers.
    fn held_by(&self, lease: UserRange) -> Vec<(u64, u64)> {
        let mut alone = Runs::default();
        let (start, end) = (lease.start().0, lease.end().0);
        let permission = spapr_iommu::permission::Permission::Read;
        alone.insert(Run { iova: start, len: end - start, user: 0, permission, stale: false });
        self.leases.iter().for_each(|other| alone.remove(other.start().0, other.end().0));
        let runs = || self.spaces.iter().flat_map(|space| &space.runs.0);
        alone.0.iter().flat_map(|part| runs().filter_map(|run| run.seen(part.iova, part.iova + part.len))).collect()
    }

    fn released(&mut self, at: usize, result: Result<(), Vec<IovaRange>>) {
        let lease = self.leases.remove(at);
        let mut expected = self.held_by(lease);
        let mut mapped = result.as_ref().err().cloned().unwrap_or_default();
        expected.sort_unstable();
        mapped.sort();
        let flat = |ranges: &[(u64, u64)]| {
            let mut ends: Vec<_> = ranges.iter().flat_map(|&(at, len)| [(at, 1), (at + len, -1)]).collect();
            ends.sort_unstable();
            let mut depth: BTreeMap<u64, i32> = BTreeMap::new();
            ends.into_iter().for_each(|(at, change)| *depth.entry(at).or_default() += change);
            depth.retain(|_, change| *change != 0);
            depth
        };
        let found: Vec<_> = mapped.iter().map(|range| (range.start().0, range.len())).collect();
        assert_eq!(flat(&found), flat(&expected), "a release said where {lease} is mapped");
        assert_eq!(result.is_ok(), expected.is_empty());
        if result.is_err() {
            self.leases.push(lease);
        }
    }

    fn mapped(&mut self, space: usize, requests: &[MapRequest], overlap: Overlap) {
        for request in requests {
            let (iova, user, len) = (request.iova.start().0, request.user.0, request.iova.len());
            assert!(self.is_leased(user, user + len), "memory that is not leased was mapped: {request:?}");
            let runs = &mut self.spaces[space].runs;
            assert!(overlap == Overlap::Replace || runs.within(iova, iova + len) == 0, "{request:?}");
            runs.remove(iova, iova + len);
            runs.insert(Run { iova, len, user, permission: request.permission, stale: false });
        }
    }

    /// Returns whether requests must work: whole pages of an existing window, to leased memory that
    /// can serve them.
    fn is_right(&self, fixture: &Fixture, space: usize, requests: &[MapRequest], overlap: Overlap) -> bool {
        let windows = fixture.space(space).status().windows;
        let apart = |a: &MapRequest, b: &MapRequest| a.iova.intersection(&b.iova).is_none();
        let disjoint = requests.iter().enumerate().all(|(i, a)| requests[..i].iter().all(|b| apart(a, b)));
        let right = |request: &MapRequest| {
            let (iova, user, len) = (request.iova, request.user.0, request.iova.len());
            let window = windows.iter().find(|(window, _)| holds(window, iova));
            let fits = window
                .is_some_and(|(window, _)| window.page <= fixture.model.page_shift() && user & window.page.mask() == 0);
            let free = self.spaces[space].runs.within(iova.start().0, iova.end().0) == 0;
            let leased = user.checked_add(len).is_some_and(|end| self.is_leased(user, end));
            fits && leased && (free || overlap == Overlap::Replace)
        };
        disjoint && requests.iter().all(right)
    }

    fn changed(&mut self, range: UserRange, done: bool) {
        self.intact = false;
        if done {
            let (start, end) = (range.start().0, range.end().0);
            self.spaces.iter_mut().for_each(|space| space.runs.spoil(start, end));
            let leased = self.leases.iter().filter_map(|lease| lease.intersection(&range));
            self.breached.extend(leased);
        }
    }
}

/// Returns whether a range is whole pages of a window.
fn holds(window: &spapr_iommu::window::Window, range: IovaRange) -> bool {
    window.range.contains_range(&range) && range.is_aligned(window.page)
}

/// A stretch of bus addresses that leads to a stretch of user memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub iova: u64,
    pub len: u64,
    pub user: u64,
    pub permission: Permission,
    /// Whether the user has changed the memory since.
    pub stale: bool,
}

impl Run {
    /// Returns the part of it in `start..end`.
    fn cut(&self, start: u64, end: u64) -> Option<Self> {
        let (from, to) = (self.iova.max(start), (self.iova + self.len).min(end));
        (from < to).then(|| Self { iova: from, len: to - from, user: self.user + (from - self.iova), ..*self })
    }

    /// Returns the bus addresses that lead to `start..end` of user memory: first and length.
    pub fn seen(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let (from, to) = (self.user.max(start), (self.user + self.len).min(end));
        (from < to).then(|| (self.iova + (from - self.user), to - from))
    }
}

#[derive(Clone, Debug, Default)]
pub struct Runs(pub Vec<Run>);

impl Runs {
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|run| run.len).sum()
    }

    /// Returns the bytes mapped in `start..end`.
    pub fn within(&self, start: u64, end: u64) -> u64 {
        self.0.iter().filter_map(|run| run.cut(start, end)).map(|run| run.len).sum()
    }

    pub fn remove(&mut self, start: u64, end: u64) {
        self.0 = self.0.iter().flat_map(|run| [run.cut(0, start), run.cut(end, u64::MAX)]).flatten().collect();
    }

    pub fn insert(&mut self, run: Run) {
        self.0.push(run);
    }

    /// Marks what leads to `start..end` of user memory as changed.
    pub fn spoil(&mut self, start: u64, end: u64) {
        for run in std::mem::take(&mut self.0) {
            let Some((iova, len)) = run.seen(start, end) else {
                self.0.push(run);
                continue;
            };
            let middle = run.cut(iova, iova + len).map(|part| Run { stale: true, ..part });
            self.0.extend([run.cut(0, iova), middle, run.cut(iova + len, u64::MAX)].into_iter().flatten());
        }
    }

    /// Returns them in order, with those joined that continue each other.
    pub fn joined(&self) -> Vec<Stretch> {
        joined(self.0.iter().map(|run| (run.iova, run.len, run.user, run.permission)))
    }
}

/// Bus address, length, user address, permission.
pub type Stretch = (u64, u64, u64, Permission);

/// Returns them in order, with those joined that continue each other.
pub fn joined(stretches: impl Iterator<Item = Stretch>) -> Vec<Stretch> {
    let mut sorted: Vec<_> = stretches.collect();
    sorted.sort_by_key(|stretch| stretch.0);
    let mut all: Vec<Stretch> = Vec::new();
    for stretch in sorted {
        match all.last_mut() {
            Some(last) if (last.0 + last.1, last.2 + last.1, last.3) == (stretch.0, stretch.2, stretch.3) => {
                last.1 += stretch.1;
            }
            _ => all.push(stretch),
        }
    }
    all
}
