//! Remembers windows that the kernel refused: each further attempt would lose locked memory again.

use super::Refusal;
use crate::addr::PageShift;
use std::collections::BTreeMap;

/// Windows the kernel refused to create, by group. They hold for the process: a failed creation
/// leaks each time, and the firmware's refusal lasts until reboot.
#[derive(Clone, Debug, Default)]
pub struct RefusedWindows(BTreeMap<u32, Refused>);

#[derive(Clone, Debug, Default)]
struct Refused {
    /// Whether the firmware failed a window, after which the kernel creates none.
    poisoned: bool,
    /// Pages, each with the smallest size refused.
    sizes: BTreeMap<PageShift, u64>,
}

impl RefusedWindows {
    /// Records that the kernel refused a window, or, if it `poisons`, will refuse all.
    pub fn remember(&mut self, group: u32, page: PageShift, size: u64, poisons: bool) {
        let refused = self.0.entry(group).or_default();
        refused.poisoned |= poisons;
        let least = refused.sizes.entry(page).or_insert(size);
        *least = size.min(*least);
    }

    /// Checks that such a window may be requested for a group.
    pub fn check(&self, group: u32, page: PageShift, size: u64) -> Result<(), Refusal> {
        match self.0.get(&group) {
            Some(refused) if refused.poisoned => Err(Refusal::Poisoned),
            Some(refused) if refused.sizes.get(&page).is_some_and(|&least| least <= size) => {
                Err(Refusal::RefusedBefore { size, page })
            }
            _ => Ok(()),
        }
    }
}
