//! Guesses the size of the guest's memory, some of which the trace shows.

use super::timeline::{Step, Timeline};

/// Least memory a guest is given, bytes.
const LEAST: u64 = 16 << 20;

/// Returns the smallest power of two, in bytes, that holds every page and list of the trace; at
/// least 16 MiB.
pub(super) fn guess(timeline: &Timeline) -> u64 {
    let ends = timeline.steps.iter().filter_map(|located| {
        let window = timeline.windows.get(located.window?)?;
        let page = |tce: u64| window.page.floor(tce).checked_add(window.page.bytes());
        match located.step {
            Step::Put { tce, ret: 0, .. } if tce & 3 != 0 => page(tce),
            Step::Indirect { list, count, tce, ret: 0, .. } => {
                let last = if tce & 3 != 0 { page(tce)? } else { 0 };
                Some(list.checked_add(count * 8)?.max(last))
            }
            Step::Translate { target, permission: 1.., .. } => page(target),
            _ => None,
        }
    });
    let end = ends.max().unwrap_or(0).max(LEAST);
    end.checked_next_power_of_two().unwrap_or(1 << 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Trace;
    use spapr_iommu::addr::{Iova, IovaRange};

    fn guess_of(text: &str) -> u64 {
        let trace = Trace::from_text(text.as_bytes(), Trace::MAX_EVENTS, |_| ()).unwrap();
        guess(&Timeline::new(&trace, IovaRange::new(Iova(0), 1 << 30).unwrap()).unwrap())
    }

    #[test]
    fn memory_is_what_holds_all_that_is_seen() {
        let put = "spapr_iommu_pci_put liobn=0x80000000 ioba=0x1000 tce=0x1ffff003 ret=0\n";
        assert_eq!(guess_of(put), 512 << 20);
        assert_eq!(guess_of(&put.replace("0x1ffff003", "0x20000003")), 1 << 30);
        assert_eq!(guess_of(&put.replace("0x1ffff003", "0x20000000")), LEAST, "no rights, no memory");
        let list = "spapr_iommu_pci_indirect liobn=0x80000000 ioba=0x0 tcelist=0x3fff000 iobaN=0x1ff tceN=0x0 ret=0\n";
        assert_eq!(guess_of(list), 64 << 20);
        assert_eq!(guess_of(&put.replace("0x1ffff003", "0xfffffffffffff003")), LEAST, "that is no address of RAM");
    }
}
