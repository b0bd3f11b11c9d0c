//! Windows that the kernel refused: what is asked again is lost again.

use super::Refusal;
use crate::addr::PageShift;
use std::collections::BTreeMap;

/// What the kernel refused to create, by group. It holds for the process: a failed creation leaks each time, and the
/// firmware's refusal lasts until reboot.
#[derive(Clone, Debug, Default)]
pub struct RefusedWindows(BTreeMap<u32, Refused>);

#[derive(Clone, Debug, Default)]
struct Refused {
    /// The firmware failed a window: the kernel creates none any more.
    poisoned: bool,
    /// Pages, and the smallest size refused with each.
    sizes: BTreeMap<PageShift, u64>,
}

impl RefusedWindows {
    /// The kernel refused a window, or, where it `poisons`, will refuse all.
    pub fn remember(&mut self, group: u32, page: PageShift, size: u64, poisons: bool) {
        let refused = self.0.entry(group).or_default();
        refused.poisoned |= poisons;
        let least = refused.sizes.entry(page).or_insert(size);
        *least = size.min(*least);
    }

    /// Whether such a window may be asked for a group.
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
