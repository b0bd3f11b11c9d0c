//! Pictures of a scenario's report.

use super::{Memory, Region, Run, Space, Window};
use crate::scenario::{Tables, WindowRow};
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

fn window(row: &WindowRow) -> Window {
    let name = row.name.as_ref().map_or_else(|| row.origin.clone(), |name| format!("{name:?}"));
    let pending = if row.levels.is_none() { ", pending" } else { "" };
    let note = format!("{name}{pending}");
    Window { start: address(&row.start), size: row.size, page: row.page, note }
}

fn address(text: &str) -> u64 {
    text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}
