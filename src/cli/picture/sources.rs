//! What pictures are drawn of: a scenario's report, a plan, a snapshot of a process.

use super::{Memory, Region, Run, Space, Window, amount};
use crate::plan::{self, Estimate};
use crate::scenario::{self, Tables};
use spapr_iommu::inspect::Snapshot;
use std::collections::BTreeMap;

/// Where the picture places each memory of a scenario, whose real address differs in each run.
const APART: u32 = 48;

/// Addresses for places such as `ram+0x1000`.
#[derive(Default)]
struct Places(BTreeMap<String, u64>);

impl Places {
    /// Returns the address of a place, the name of its memory, and the offset in it.
    fn find(&mut self, place: &str) -> (u64, Option<(String, u64)>) {
        let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        match place.rsplit_once('+').and_then(|(name, offset)| Some((name, number(offset)?))) {
            Some((name, offset)) => {
                let next = (self.0.len() as u64 + 1) << APART;
                let base = *self.0.entry(name.to_owned()).or_insert(next);
                (base.saturating_add(offset), Some((name.to_owned(), offset)))
            }
            None => (number(place).unwrap_or(0), None),
        }
    }
}

impl Memory {
    /// Returns the contents of a scenario's tables.
    pub fn of_tables(tables: &Tables, title: &str, about: String) -> Self {
        let mut places = Places::default();
        let region = |(start, name), size| Region { start, size, name };
        let regions = tables.registered.iter().map(|row| region(places.find(&row.memory), row.size)).collect();
        let mut spaces: BTreeMap<&str, Space> = BTreeMap::new();
        for group in &tables.groups {
            spaces.entry(&group.space).or_default();
        }
        for row in &tables.windows {
            spaces.entry(&row.space).or_default().windows.push(window(row));
        }
        for row in &tables.maps {
            let (user, _) = places.find(&row.memory);
            let (iova, size, access) = (address(&row.iova), row.size, row.access.clone());
            spaces.entry(&row.space).or_default().runs.push(Run { iova, size, user, access });
        }
        let spaces = spaces.into_iter().map(|(name, space)| Space { name: name.into(), ..space }).collect();
        Self { title: title.into(), about, spaces, regions }
    }
}

fn window(row: &scenario::WindowRow) -> Window {
    let name = row.name.as_ref().map_or_else(|| row.origin.clone(), |name| format!("{name:?}"));
    let pending = if row.levels.is_none() { ", pending" } else { "" };
    let note = format!("{name}{pending}");
    Window { start: address(&row.start), size: row.size, page: row.page, note }
}

fn address(text: &str) -> u64 {
    text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

/// Start of a dynamic window with all known firmware; a plan does not say.
const FIRMWARE: u64 = 1 << 59;

impl Memory {
    /// Returns the windows of a plan and the memory that is mapped in them at the start.
    pub fn of_plan(estimate: &Estimate, title: &str) -> Self {
        let locked = estimate.locked;
        let [registered, tables] = [locked.registered, locked.tables].map(amount);
        let about = format!("Would lock {registered} for memory and {tables} for tables");
        let name = match estimate.containers {
            1 => "planned".to_owned(),
            containers => format!("planned, in each of {containers} containers"),
        };
        let start = |window: &plan::WindowRow| window.start.unwrap_or(FIRMWARE);
        let windows = estimate.windows.iter().map(|window| {
            let note = if window.start.is_some() { window.name } else { "by firmware" };
            Window { start: start(window), size: window.size, page: window.page, note: note.to_owned() }
        });
        // A window maps the memory from its start.
        let mapped = estimate.windows.iter().filter(|window| window.mapped != 0);
        let runs =
            mapped.map(|window| Run { iova: start(window), size: window.mapped, user: 0, access: "rw".to_owned() });
        let space = Space { name, windows: windows.collect(), runs: runs.collect(), more_runs: 0 };
        let memory = Region { start: 0, size: locked.registered, name: Some(("memory".to_owned(), 0)) };
        Self { title: title.to_owned(), about, spaces: vec![space], regions: vec![memory] }
    }
}

impl From<&Snapshot> for Memory {
    fn from(snapshot: &Snapshot) -> Self {
        let guests = snapshot.guests.iter().flat_map(|guest| guest.phbs.iter().map(|phb| &phb.space));
        let spaces = snapshot.spaces.iter().chain(guests).map(|space| Space {
            name: space.name.clone(),
            windows: space
                .windows
                .iter()
                .map(|window| {
                    let pending = if window.levels.is_none() { ", pending" } else { "" };
                    let note = format!("{}{pending}", window.origin);
                    Window { start: window.start, size: window.size, page: window.page, note }
                })
                .collect(),
            runs: space
                .maps
                .rows
                .iter()
                .map(|row| Run { iova: row.iova, size: row.size, user: row.user, access: row.access.clone() })
                .collect(),
            more_runs: space.maps.runs.saturating_sub(space.maps.rows.len() as u64),
        });
        let regions = &snapshot.regions.rows;
        let (process, locked) = (&snapshot.process, snapshot.host.as_ref().and_then(|host| host.locked));
        Self {
            title: format!("Process {} ({})", process.pid, process.name),
            about: locked.map(|locked| format!("{} locked", amount(locked.bytes))).unwrap_or_default(),
            spaces: spaces.collect(),
            regions: regions.iter().map(|row| Region { start: row.user, size: row.size, name: None }).collect(),
        }
    }
}
