//! The one path of maps to the kernel, with roll-back.
//!
//! Nothing else calls MAP or UNMAP, except for the UNMAP that creates the default window
//! (`windows`). Requests that arrive here have been checked: each lies in a live window, is aligned
//! and registered, and is pinned in the registry.
//!
//! A mapping that devices may still reach although it is not in the map, because the UNMAP that
//! should have undone it failed, is stale: it stays pinned, and its UNMAP is retried before the
//! next change.

use super::{NotRestored, State};
use crate::addr::{IovaRange, PageShift, UserAddr};
use crate::host::calls::{self, CallError};
use crate::host::{Fd, Host};
use crate::map::Mapping;
use crate::permission::Permission;
use crate::registry::{RegionId, Registry};

/// Largest number of TCEs in one MAP or UNMAP: the kernel does not reschedule within a MAP.
const MAX_ENTRIES: u64 = 256 << 10;
/// An UNMAP spans holes of up to this many TCEs instead of being split.
const BRIDGED_ENTRIES: u64 = 512;

/// A stretch of bus addresses that continues in user memory: one MAP, if it is short enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub iova: IovaRange,
    pub user: UserAddr,
    pub permission: Permission,
    pub page: PageShift,
}

impl Run {
    /// Returns this run extended by `next`, if `next` continues it.
    pub(super) fn joined(&self, next: &Self) -> Option<Self> {
        let continues = self.iova.end() == next.iova.start()
            && self.user.0.checked_add(self.iova.len()) == Some(next.user.0)
            && self.permission == next.permission
            && self.page == next.page;
        let iova = IovaRange::between(self.iova.start(), next.iova.end())?;
        continues.then_some(Self { iova, ..*self })
    }

    fn of(mapping: &Mapping<RegionId>, page: PageShift) -> Self {
        Self { iova: mapping.iova, user: mapping.user, permission: mapping.permission, page }
    }
}

/// How a change failed.
pub(super) enum ApplyError {
    /// The kernel refused; everything is as before.
    Refused(CallError),
    /// The kernel refused, and also refused to undo.
    NotRestored(NotRestored),
}

#[allow(unsafe_code, reason = "user addresses pass through")]
fn map_run(host: &dyn Host, container: Fd, run: &Run) -> Result<(), CallError> {
    for piece in run.iova.chunks(MAX_ENTRIES << run.page.get()) {
        // Does not overflow: the run's user memory is registered, so it does not wrap.
        let user = UserAddr(run.user.0.wrapping_add(piece.start().0 - run.iova.start().0));
        // SAFETY: the registry pinned it for this run while it was leased, and the kernel maps what
        // was pinned.
        unsafe { calls::map_dma(host, container, user, piece, run.permission) }?;
    }
    Ok(())
}

fn unmap_range(host: &dyn Host, container: Fd, range: IovaRange, page: PageShift) -> Result<(), CallError> {
    range.chunks(MAX_ENTRIES << page.get()).try_for_each(|piece| calls::unmap_dma(host, container, piece))
}

/// Maps `runs` in all `containers`. `displaced` holds the mappings there now: the kernel overwrites
/// them silently and clears them on failure; they are then restored.
pub(super) fn map(
    host: &dyn Host,
    containers: &[Fd],
    runs: &[Run],
    displaced: &[Mapping<RegionId>],
) -> Result<(), ApplyError> {
    for (reached, &container) in containers.iter().enumerate() {
        for (done, run) in runs.iter().enumerate() {
            let Err(cause) = map_run(host, container, run) else { continue };
            let mut undo = Undo::new(host, displaced);
            for &container in &containers[..reached] {
                runs.iter().for_each(|run| undo.run(container, run));
            }
            runs[..=done].iter().for_each(|run| undo.run(container, run));
            return Err(undo.finish(cause));
        }
    }
    Ok(())
}

/// Removes `mapped`, which is in order and in windows with `page`, from all `containers`.
pub(super) fn unmap(
    host: &dyn Host,
    containers: &[Fd],
    mapped: &[Mapping<RegionId>],
    page: PageShift,
) -> Result<(), ApplyError> {
    for (reached, &container) in containers.iter().enumerate() {
        let Err(cause) = clear(host, container, mapped, page) else { continue };
        let mut undo = Undo::new(host, mapped);
        for &container in &containers[..=reached] {
            mapped.iter().for_each(|mapping| undo.run(container, &Run::of(mapping, page)));
        }
        return Err(undo.finish(cause));
    }
    Ok(())
}

/// UNMAPs in one container with few calls: spanning a small hole costs less than another call.
pub(super) fn clear(
    host: &dyn Host,
    container: Fd,
    mapped: &[Mapping<RegionId>],
    page: PageShift,
) -> Result<(), CallError> {
    let mut pending: Option<IovaRange> = None;
    for mapping in mapped {
        let bridged = pending.and_then(|range| {
            let hole = mapping.iova.start().0 - range.end().0;
            (hole <= BRIDGED_ENTRIES << page.get()).then(|| IovaRange::between(range.start(), mapping.iova.end()))?
        });
        if bridged.is_none()
            && let Some(range) = pending
        {
            unmap_range(host, container, range, page)?;
        }
        pending = bridged.or(Some(mapping.iova));
    }
    pending.map_or(Ok(()), |range| unmap_range(host, container, range, page))
}

/// Maps all of `mapped` in one container that has none of it: one that joins, or whose tables the
/// kernel cleared. Neighbours become one call. After a failure the rest is still tried; returns
/// what could not be mapped.
pub(super) fn replay(
    host: &dyn Host,
    container: Fd,
    mapped: impl Iterator<Item = (Mapping<RegionId>, PageShift)>,
) -> Result<(), NotRestored> {
    let mut failed: Option<NotRestored> = None;
    let mut send = |run: Run| {
        if let Err(cause) = map_run(host, container, &run) {
            failed.get_or_insert_with(|| NotRestored::new(cause)).lost.push(run.iova);
        }
    };
    let mut pending: Option<Run> = None;
    for (mapping, page) in mapped {
        let next = Run::of(&mapping, page);
        pending = match pending.take() {
            Some(run) => run.joined(&next).or_else(|| {
                send(run);
                Some(next)
            }),
            None => Some(next),
        };
    }
    if let Some(run) = pending {
        send(run);
    }
    failed.map_or(Ok(()), Err)
}

/// Restores the earlier mappings after a failure.
struct Undo<'a> {
    host: &'a dyn Host,
    before: &'a [Mapping<RegionId>],
    lost: Vec<IovaRange>,
    left: Vec<IovaRange>,
}

impl<'a> Undo<'a> {
    fn new(host: &'a dyn Host, before: &'a [Mapping<RegionId>]) -> Self {
        Self { host, before, lost: Vec::new(), left: Vec::new() }
    }

    /// Undoes `run` in one container, where it may be mapped in full, in part or not at all; the
    /// kernel does not say which.
    fn run(&mut self, container: Fd, run: &Run) {
        let stays = unmap_range(self.host, container, run.iova, run.page).is_err();
        let mut at = run.iova.start();
        for mapping in self.before.iter().filter_map(|mapping| mapping.clip(run.iova)) {
            if map_run(self.host, container, &Run::of(&mapping, run.page)).is_err() {
                self.lost.push(mapping.iova);
                continue;
            }
            // Restored mappings have replaced the failed ones there.
            self.left.extend(IovaRange::between(at, mapping.iova.start()).filter(|_| stays));
            at = mapping.iova.end();
        }
        self.left.extend(IovaRange::between(at, run.iova.end()).filter(|_| stays));
    }

    fn finish(mut self, cause: CallError) -> ApplyError {
        if self.lost.is_empty() && self.left.is_empty() {
            return ApplyError::Refused(cause);
        }
        // Each container reports the same runs.
        self.lost.sort();
        self.lost.dedup();
        let mut error = NotRestored { lost: self.lost, ..NotRestored::new(cause) };
        error.leaves(self.left);
        ApplyError::NotRestored(error)
    }
}

/// Stale mappings, each with its own pin. Two may lie at the same bus addresses: the kernel does
/// not say whether the old or the new one is in place.
#[derive(Debug, Default)]
pub(super) struct StaleMappings(Vec<Mapping<RegionId>>);

impl StaleMappings {
    pub(super) fn insert(&mut self, mapping: Mapping<RegionId>) {
        self.0.push(mapping);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Mapping<RegionId>> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first stale mapping in `range`, cut to it.
    pub(super) fn first_overlap(&self, range: IovaRange) -> Option<Mapping<RegionId>> {
        self.0.iter().find_map(|mapping| mapping.clip(range))
    }
}

/// Retries the UNMAP of stale mappings, and unpins those that are gone from all containers.
pub(super) fn clear_stale(registry: &Registry, state: &mut State) {
    if state.stale.is_empty() {
        return;
    }
    let host = registry.host().as_ref();
    for mapping in std::mem::take(&mut state.stale.0) {
        let page = state.windows.containing(mapping.iova).map_or(PageShift::P4K, |window| window.page);
        let failed = state
            .container_files
            .iter()
            .filter(|&&container| clear(host, container, &[mapping], page).is_err())
            .count();
        if failed == 0 {
            registry.unpin(&mut state.pinner, [(mapping.region, mapping.iova.len())].into_iter());
        } else {
            state.stale.insert(mapping);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Iova;

    fn run(iova: u64, len: u64, user: u64) -> Run {
        let iova = IovaRange::new(Iova(iova), len).unwrap();
        Run { iova, user: UserAddr(user), permission: Permission::ReadWrite, page: PageShift::P4K }
    }

    #[test]
    fn only_what_continues_is_joined() {
        let first = run(0, 0x1000, 0x10000);
        assert_eq!(first.joined(&run(0x1000, 0x1000, 0x11000)), Some(run(0, 0x2000, 0x10000)));
        assert_eq!(first.joined(&run(0x2000, 0x1000, 0x11000)), None);
        assert_eq!(first.joined(&run(0x1000, 0x1000, 0x12000)), None);
        assert_eq!(first.joined(&Run { permission: Permission::Read, ..run(0x1000, 0x1000, 0x11000) }), None);
    }
}
