//! Takes a snapshot: each lock for a moment, long maps in pieces.

use super::report::*;
use super::{MAX_ROWS, MAX_SUBJECTS, Subjects};
use crate::addr::{Iova, UserAddr};
use crate::guest::{self, HcallStats};
use crate::host::call_counts;
use crate::map::Mapping;
use crate::registry::{self, RegionId, RegionStatus};
use crate::space;
use crate::stats::Refusals;
use crate::window::{DEFAULT_PAGE, DefaultWindow, Origin, Window, WindowFacts, locked_bytes};
use std::time::Duration;

/// Rows read with a lock held: some microseconds.
const PIECE: usize = 512;
/// How long a snapshot waits for a space while a kernel call runs.
const PATIENCE: Duration = Duration::from_millis(500);
/// Interval at which that wait checks whether to stop.
const SLICE: Duration = Duration::from_millis(10);

/// A snapshot being taken.
struct Taking<'a> {
    query: &'a Query,
    /// Mapped runs that may still be listed.
    room: usize,
    /// Whether the server is about to end, so that the rest is no longer needed.
    ends: &'a dyn Fn() -> bool,
}

/// Takes a snapshot.
pub(super) fn take(subjects: &Subjects, query: &Query, ends: &dyn Fn() -> bool) -> Snapshot {
    let mut taking = Taking { query, room: MAX_ROWS, ends };
    let spaces = subjects.spaces.lock().clone();
    let guests = subjects.guests.lock().clone();
    let (spaces, guests): (Vec<_>, Vec<_>) = (
        spaces.into_iter().filter(|(_, space)| space.is_alive()).collect(),
        guests.into_iter().filter(|(_, guest)| guest.is_alive()).collect(),
    );
    let more_subjects = spaces.len().saturating_sub(MAX_SUBJECTS) + guests.len().saturating_sub(MAX_SUBJECTS);
    let registry = &subjects.registry;
    Snapshot {
        version: VERSION,
        process: process(),
        host: registry.host().map(host),
        calls: call_counts()
            .map(|count| Calls { name: count.name.into(), calls: count.calls, failed: count.failed })
            .collect(),
        registrations: registry.stats().map(|stats| Registrations {
            registers: stats.registers,
            registered: stats.registered,
            refusals: refusals(&stats.refusals),
        }),
        regions: taking.regions(registry),
        spaces: spaces.iter().take(MAX_SUBJECTS).map(|(name, space)| taking.space(name, space)).collect(),
        guests: guests.iter().take(MAX_SUBJECTS).map(|(name, guest)| taking.guest(name, guest)).collect(),
        more_subjects,
    }
}

fn process() -> Process {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    Process { pid: std::process::id(), name: super::cut(name.trim_end()) }
}

fn host(host: registry::HostStatus) -> HostRow {
    let locked = host.memlock.map(|memlock| Locked {
        bytes: memlock.locked,
        limit: memlock.limit,
        unlimited: memlock.unlimited,
    });
    HostRow { platform: host.platform.map(|platform| platform.to_string()), page: host.page.bytes(), locked }
}

fn refusals(refusals: &Refusals) -> Vec<Refusal> {
    refusals.iter().map(|(code, count)| Refusal { code: code.into(), count }).collect()
}

fn hypercalls(stats: &HcallStats) -> Hypercalls {
    Hypercalls {
        gets: stats.gets,
        puts: stats.puts,
        indirects: stats.indirects,
        stuffs: stats.stuffs,
        tces: stats.tces,
        refusals: refusals(&stats.refusals),
    }
}

fn region(status: &RegionStatus) -> RegionRow {
    RegionRow {
        user: status.range.start().0,
        size: status.range.len(),
        max_iommu_page: status.max_iommu_page.bytes(),
        leases: status.leases,
        mapped: status.mapped,
        containers: status.containers,
    }
}

fn map(mapping: &Mapping<RegionId>) -> MapRow {
    MapRow {
        iova: mapping.iova.start().0,
        size: mapping.iova.len(),
        user: mapping.user.0,
        access: mapping.permission.to_string(),
    }
}

fn window(facts: Option<&WindowFacts>, window: &Window) -> WindowRow {
    let locked = facts.map_or(0, |facts| locked_bytes(facts, window.page, window.range.len(), window.levels));
    WindowRow {
        start: window.range.start().0,
        size: window.range.len(),
        page: window.page.bytes(),
        levels: Some(window.levels),
        origin: window.origin.to_string(),
        locked,
        mapped: 0,
    }
}

impl Taking<'_> {
    fn regions(&self, registry: &registry::Watched) -> Regions {
        let mut regions = Regions::default();
        let most = self.query.regions.min(MAX_ROWS);
        let mut at = UserAddr(0);
        loop {
            let piece = registry.regions_from(at, PIECE);
            for status in &piece {
                regions.count += 1;
                regions.bytes += status.range.len();
                if status.range.end().0 <= self.query.regions_from {
                    continue;
                }
                if regions.rows.len() < most {
                    regions.rows.push(region(status));
                } else if regions.next.is_none() {
                    regions.next = Some(status.range.start().0);
                }
            }
            match piece.last() {
                Some(last) if piece.len() == PIECE && !(self.ends)() => at = last.range.end(),
                _ => return regions,
            }
        }
    }

    /// Waits for groups and windows while a kernel call for the space runs.
    fn windows(&self, watched: &space::Watched) -> Option<space::WatchedWindows> {
        let slices = PATIENCE.as_millis() / SLICE.as_millis();
        (0..slices).filter(|_| !(self.ends)()).find_map(|_| watched.windows(SLICE))
    }

    fn space(&mut self, name: &str, watched: &space::Watched) -> Space {
        let read = self.windows(watched);
        let mut space = Space { name: name.into(), busy: read.is_none() && watched.is_alive(), ..Space::default() };
        if let Some(read) = read {
            let groups = read.groups.iter();
            space.groups = groups.map(|at| GroupRow { group: at.group.0, container: at.container }).collect();
            space.default = read.default.to_string();
            space.stale = read.stale;
            space.windows = read.windows.iter().map(|at| window(read.facts.as_ref(), at)).collect();
            let pending = read.facts.and_then(|facts| facts.default).filter(|_| read.default == DefaultWindow::Pending);
            space.windows.extend(pending.map(|range| WindowRow {
                start: range.start().0,
                size: range.len(),
                page: DEFAULT_PAGE.bytes(),
                origin: Origin::Default.to_string(),
                ..WindowRow::default()
            }));
            space.windows.sort_by_key(|window| window.start);
        }
        let is_asked = self.query.space.as_ref().is_none_or(|asked| asked == name);
        self.maps(watched, is_asked, &mut space);
        space.calls = watched.stats().map(|stats| SpaceCalls {
            maps: stats.maps,
            mapped: stats.mapped,
            unmaps: stats.unmaps,
            unmapped: stats.unmapped,
            map_refusals: refusals(&stats.map_refusals),
            unmap_refusals: refusals(&stats.unmap_refusals),
        });
        space
    }

    /// Reads all mapped runs, to sum up what is mapped in each window, and lists some.
    fn maps(&mut self, watched: &space::Watched, is_asked: bool, space: &mut Space) {
        let most = if is_asked { self.query.maps.min(self.room) } else { 0 };
        let maps = &mut space.maps;
        let mut piece = Vec::with_capacity(PIECE);
        let mut at = Iova(0);
        loop {
            piece.clear();
            watched.mappings_from(at, PIECE, &mut piece);
            for mapping in &piece {
                let (start, len) = (mapping.iova.start().0, mapping.iova.len());
                maps.runs += 1;
                maps.bytes += len;
                let holds = |window: &&mut WindowRow| start.wrapping_sub(window.start) < window.size;
                if let Some(window) = space.windows.iter_mut().find(holds) {
                    window.mapped += len;
                }
                if !is_asked || mapping.iova.end().0 <= self.query.from {
                    continue;
                }
                if maps.rows.len() < most {
                    maps.rows.push(map(mapping));
                } else if maps.next.is_none() {
                    maps.next = Some(start);
                }
            }
            match piece.last() {
                Some(last) if piece.len() == PIECE && !(self.ends)() => at = last.iova.end(),
                _ => break,
            }
        }
        self.room -= maps.rows.len();
    }

    fn guest(&mut self, name: &str, watched: &guest::Watched) -> Guest {
        let slots = watched.slots();
        let (phbs, all_phbs) = watched.phbs(MAX_SUBJECTS);
        Guest {
            name: name.into(),
            all_slots: slots.len(),
            slots: slots
                .iter()
                .take(MAX_ROWS)
                .map(|(slot, unplugging)| SlotRow {
                    guest: slot.guest.start().0,
                    size: slot.guest.len(),
                    user: slot.user.0,
                    unplugging: *unplugging,
                })
                .collect(),
            phbs: phbs.into_iter().map(|phb| self.phb(name, phb)).collect(),
            all_phbs,
            without_window: watched.without_table().map(|stats| hypercalls(&stats)).unwrap_or_default(),
        }
    }

    fn phb(&mut self, guest: &str, phb: guest::PhbStatus) -> PhbRow {
        let buid = phb.config.buid;
        PhbRow {
            buid,
            groups: phb.groups.map(|groups| groups.iter().map(|group| group.0).collect()),
            windows: phb
                .tables
                .iter()
                .map(|table| GuestWindow {
                    liobn: table.liobn.0.into(),
                    start: table.window.start().0,
                    size: table.window.len(),
                    page: table.page.bytes(),
                    entries: table.entries.map(|entries| TceCount { count: entries.count, all: entries.all }),
                })
                .collect(),
            hypercalls: hypercalls(&phb.stats),
            space: self.space(&format!("{guest} {buid:#x}"), &phb.space),
        }
    }
}
