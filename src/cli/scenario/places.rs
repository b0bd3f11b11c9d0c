//! Addresses of memory, shown by name: actual addresses differ from run to run.

use super::action::{Name, Protection};
use super::file::Memory as Wanted;
use super::value::{Offset, Size};
use spapr_iommu::addr::{PageShift, UserAddr, UserRange};
use spapr_iommu::host::{self, Errno, Memory};
use std::collections::{BTreeMap, HashMap};

/// Memory with a name.
#[derive(Debug)]
struct Named {
    name: String,
    range: UserRange,
}

/// All memory of a scenario.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// In the order of the file.
    all: Vec<Named>,
    by_name: HashMap<String, usize>,
    /// By the address it starts at.
    by_start: BTreeMap<u64, usize>,
}

impl From<Protection> for host::Protection {
    fn from(protection: Protection) -> Self {
        match protection {
            Protection::None => Self::None,
            Protection::R => Self::Read,
            Protection::Rw => Self::ReadWrite,
        }
    }
}

/// Memory that could not be allocated.
#[derive(Debug, thiserror::Error)]
#[error("cannot allocate memory {name:?} as requested: {errno}{}", hint(*.huge))]
pub struct NoMemory {
    name: String,
    huge: bool,
    errno: Errno,
}

fn hint(huge: bool) -> &'static str {
    if huge { " (are there free hugetlb pages of that size? see /sys/kernel/mm/hugepages)" } else { "" }
}

impl Places {
    /// Creates the table from existing memory with names.
    pub(super) fn known(memory: impl IntoIterator<Item = (String, UserRange)>) -> Self {
        let mut places = Self::default();
        memory.into_iter().for_each(|(name, range)| places.add(name, range));
        places
    }

    /// Allocates all memory of a scenario.
    pub(super) fn allocate(memory: &dyn Memory, page: PageShift, wanted: &[Wanted]) -> Result<Self, NoMemory> {
        let mut places = Self::default();
        for wanted in wanted {
            let name = wanted.name.get_ref().clone();
            let huge = wanted.page.map(|page| page.0).filter(|wanted| *wanted > page);
            let failed = |errno| NoMemory { name: name.clone(), huge: huge.is_some(), errno };
            let range = one(memory, page, huge, wanted.size.get_ref().0).map_err(failed)?;
            places.add(name.clone(), range);
            let part = |offset, size| places.part(&wanted.name, offset, Some(size)).ok_or(Errno::EINVAL);
            for hole in wanted.holes.iter().map(toml::Spanned::get_ref) {
                part(hole.offset, hole.size).and_then(|range| memory.free(range)).map_err(failed)?;
            }
            for protected in wanted.protect.iter().map(toml::Spanned::get_ref) {
                part(protected.offset, protected.size)
                    .and_then(|range| memory.protect(range, protected.access.into()))
                    .map_err(failed)?;
            }
        }
        Ok(places)
    }

    fn add(&mut self, name: String, range: UserRange) {
        let place = self.all.len();
        self.by_name.insert(name.clone(), place);
        self.by_start.insert(range.start().0, place);
        self.all.push(Named { name, range });
    }

    /// Returns a part of a memory, from `offset` on; `None` if it reaches past the end.
    pub(super) fn part(&self, name: &Name, Offset(offset): Offset, size: Option<Size>) -> Option<UserRange> {
        let Named { range, .. } = self.all.get(*self.by_name.get(name.get_ref())?)?;
        let start = range.start().0.checked_add(offset)?;
        let end = size.map_or(Some(range.end().0), |size| start.checked_add(size.0))?;
        UserRange::between(UserAddr(start), UserAddr(end)).filter(|part| range.contains_range(part))
    }

    /// Returns the place of the memory with that address, in the order of the file.
    fn place(&self, at: UserAddr) -> Option<usize> {
        let (_, place) = self.by_start.range(..=at.0).next_back()?;
        self.all.get(*place).is_some_and(|named| named.range.contains(at)).then_some(*place)
    }

    fn containing(&self, at: UserAddr) -> Option<&Named> {
        self.all.get(self.place(at)?)
    }

    /// Returns the position of the memory in the file, and the offset in it.
    pub(super) fn rank(&self, at: UserAddr) -> (usize, u64) {
        let found = self.place(at).and_then(|place| Some((place, at.0 - self.all.get(place)?.range.start().0)));
        found.unwrap_or((usize::MAX, at.0))
    }

    /// Formats an address by name.
    pub(super) fn show(&self, at: UserAddr) -> String {
        self.containing(at).map_or_else(|| at.to_string(), |named| named.show(at.0))
    }

    /// Replaces every address of this memory in a message by its name.
    ///
    /// A number is treated as a user address only where errors have one: a bus address may be the
    /// same number.
    pub(super) fn rewrite(&self, message: &str) -> String {
        const SAYS_SO: [&str; 4] = ["user ", "user address ", "vaddr=", "page around "];
        let mut out = String::with_capacity(message.len());
        let mut rest = message;
        let mut last: Option<&Named> = None;
        while let Some(at) = rest.find("0x") {
            let (before, number) = rest.split_at(at);
            let digits = number[2..].find(|c: char| !c.is_ascii_hexdigit()).map_or(number.len(), |end| end + 2);
            let value = u64::from_str_radix(&number[2..digits], 16).ok();
            // The end of a range is shown relative to the memory it starts in, though another may
            // begin there.
            let ending = last.filter(|named| before == "-" && value.is_some_and(|value| named.reaches(value)));
            let is_user = SAYS_SO.iter().any(|words| before.ends_with(words));
            last = ending.or_else(|| value.filter(|_| is_user).and_then(|value| self.containing(UserAddr(value))));
            out.push_str(before);
            match (last, value) {
                (Some(named), Some(value)) => out.push_str(&named.show(value)),
                _ => out.push_str(&number[..digits]),
            }
            rest = &number[digits..];
        }
        out + rest
    }
}

impl Named {
    fn reaches(&self, value: u64) -> bool {
        self.range.start().0 <= value && value <= self.range.end().0
    }

    fn show(&self, value: u64) -> String {
        format!("{}+{:#x}", self.name, value - self.range.start().0)
    }
}

/// Allocates one memory. A page that cannot be accessed follows ordinary memory, so that two
/// memories never become one region, in whichever order the host places them.
fn one(memory: &dyn Memory, page: PageShift, huge: Option<PageShift>, size: u64) -> Result<UserRange, Errno> {
    if let Some(huge) = huge {
        return memory.allocate(huge.ceil(size).ok_or(Errno::ENOMEM)?, huge);
    }
    let whole = page.ceil(size).ok_or(Errno::ENOMEM)?;
    let all = memory.allocate(whole.checked_add(page.bytes()).ok_or(Errno::ENOMEM)?, page)?;
    let guard = UserRange::between(UserAddr(all.start().0 + whole), all.end()).ok_or(Errno::EINVAL)?;
    memory.protect(guard, host::Protection::None)?;
    UserRange::new(all.start(), size).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_memory() {
        let range = |start, end| UserRange::between(UserAddr(start), UserAddr(end)).unwrap();
        let first = range(0x7000_0000_0000, 0x7000_0001_0000);
        let second = range(0x7000_0001_0000, 0x7000_0002_0000);
        let places = Places::known([("a".into(), first), ("b".into(), second)]);
        assert_eq!(
            places.rewrite(&format!("{first} and {second}: 0x10!")),
            "user a+0x0-a+0x10000 (64K) and user b+0x0-b+0x10000 (64K): 0x10!"
        );
        assert_eq!(places.rewrite("vaddr=0x700000010010 size=0x"), "vaddr=b+0x10 size=0x");
        for bus in ["IOVA 0x700000000000-0x700000000010", "user 0x99999999999999999999 ü", "start_addr=0x700000000000"]
        {
            assert_eq!(places.rewrite(bus), bus);
        }
    }
}
